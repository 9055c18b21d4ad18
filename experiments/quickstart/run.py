"""`make quickstart`: trains a small CLIP on one emoji style and measures it on what it has never
seen.

Writes runs/quickstart/report.json, report.md and pictures. The file exists as the shortest whole
use of the package: a config, `train`, the evaluators, the report.
"""

import argparse
import importlib.util
import shutil
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECALLS = ("i2t_r1", "i2t_r10", "t2i_r1", "t2i_r10")


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = argparse.ArgumentParser(description=__doc__, epilog="config keys: --config.KEY=VALUE")
    p.add_argument("--workdir", default="runs/quickstart", help="folder of the run and its report")
    p.add_argument(
        "--keep", action="store_true", help="resume an earlier run instead of starting over"
    )
    p.add_argument("--json", action="store_true", help="print the report as the last line")
    return p


def summary(results: dict, seconds: float) -> dict:
    """The numbers of report.json: recalls and accuracies as fractions, each beside chance."""
    report: dict = {"seconds": round(seconds, 1)}
    for name in ("cross_style", "heldout_concepts"):
        metrics = results[name].metrics
        report[name] = {"n": results[name].protocol["images"]}
        report[name] |= {key: metrics[key] for key in RECALLS}
        report[name] |= {f"chance_{key}": metrics[f"chance_{key}"] for key in RECALLS}
    zeroshot = {}
    for name in ("category", "subcategory"):
        metrics = results[name].metrics
        zeroshot[f"{name}_top1"] = metrics["top1"]
        zeroshot[f"chance_{name}_top1"] = metrics["chance_top1"]
        zeroshot[f"majority_{name}_top1"] = metrics["majority_top1"]
    cross = report["cross_style"]
    report["cross_style_times_chance"] = cross["i2t_r1"] / cross["chance_i2t_r1"]
    return {**report, "zeroshot": zeroshot}


def main(argv: list[str]) -> int:
    """Trains, evaluates, writes the report."""
    start = time.monotonic()
    sys.path.insert(0, str(ROOT))
    from vlp_jax.api.config import load_config, split_overrides
    from vlp_jax.api.train import train
    from vlp_jax.core.strict_json import dumps
    from vlp_jax.parallel.startup import start_jax
    from vlp_jax.report.gallery import draw_results
    from vlp_jax.report.results import print_results, write_json, write_markdown
    from vlp_jax.serve.build import Request, build_index
    from vlp_jax.train.lock import locked

    rest, overrides = split_overrides(argv)
    args = parser().parse_args(rest)
    config = load_config(str(ROOT / "configs/clip/quickstart.py"), overrides)
    workdir = Path(args.workdir)
    if not args.keep:
        with locked(workdir):  # refused while another one trains there
            shutil.rmtree(workdir, ignore_errors=True)
    start_jax()
    outcome = train(config, workdir)
    results = outcome.results
    print_results(results)
    pictures = draw_results(results, str(workdir), outcome.scale, str(workdir / "metrics.jsonl"))
    report = summary(results, time.monotonic() - start)
    write_json(str(workdir / "report.json"), report)
    intro = (
        "Trained on one drawing style of emoji (Noto, training concepts only), tested on another "
        "style (Twemoji). "
        f"Cross-style image-to-text R@1 is {report['cross_style_times_chance']:.0f} times chance."
    )
    write_markdown(str(workdir / "report.md"), "Quickstart", results, pictures, intro)
    print(f"report: {workdir / 'report.md'}, {len(pictures)} pictures beside it")
    if importlib.util.find_spec("pyarrow"):  # of the extra `search`
        build_index(Request(str(workdir), "builtin:emoji/twemoji", str(workdir / "index")))
        print(f"search these emoji on a page: python -m vlp_jax serve --index={workdir / 'index'}")
    if args.json:
        print(dumps(report), flush=True)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from vlp_jax.core.ending import program
    from vlp_jax.core.memory import use_huge_pages

    use_huge_pages()
    program(main, sys.argv[1:])
