"""`forward --checkpoint=C --fn=NAME --inputs=IN.npz --out=OUT.npz [--set KEY=VALUE]`: any function
of a checkpoint on arrays.

IN.npz holds arrays under the names of the fields that the function reads (pictures uint8[B, S, S,
3] of the model's size or, where the list says H and W, of any, ids int32[B, T] used exactly as
given, masks bool or 0 and 1, absent: all real); what only another function reads is left alone.
OUT.npz gets its leaves under their paths joined by `/`, a lone array as `out`. Without
--fn it lists the functions. The file exists so that numbers are compared
with a reference's from the command line.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from vlp_jax.cli.output import add_json, add_sharding, folder_or_file, print_json, purpose, told


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="python -m vlp_jax forward",
        description=purpose(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli.add_argument(
        "--checkpoint",
        type=folder_or_file,
        required=True,
        metavar="DIR",
        help="a converted checkpoint or a training workdir",
    )
    cli.add_argument("--fn", metavar="NAME", help="the function; without it they are listed")
    cli.add_argument("--inputs", type=folder_or_file, metavar="IN.npz", help="arrays to read")
    cli.add_argument("--out", type=folder_or_file, metavar="OUT.npz", help="file to write")
    cli.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the function; may be given again",
    )
    add_sharding(cli)
    add_json(cli)
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Raises UserError as api/forward.py."""
    args = parser().parse_args(argv)
    from vlp_jax.api.forward import list_functions, run_file
    from vlp_jax.core.errors import UserError

    if not args.fn and (args.inputs or args.out or args.set):
        raise UserError("--fn: is missing; without --inputs, --out and --set it lists the names")
    if not args.fn:
        report = list_functions(args.checkpoint, args.sharding)
        for name, parts in report["functions"].items():
            told(described(name, parts))
    elif not args.inputs or not args.out:
        raise UserError(f"--fn={args.fn}: needs --inputs=IN.npz and --out=OUT.npz")
    else:
        report = run_file(args.checkpoint, args.fn, args.inputs, args.out, args.set, args.sharding)
        arrays = ", ".join(f"{name} {kind}" for name, kind in report["arrays"].items())
        told(f"{args.fn}: {arrays} -> {args.out}")
    if args.json:
        print_json(report)
    return 0


def described(name: str, parts: Mapping[str, Any]) -> str:
    """A function in lines: what it reads, writes and takes."""
    lines = [name]
    for verb in ("reads", "writes"):
        for array, what in parts[verb].items():
            optional = " (may be left out)" if what["optional"] else ""
            lines.append(f"  {verb:<8}{array:<16}{what['text']}{optional}")
    lines += [f"  --set   {key}={value}" for key, value in parts["options"].items()]
    return "\n".join(lines)
