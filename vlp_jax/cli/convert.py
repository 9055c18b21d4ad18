"""`convert IN OUT --arch=NAME [--to=open_clip|hf|mae|blip|torchvision|diffusers]`: released
checkpoints in and out, offline, without PyTorch.

IN is a file or folder of a known family (interop/families), or, with --to, one of our folders or
training runs. The file exists as the command's parser.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from vlp_jax.cli.output import add_json, print_json
from vlp_jax.parallel.startup import first_process, start_jax


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="python -m vlp_jax convert",
        description="Converts checkpoints between open_clip, Hugging Face (transformers and"
        " diffusers), facebookresearch/mae, torchvision and vlp_jax; reads single files of Stable"
        " Diffusion.",
    )
    cli.add_argument(
        "input",
        metavar="IN",
        help="open_clip, Hugging Face, OpenAI or Stable Diffusion file or folder (of diffusers the"
        " one with model_index.json, or a network's own), a vlp_jax folder or workdir",
    )
    cli.add_argument(
        "output",
        metavar="OUT",
        help="folder to write (or a .safetensors file with --to=open_clip, mae or blip)",
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
        help="format of OUT: vlp_jax (default), open_clip, hf, mae (the names of"
        " facebookresearch/mae, which timm's ViT reads), blip (those of salesforce/BLIP),"
        " torchvision (a ResNet's trunk), diffusers,"
        " lora (a run's adapters alone, as diffusers' file) or learned_embeds (new words alone)",
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
    cli.add_argument(
        "--dtype",
        default="",
        help="float32, bfloat16 or float16 of the written networks; default: as IN",
    )
    cli.add_argument(
        "--lora", action="append", default=[], metavar="F[:STRENGTH]",
        help="a LoRA file of diffusers (or kohya), folded into the weights; more than once adds up",
    )  # fmt: skip
    add_json(cli)
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Raises UserError: see api/convert.py."""
    args = parser().parse_args(argv)
    from vlp_jax.api.convert import convert
    from vlp_jax.api.lora import strengths

    start = time.perf_counter()
    start_jax()
    if not first_process():  # nothing to share: one process converts
        return 0
    report = convert(
        args.input,
        args.output,
        args.arch,
        to=args.to,
        image_size=args.image_size,
        tokenizer=args.tokenizer,
        weights=args.weights,
        dtype=args.dtype,
        lora=strengths(args.lora),
    )
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
