"""`embed --checkpoint=OUT --images=DIR --texts=FILE --out=E.npz`: pictures and lines of text to
unit vectors; also of one picture (`--images=x.jpg`) and of texts themselves (`--texts='a cat,a
dog'`).

E.npz holds image float32[N, E] and image_paths [N] (relative to DIR, sorted) and, where the model
has a text tower, text float32[M, E], texts [M] (one per line of FILE) and logit_scale (the factor
of the dot product, exponential taken). A model without a joint space (MAE, SimCLR, a classifier, a
pretext task) gives its features, each row divided by its norm. The file exists so that anything
outside this package can use a model's space.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vlp_jax.cli.output import add_json, check_writable, folder_or_file, print_json
from vlp_jax.parallel.startup import first_process, start_jax


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="python -m vlp_jax embed", description="Embeds pictures and texts."
    )
    cli.add_argument(
        "--checkpoint",
        type=folder_or_file,
        required=True,
        metavar="DIR",
        help="a converted checkpoint or a training workdir",
    )
    cli.add_argument(
        "--images",
        type=folder_or_file,
        metavar="DIR",
        help="folder of pictures, searched recursively, or one picture",
    )
    cli.add_argument(
        "--texts",
        type=folder_or_file,
        metavar="FILE",
        help="UTF-8 file, one text per line, or texts with commas between (text towers only)",
    )
    cli.add_argument(
        "--out", type=folder_or_file, required=True, metavar="FILE.npz", help="file to write"
    )
    cli.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="rows per call (default 32)"
    )
    cli.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="picture decoders"
    )
    cli.add_argument(
        "--skip-damaged",
        action="store_true",
        help="leave unreadable pictures out instead of stopping",
    )
    add_json(cli)
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Raises:
      UserError: nothing to embed, a missing folder or file, an unreadable picture (named), a
        checkpoint that does not prove itself, texts for a model without a text tower, a tokenizer
        that does not fit.
    """
    args = parser().parse_args(argv)
    paths = lone_image(args) or list_images(args.images, args.skip_damaged)
    texts = read_texts(args.texts)
    _check(args)
    start = time.perf_counter()

    from vlp_jax.api.model import load_model

    start_jax()
    result = embed(load_model(args.checkpoint), args, paths, texts)
    if not first_process():
        return 0
    write_npz(args.out, result)
    images = len(result.get("image", ()))
    report = {
        "out": args.out,
        "images": images,
        "skipped": len(paths) - images,
        "texts": len(texts),
        "dim": next(result[side].shape[1] for side in ("image", "text") if side in result),
        "seconds": round(time.perf_counter() - start, 2),
    }
    print(
        f"{report['images']} pictures and {report['texts']} texts,"
        f" {report['dim']} numbers each -> {args.out}"
    )
    if args.json:
        print_json(report)
    return 0


def _check(args: argparse.Namespace) -> None:
    from vlp_jax.core.errors import UserError

    if args.images is None and args.texts is None:
        raise UserError("nothing to embed: give --images=DIR, --texts=FILE or both")
    if args.batch_size < 1 or args.threads < 1:
        raise UserError("--batch-size and --threads must be at least 1")
    if not args.out.endswith(".npz"):
        raise UserError(f"--out: {args.out}: must end with .npz")
    if not os.path.isdir(os.path.dirname(os.path.abspath(args.out))):
        raise UserError(f"--out: {os.path.dirname(args.out)}: no such folder")
    check_writable("--out", os.path.dirname(os.path.abspath(args.out)))


def lone_image(args: argparse.Namespace) -> list[str]:
    """[its name] where --images is one file, whose folder then takes its place; else []."""
    if not args.images or not os.path.isfile(args.images):
        return []
    args.images, name = os.path.split(os.path.abspath(args.images))
    return [name]


def list_images(folder: str | None, skip_damaged: bool = False) -> list[str]:
    """Sorted paths of pictures below a folder, relative to it, by the rule of `data/walk.py`; what
    it lists as lost is among them where it is to be skipped and counted.

    Raises:
      UserError: there are none; something is lost.
    """
    from vlp_jax.core.errors import UserError
    from vlp_jax.data.walk import told, walk

    if folder is None:
        return []
    if not os.path.isdir(folder):
        raise UserError(f"--images: {folder}: no such file or folder")
    found = walk(folder)
    left = f"; left out: {told(found.left_out)}" if found.left_out else ""
    if left and found.pictures:
        print(f"{folder}: {len(found.pictures)} pictures{left}", file=sys.stderr)
    if not found.pictures and not found.lost:
        raise UserError(f"--images: {folder}: holds no pictures{left}")
    if found.lost and not skip_damaged:
        name, reason = next(iter(found.lost.items()))
        raise UserError(f"--images: {name}: {reason} (--skip-damaged leaves it out)")
    return sorted((*found.pictures, *found.lost))


