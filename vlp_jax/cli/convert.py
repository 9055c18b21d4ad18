"""`convert IN OUT --arch=NAME [--to=open_clip|hf|mae]`: released checkpoints in and out, offline,
without PyTorch.

IN is an open_clip or Hugging Face file or folder, OpenAI's TorchScript archive, or (with --to) one
of our folders or training runs. The file exists to join the name maps of interop/ with the models.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from vlp_jax.cli.output import add_json, print_json
from vlp_jax.parallel.startup import first_process, start_jax

FORMATS = ("vlp_jax", "open_clip", "hf", "mae")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="python -m vlp_jax convert",
        description="Converts checkpoints between open_clip, Hugging Face, facebookresearch/mae"
        " and vlp_jax.",
    )
    cli.add_argument(
        "input",
        metavar="IN",
        help="open_clip, Hugging Face or OpenAI file or folder, a vlp_jax folder or workdir",
    )
    cli.add_argument(
        "output",
        metavar="OUT",
        help="folder to write (or a .safetensors file with --to=open_clip or --to=mae)",
    )
    cli.add_argument(
        "--arch",
        default="",
        help="architecture under open_clip's name, e.g. ViT-B-32; default: what the config beside"
        " the weights says",
    )
    cli.add_argument(
        "--to",
        default="vlp_jax",
        help="format of OUT: vlp_jax (default), open_clip, hf, or mae (the names of"
        " facebookresearch/mae, which timm's ViT reads)",
    )
    cli.add_argument(
        "--image-size", type=int, default=0, metavar="N",
        help="resize a ViT's position embeddings to pictures of N pixels, as its library does",
    )  # fmt: skip
    cli.add_argument(
        "--tokenizer",
        default="",
        help="tokenizer.json, spm:FILE, clip or bytes; default: found beside IN",
    )
    cli.add_argument(
        "--weights",
        default="",
        help="raw or ema, where IN holds both; default: a run's average, a file's raw weights",
    )
    add_json(cli)
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Raises:
      UserError: unknown --arch or --to, an input that is refused or does not fit (every mismatch is
        listed), an
        output that is in the way.
    """
    args = parser().parse_args(argv)
    from vlp_jax.core.errors import UserError, nearest
    from vlp_jax.interop.wrapped import CHOICES

    if args.to not in FORMATS:
        raise UserError(f"--to: unknown format {args.to!r}{nearest(args.to, FORMATS)}")
    if args.weights not in ("", *CHOICES):
        raise UserError(f"--weights: unknown {args.weights!r}{nearest(args.weights, CHOICES)}")
    start = time.perf_counter()
    start_jax()
    if not first_process():  # nothing to share: one process converts
        return 0
    report = _import(args) if args.to == "vlp_jax" else _export(args)
    report["seconds"] = round(time.perf_counter() - start, 2)
    for note in report["notes"]:
        print(f"note: {note}", file=sys.stderr)
    print(
        f"{report['arch']}: {report['tensors']} tensors, {report['parameters']:,} parameters"
        f" -> {args.output}"
    )
    print(f"proven: {report['proof']}")
    if args.json:
        print_json(report)
    return 0


def _import(args: argparse.Namespace) -> dict[str, Any]:
    """A released checkpoint to our folder."""
    from vlp_jax.interop import folder

    folder.check_writable(args.output)
    arrays, manifest, notes, files = _read_any(args)
    folder.write_folder(args.output, arrays, manifest, files)
    try:
        from vlp_jax.api.model import load_converted

        load_converted(args.output)
    except Exception:
        folder.remove(args.output)
        raise
    proof = (
        "mapped back it is the input bit for bit; the written folder gives the golden embeddings"
    )
    return _report(args, arrays, manifest, notes, proof)


def _export(args: argparse.Namespace) -> dict[str, Any]:
    """One of our folders, or any input, to another library's files."""
    from vlp_jax.api import export

    export.check_writable(args.output, args.to)
    arrays, manifest, notes, files = _read_any(args)
    notes += export.write(args.output, args.to, arrays, manifest | _loadable(manifest, files))
    proof = "the written weights, read back, are ours bit for bit"
    if args.to != "mae":
        proof += "; what its library builds of the written config is ours, switch by switch"
    return _report(args, arrays, manifest, notes, proof)


def _loadable(manifest: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """The manifest's tokenizer under the name of the file that it is."""
    spec = manifest.get("tokenizer", {"name": ""})
    name = spec["name"].removeprefix("spm:")
    prefix = "spm:" if spec["name"].startswith("spm:") else ""
    return {"tokenizer": {**spec, "name": prefix + files.get(name, name)}}


def _report(
    args: argparse.Namespace, arrays: Mapping, manifest: Mapping, notes: list[str], proof: str
) -> dict[str, Any]:
    return {
        "input": args.input,
        "output": args.output,
        "to": args.to,
        "arch": manifest["arch"],
        "source": manifest["source"],
        "tensors": len(arrays),
        "parameters": sum(
            array.size for path, array in arrays.items() if not path.startswith("batch_stats/")
        ),
        "notes": notes,
        "proof": proof,
    }


def _read_run(args: argparse.Namespace) -> tuple[dict, dict[str, Any], list[str], dict[str, str]]:
    """The newest checkpoint of a training workdir, for another library."""
    import numpy as np

    from vlp_jax.api.model import load_workdir
    from vlp_jax.core.errors import UserError
    from vlp_jax.core.pytree import flatten

    if args.to == "vlp_jax":
        raise UserError(f"{args.input}: is a training run, which every command opens as it is")
    model = load_workdir(args.input, average=args.weights != "raw")
    averaged = model.config["ema_decay"] > 0
    if args.weights == "ema" and not averaged:
        raise UserError(f"--weights=ema: {args.input} keeps no average (ema_decay=0)")
    notes = []
    if averaged and not args.weights:
        notes = ["the moving average is taken; --weights=raw takes the weights themselves"]
    arrays = {path: np.asarray(a) for path, a in flatten({**model.params, **model.extra}).items()}
    manifest = {
        "arch": args.arch or f"step {model.config['step']}",
        "source": "workdir",
        "method": model.config["method"],
        "preprocessing": model.preprocessing,
        "tokenizer": model.tokenizer_spec,
    }
    return arrays, manifest, notes, {}


def _read_any(args: argparse.Namespace) -> tuple[dict, dict[str, Any], list[str], dict[str, str]]:
    """Returns (arrays, manifest, notes, {name: file to copy})."""
    from vlp_jax.core.errors import UserError
    from vlp_jax.interop import folder

    if folder.is_folder(args.input):
        from vlp_jax.api.weights import tokenizer_name

        arrays, manifest = folder.read_folder(args.input)
        if args.arch and args.arch != manifest["arch"]:
            raise UserError(f"--arch: {args.input} holds {manifest['arch']}, not {args.arch}")
        if args.to == "vlp_jax":
            raise UserError(f"{args.input}: is converted already; give --to=open_clip, hf or mae")
        spec = dict(manifest["tokenizer"])
        spec["name"] = tokenizer_name(args.input, spec["name"])
        return arrays, {**manifest, "tokenizer": spec}, [], {}
    if os.path.isdir(os.path.join(args.input, "checkpoints")):
        return _read_run(args)
    from vlp_jax.api.released import read_released

    return read_released(args.input, args.arch, args.image_size, args.tokenizer, args.weights)
