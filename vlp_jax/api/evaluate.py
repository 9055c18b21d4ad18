"""A training run or a converted checkpoint on the evaluators of a config.

The file exists so that a released model and one's own are measured alike, from a notebook too.
"""

from pathlib import Path
from typing import Any

BARE = {  # for evaluators that need no model
    "evals": {},
    "eval_batch_size": 64,
    "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
    "sharding": "replicated",
}


def eval_config(checkpoint: str, spec: str | None, overrides: dict[str, str], only: str) -> Any:
    """The config to evaluate by: the given one, else the workdir's own, and without a checkpoint
    what the overrides say; `only` picks evaluators by name.

    Raises:
      UserError: no config to be had, or it names no evaluator.
    """
    from ml_collections import ConfigDict

    from vlp_jax.api.config import FRESH, load_config, override
    from vlp_jax.core.errors import UserError, nearest, no_download
    from vlp_jax.train.workdir import read_config

    folder = checkpoint.removeprefix(FRESH)
    if checkpoint and not Path(folder).is_dir():
        raise UserError(f"--checkpoint: {folder}: no such folder{no_download(folder)}")
    is_workdir = bool(checkpoint) and (Path(folder) / "config.json").is_file()
    if spec:
        config = load_config(spec, overrides)
        if not config.data.path and is_workdir:
            with config.unlocked():  # evaluators that refer to it follow
                config.data.path = read_config(folder)["data"]["path"]
        config = config.copy_and_resolve_references()
    elif is_workdir or not checkpoint:
        config = ConfigDict(read_config(folder) if is_workdir else BARE)
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


def evaluate(checkpoint: str, config: Any, sharding: str = "") -> tuple[dict[str, Any], float]:
    """Runs the evaluators. Returns ({name: Result}, the factor of the cosines).

    checkpoint: "": no model, for evaluators that need none.
    sharding: a preset for the weights (see load_model); "" is the config's.
    """
    from dataclasses import replace

    from vlp_jax.api.config import FRESH
    from vlp_jax.api.model import load_model
    from vlp_jax.api.networks import opener
    from vlp_jax.api.placement import choose_mesh
    from vlp_jax.api.weights import scale_of
    from vlp_jax.core.fields import Text
    from vlp_jax.parallel.mesh import ALL_DEVICES
    from vlp_jax.train.evaluate import eval_context, make_evaluators, run_evaluators
    from vlp_jax.train.functions import Embedder

    preset = sharding or config.sharding
    shape = config.mesh.to_dict()
    shape = None if shape == ALL_DEVICES else shape  # then the preset says how they split
    mesh, size = choose_mesh(preset, shape), config.eval_batch_size
    if not checkpoint:
        context = eval_context(None, {"image_size": 0}, size, mesh)
        context = replace(context, network=opener(preset, shape, size))
        return run_evaluators(make_evaluators(config.evals.to_dict(), context, None), {}), 1.0
    model = load_model(checkpoint, preset, shape)
    fields = model.method.fields()
    texts = {name: field for name, field in fields.items() if isinstance(field, Text)}
    tokenizers = {name: model.tokenizer(field.tokenizer) for name, field in texts.items()}
    masked = "text" in texts and texts["text"].mask
    context = eval_context(tokenizers.get("text"), model.preprocessing, size, mesh, masked)
    context = replace(context, network=opener(preset, shape, size), tokenizers=tokenizers)
    trained = trained_on(checkpoint.removeprefix(FRESH))
    evaluators = make_evaluators(config.evals.to_dict(), context, model.method, trained)
    fns = Embedder(model.method, mesh).bind(model.params, model.extra)
    results = run_evaluators(evaluators, fns, None if checkpoint.startswith(FRESH) else trained)
    return results, scale_of(model.method, model.params)


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
      scale: the factor of the cosines, for the softmax of the heat map.
      metrics: a metrics.jsonl to draw the training curve from.
    """
    from vlp_jax.report.gallery import draw_results
    from vlp_jax.report.results import to_json, write_json, write_markdown

    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw_results(results, str(folder), scale, metrics)
    write_json(str(folder / "report.json"), to_json(results))
    write_markdown(str(folder / "report.md"), title, results, pictures)