def read_texts(path: str | None) -> list[str]:
    """Lines of a UTF-8 file; row i of the result belongs to line i. What is neither a file nor
    looks like one (a suffix or a slash, and no space) is texts with commas between. Raises
    UserError when there are none."""
    from vlp_jax.core.errors import UserError
    from vlp_jax.data.encoding import read_text

    if path is None:
        return []
    named = re.fullmatch(r"\S*(/\S*|\.[a-zA-Z]{2,5})", path)
    if path.strip(" ,") and not named and not os.path.exists(path):
        return [text.strip() for text in path.split(",") if text.strip()]
    try:
        lines = read_text(path).split("\n")
    except UserError as error:
        raise UserError(f"--texts: {error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise UserError(f"--texts: {path}: holds no text")
    return [line.rstrip("\r") for line in lines]


def embed(
    model: Any, args: argparse.Namespace, paths: list[str], texts: list[str]
) -> dict[str, Any]:
    """The arrays of the file by name (see the top). Raises UserError as `main`."""
    import numpy as np

    from vlp_jax.core.errors import UserError

    fns = model.embedders()
    for side, flag, asked in (("text", "--texts", texts), ("image", "--images", paths)):
        if asked and side not in fns:
            what = f"a model of method {model.config['method']['name']!r}"
            lacks = f"without {'an' if side == 'image' else 'a'} {side} tower"
            raise UserError(f"{flag}: {args.checkpoint} holds {what}, {lacks}")
    progress, result = Progress(len(paths) + len(texts)), {}
    if "text" in fns:  # first: a tokenizer that does not fit is told at once
        result["text"] = embed_texts(model, fns["text"], args.batch_size, texts, progress)
        result["texts"] = np.array(texts, dtype=str)
    if "image" in fns:
        result["image"], kept = embed_images(model, fns["image"], args, paths, progress)
        result["image_paths"] = np.array(kept, dtype=str)
    if "logit_scale" in model.params:
        scale = np.asarray(model.params["logit_scale"], np.float32)
        result["logit_scale"] = np.float32(np.exp(scale))
    progress.end()
    return result


def embed_images(
    model: Any, fn: Callable, args: argparse.Namespace, paths: list[str], progress: "Progress"
) -> tuple:
    """Returns (float32[N, E], the paths that were readable). Raises UserError when an unreadable
    one is not to be skipped, or all are."""
    import numpy as np

    from vlp_jax.core.errors import UserError
    from vlp_jax.data.damage import DamagedSample
    from vlp_jax.data.folder import read_bounded

    def decode(path: str) -> Any:
        try:
            return model.decode(read_bounded(os.path.join(args.images, path), ""))
        except DamagedSample as error:
            if args.skip_damaged:
                return None
            raise UserError(f"--images: {path}: {error} (--skip-damaged leaves it out)") from error

    rows, kept = [], []
    size = max(1, min(args.batch_size, len(paths)))
    with ThreadPoolExecutor(args.threads) as pool:
        for names, pictures in _ahead(pool, decode, paths, size):
            good = [
                (name, picture)
                for name, picture in zip(names, pictures, strict=True)
                if picture is not None
            ]
            if good:
                kept += [name for name, _ in good]
                pixels = np.stack([picture for _, picture in good])
                rows.append(_padded(fn, {"image": pixels}, size))
            progress.add(len(names))
    if paths and not kept:
        raise UserError(f"--images: {args.images}: none of {len(paths)} pictures can be read")
    return _joined(rows, model.method), kept


def embed_texts(
    model: Any, fn: Callable, batch_size: int, texts: list[str], progress: "Progress"
) -> Any:
    """Returns float32[M, E]."""
    import numpy as np

    rows = []
    tokenizer, size = model.tokenizer() if texts else None, max(1, min(batch_size, len(texts)))
    for start in range(0, len(texts), size):
        ids = tokenizer(texts[start : start + size])
        batch = {"text": np.asarray(ids, np.int32)}
        if model.method.fields()["text"].mask:
            batch["text_mask"] = tokenizer.mask(ids)
        rows.append(_padded(fn, batch, size))
        progress.add(len(ids))
    return _joined(rows, model.method)


def _joined(rows: list, method: Any) -> Any:
    """float32[N, E] of batches of rows; without any, the E of the joint space."""
    import numpy as np

    return np.concatenate(rows) if rows else np.zeros((0, method.embed_dim), np.float32)


def _ahead(
    pool: ThreadPoolExecutor, decode: Callable, paths: list[str], size: int
) -> Iterator[tuple[list, list]]:
    """Yields (names, pictures) per batch while the next batch is being decoded."""
    batches = [paths[start : start + size] for start in range(0, len(paths), size)]
    pending: list = []
    for names in [*batches, None]:
        waiting, pending = (
            pending,
            [] if names is None else [(names, [pool.submit(decode, name) for name in names])],
        )
        for earlier, futures in waiting:
            yield earlier, [future.result() for future in futures]


def _padded(fn: Callable, batch: dict, size: int) -> Any:
    """Runs a batch filled up with its first row, so that one program serves every batch."""
    import numpy as np

    count = len(next(iter(batch.values())))
    fill = lambda rows: np.concatenate([rows, np.repeat(rows[:1], size - count, axis=0)])  # noqa: E731
    return fn({name: fill(rows) for name, rows in batch.items()})[:count]


class Progress:
    """A line on stderr: done, rate and time left, at most once a second."""

    def __init__(self, total: int):
        self.total, self.done = total, 0
        self.start = self.shown = time.perf_counter()

    def add(self, count: int) -> None:
        self.done += count
        now = time.perf_counter()
        if now - self.shown < 1:
            return
        self.shown = now
        rate = self.done / (now - self.start)
        left = (self.total - self.done) / rate
        end = "\r" if sys.stderr.isatty() else "\n"
        print(
            f"embed {self.done}/{self.total}  {rate:.1f}/s  {left:.0f} s left  ",
            end=end,
            file=sys.stderr,
            flush=True,
        )

    def end(self) -> None:
        if sys.stderr.isatty():
            print(file=sys.stderr)


def write_npz(path: str, arrays: dict[str, Any]) -> None:
    """Writes an uncompressed .npz whole or not at all. Raises RunError when the disk refuses."""
    import numpy as np

    from vlp_jax.core.errors import RunError

    temporary = ""
    try:
        with tempfile.NamedTemporaryFile(
            dir=os.path.dirname(os.path.abspath(path)), delete=False
        ) as file:
            temporary = file.name
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        if temporary and os.path.exists(temporary):
            os.remove(temporary)
