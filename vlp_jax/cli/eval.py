"""`eval`: a training workdir or a converted checkpoint on the evaluators of a config.

The same compiled, sharded functions as during training. The file exists so that a released model
and one's own are measured by one command.
"""

import argparse
from pathlib import Path
from typing import Any

EPILOG = """examples:
  python -m vlp_jax eval --checkpoint=runs/mine --config=configs/clip/folder.py --json
  python -m vlp_jax eval --checkpoint=OUT --config=configs/clip/openai.py
  --config.evals.imagenet.path=DIR --out=report
only the config's `evals`, `eval_batch_size` and `mesh` are used; without --config a workdir's own
are, and evaluators on the training data find a workdir's data by themselves."""


def parser() -> argparse.ArgumentParser:
    """The flags of `eval`."""
    from vlp_jax.cli.output import add_json, folder_or_file

    p = argparse.ArgumentParser(
        "vlp_jax eval",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--checkpoint",
        type=folder_or_file,
        required=True,
        metavar="DIR",
        help="a converted checkpoint, a training workdir, or fresh:WORKDIR: its untrained model",
    )
    p.add_argument("--config", metavar="FILE.py[:ARGS]", help="config whose `evals` are run")
    p.add_argument("--only", default="", help="comma-separated names of evaluators to run")
    p.add_argument(
        "--out",
        type=folder_or_file,
        metavar="DIR",
        help="write report.json, report.md and pictures here",
    )
    p.add_argument("--debug", action="store_true", help="show tracebacks")
    add_json(p)
    return p


def main(argv: list[str]) -> int:
    """Runs the command.

    Raises:
      UserError: a mistake in the config, the checkpoint or the data, before anything is compiled.
    """
    from vlp_jax.cli.config import split_overrides

    rest, overrides = split_overrides(argv)
    args = parser().parse_args(rest)
    config = eval_config(args.checkpoint, args.config, overrides, args.only)
    from vlp_jax.cli.output import check_writable, first_process, print_json, start_jax
    from vlp_jax.evals.report import print_results, to_json

    if args.out:
        check_writable("--out", args.out)
    start_jax()
    results, scale = evaluate(args.checkpoint, config)
    if first_process():
        print_results(results)
    if args.out and first_process():
        write_report(results, Path(args.out), args.checkpoint, scale)
    if args.json:
        print_json({"checkpoint": args.checkpoint, "eval": to_json(results)})
    return 0


def eval_config(checkpoint: str, spec: str | None, overrides: dict[str, str], only: str) -> Any:
    """The config to evaluate by: the given one, else the workdir's own; `only` picks evaluators by
    name.

    Raises:
      UserError: no config to be had, or it names no evaluator.
    """
    from ml_collections import ConfigDict

    from vlp_jax.cli.config import FRESH, load_config, override
    from vlp_jax.core.errors import UserError, nearest
    from vlp_jax.train.workdir import read_config

    folder = checkpoint.removeprefix(FRESH)
    if not Path(folder).is_dir():
        raise UserError(f"--checkpoint: {folder}: no such folder")
    is_workdir = (Path(folder) / "config.json").is_file()
    if spec:
        config = load_config(spec, overrides)
        if not config.data.path and is_workdir:
            with config.unlocked():  # evaluators that refer to it follow
                config.data.path = read_config(folder)["data"]["path"]
        config = config.copy_and_resolve_references()
    elif is_workdir:
        config = ConfigDict(read_config(folder))
        for key, value in overrides.items():
            override(config, key, value)
    else:
        raise UserError(
            f"--config: needed, since --checkpoint={checkpoint} is not a training workdir"
        )
    names = [name for name in only.split(",") if name] or list(config.evals)
    for name in names:
        if name not in config.evals:
            raise UserError(f"--only={name}: no such evaluator{nearest(name, config.evals)}")
    if not names:
        raise UserError("the config has no `evals`; see configs/clip/quickstart.py for an example")
    config.unlock()
    config.evals = ConfigDict({name: config.evals[name] for name in names})
    return config


def evaluate(checkpoint: str, config: Any) -> tuple[dict[str, Any], float]:
    """Runs the evaluators. Returns ({name: Result}, exp(logit_scale))."""
    import jax
    import numpy as np

    from vlp_jax.cli.checkpoint import load_model
    from vlp_jax.cli.config import FRESH
    from vlp_jax.parallel.mesh import make_mesh, replicated
    from vlp_jax.train.evaluate import Embedder, eval_context, make_evaluators, run_evaluators

    mesh = make_mesh(dict(config.mesh))
    model = load_model(checkpoint)
    tokenizer = model.tokenizer() if "text" in model.method.batch_spec(1) else None
    context = eval_context(tokenizer, model.preprocessing, config.eval_batch_size, mesh)
    trained = trained_on(checkpoint.removeprefix(FRESH))
    evaluators = make_evaluators(config.evals.to_dict(), context, model.method, trained)
    params, extra = jax.device_put((model.params, model.extra), replicated(mesh))
    fns = Embedder(model.method, mesh).bind(params, extra)
    results = run_evaluators(evaluators, fns, None if checkpoint.startswith(FRESH) else trained)
    return results, float(np.exp(model.params.get("logit_scale", 0.0)))


def trained_on(checkpoint: str) -> Any:
    """The data that a workdir's model is trained on; unknown of a converted one."""
    from vlp_jax.train.trained import Trained
    from vlp_jax.train.workdir import read_config, read_run

    if not (Path(checkpoint) / "checkpoints").is_dir():
        return Trained()
    data, run = read_config(checkpoint)["data"], read_run(Path(checkpoint))
    known = run.get("holdout_edge", 0), run.get("data_digest", "")
    return Trained(data["path"], data.get("holdout", 0.0), *known)


def write_report(
    results: dict[str, Any], folder: Path, title: str, scale: float, metrics: str = ""
) -> None:
    """Writes report.json, report.md and the pictures that the results can be drawn as.

    Args:
      results: {name: Result}.
      folder: created.
      title: heading of the page.
      scale: exp(logit_scale), for the softmax of the heat map.
      metrics: a metrics.jsonl to draw the training curve from.
    """
    from vlp_jax.evals.gallery import draw_results
    from vlp_jax.evals.report import to_json, write_json, write_markdown

    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw_results(results, str(folder), scale, metrics)
    write_json(str(folder / "report.json"), to_json(results))
    write_markdown(str(folder / "report.md"), title, results, pictures)
