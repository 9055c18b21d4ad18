"""`sample --checkpoint=C --prompt=TEXT --out=DIR`: pictures that a model draws.

DIR gets a PNG for every prompt and seed, PROMPT_SEED.png, with all its settings as JSON under the
key `settings` of its metadata and the prompt as PROMPT_SEED.txt beside it (so that DIR is data to
train on); samples.jsonl with the same of all, and contact_sheet.png. The same command goes on where
it stopped. Models that draw without prompts take none; classes are given by number. The file exists
so that pictures can be drawn without Python.
"""

import argparse
from collections.abc import Sequence

from vlp_jax.cli.output import add_json, add_sharding, folder_or_file, print_json, purpose


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="python -m vlp_jax sample",
        description=purpose(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, path = cli.add_argument, {"type": folder_or_file, "metavar": "PATH"}
    add("--checkpoint", required=True, **path, help="a converted checkpoint or a workdir")
    add("--out", required=True, **path, help="the folder to write")
    add("--prompt", metavar="TEXT", help="what to draw, or the number of a class")
    add("--prompts", default="", **path, help="a file with one prompt a line instead")
    add("--negative", metavar="TEXT", help="what shall not be seen")
    add("--image", **path, help="a picture to start from (with --strength), or to paint in")
    add("--strength", type=float, help="how far to go from --image, 0 to 1; often 0.8")
    add("--mask", **path, help="a picture that is white where --image is painted over")
    add("--control", action="append", default=[], **path,
        help="a control map; one for each control, in order; others add nothing")  # fmt: skip
    add("--picture", action="append", default=[], dest="pictures", metavar="NAME:FILE",
        help="another picture that the model reads, as low:FILE, depth:FILE, map:FILE")  # fmt: skip
    add("--with", action="append", default=[], dest="parts", metavar="NAME:CHECKPOINT",
        help="a part of another checkpoint, added or in place of one, as control:DIR")  # fmt: skip
    add("--lora", action="append", default=[], metavar="FILE:SCALE",
        help="an adapter on the weights, at a scale (default 1); may be repeated")  # fmt: skip
    add("--sampler", help="ddim, ddpm, dpm_solver, euler, heun, ...; default the model's")
    add("--steps", type=int, help="of the sampler; default 50")
    add("--guidance", type=float, help="1: the prompt alone; default 7.5")
    add("--set", action="append", default=[], dest="words", metavar="KEY=VALUE",
        help="another option of the model's generate_image (`forward` lists them)")  # fmt: skip
    add("--seed", type=int, default=0, help="of every prompt's first picture; default 0")
    add("--n", type=int, default=1, help="pictures of each prompt, with seeds that follow")
    add("--size", default="", metavar="HxW", help="pixels; default the picture's or the model's")
    add("--batch-size", type=int, default=8, help="pictures at once; default 8")
    add_sharding(cli)
    add_json(cli)
    return cli


GIVEN = ("negative", "image", "mask")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Raises UserError as api/sample.py draw."""
    flags = vars(parser().parse_args(argv))
    as_json = flags.pop("json")
    from vlp_jax.api.sample import FLAGS, Request, draw
    from vlp_jax.core.errors import count_of

    given = {name: flags.pop(name) for name in GIVEN}
    how = {key: value for key in FLAGS if (value := flags.pop(key)) is not None}
    report = draw(Request(given=given, how=how, **flags))
    if report:
        kept = f", {report['kept']} of them were there" if report["kept"] else ""
        print(f"{count_of(report['pictures'], 'picture')} -> {report['out']}{kept}")
    if as_json:
        print_json(report)
    return 0
