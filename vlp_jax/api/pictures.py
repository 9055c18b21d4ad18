"""Pictures and texts as people give them: paths, folders, open pictures, arrays; files of lines,
texts with commas between.

The file exists so that `embed`, `similarity` and a notebook take the same things and refuse the
rest in one voice.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from PIL import Image

from vlp_jax.core.errors import UserError
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.decode import decode_framed, frame_picture, whole_picture
from vlp_jax.data.encoding import BadText, check_text, read_text
from vlp_jax.data.folder import read_bounded
from vlp_jax.data.framing import Framing
from vlp_jax.data.walk import told, walk

SKIP = "(--skip-damaged leaves it out)"


def frame(picture: Any, size: int, framing: Framing) -> np.ndarray:
    """A path, the bytes of a file, a Pillow picture or an array -> uint8[size, size, 3].

    Raises:
      DamagedSample: it cannot be read. UserError: it is none of these, or another array than
        uint8[H, W, 3].
    """
    if isinstance(picture, str | os.PathLike):
        picture = read_bounded(os.fspath(picture), "")
    if isinstance(picture, bytes):
        return decode_framed(picture, size, framing)[0]
    if not isinstance(picture, Image.Image):
        picture = _from_array(picture)
    return frame_picture(picture, size, framing)


def whole(picture: Any, mask: bool = False) -> np.ndarray:
    """A path, the bytes of a file, a Pillow picture or an array as it is, upright: uint8[H, W, 3],
    transparency on white; of a `mask` uint8[H, W, 1], 255 where it is 128 or more, else 0.

    A mask may be a uint8 or bool array [H, W] or [H, W, 1] too.

    Raises:
      UserError: it cannot be read, it is none of these, or a mask with transparency.
    """
    name = f"{os.fspath(picture)}: " if isinstance(picture, str | os.PathLike) else ""
    try:
        if name:
            picture = read_bounded(os.fspath(picture), "")
        elif not isinstance(picture, bytes | Image.Image):
            picture = _from_array(_repeated(picture) if mask else picture)
        pixels = whole_picture(picture, opaque=mask)
    except DamagedSample as error:
        clear = error.reason == "see_through"
        why = "is see-through; a mask is white where it is painted over" if clear else error
        raise UserError(f"{name}{why}") from error
    if not mask:
        return pixels
    return np.uint8(255) * (np.asarray(Image.fromarray(pixels).convert("L"))[..., None] >= 128)


def _repeated(mask: Any) -> Any:
    """uint8 or bool, [H, W] or [H, W, 1], as uint8[H, W, 3]; what is none of them stays."""
    shape, dtype = getattr(mask, "shape", ()), getattr(mask, "dtype", None)
    if not (len(shape) == 2 or shape[2:] == (1,)) or dtype not in (np.uint8, bool):
        return mask
    shades = np.asarray(mask).reshape(*shape[:2], 1)
    return np.repeat(shades if dtype == np.uint8 else np.uint8(255) * shades, 3, axis=2)


def _from_array(array: Any) -> Image.Image:
    """uint8[H, W, 3] as a Pillow picture."""
    wanted = "a picture is a path, a Pillow picture or a uint8[H, W, 3] array"
    if not hasattr(array, "__array__"):
        raise UserError(f"{type(array).__name__}; {wanted}")
    array = np.asarray(array)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise UserError(f"{array.dtype}{list(array.shape)}; {wanted}")
    return Image.fromarray(np.ascontiguousarray(array))


def read_numbered(decode: Callable[[Any], np.ndarray], numbered: tuple[int, Any]) -> np.ndarray:
    """`decode` of a picture with its number.

    Raises:
      UserError: it cannot be read; the message says which.
    """
    number, picture = numbered
    try:
        return decode(picture)
    except (DamagedSample, UserError) as error:
        name = f"{os.fspath(picture)}: " if isinstance(picture, str | os.PathLike) else ""
        raise UserError(f"pictures[{number}]: {name}{error}") from error


def check_list(values: Iterable[Any], name: str) -> Iterable[Any]:
    """The values themselves.

    Raises:
      UserError: a single one, or nothing that could be gone through.
    """
    single = isinstance(values, str | bytes | os.PathLike | Image.Image)
    if single or not isinstance(values, Iterable):
        what = repr(values) if isinstance(values, str) else f"a {type(values).__name__}"
        raise UserError(f"{name}: must be a list, not {what}")
    return values


def check_texts(texts: Iterable[str], name: str = "texts") -> list[str]:
    """The texts as a list; name: of the argument.

    Raises:
      UserError: what is no text, named by its number.
    """
    texts = list(check_list(texts, name))
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"{name}[{number}]: must be a text, not {type(text).__name__}")
        try:
            check_text(text)
        except BadText as error:
            raise UserError(f"{name}[{number}]: {error}") from error
    return texts


def list_pictures(words: Iterable[str], skip_damaged: bool = False) -> tuple[str, list[str]]:
    """(folder, names relative to it, with '/') of one folder or of files.

    Args:
      words: a folder, which is searched by the rule of data/walk.py, or files; a word that is
        neither may name several with commas between. The folder of files is the nearest one above
        all.
      skip_damaged: list what is lost too, for it to be skipped and counted.

    Raises:
      UserError: there are none, or something is lost.
    """
    found: list[str] = []
    for word in words:
        found += [word] if os.path.exists(word) or "," not in word else word.split(",")
    found = [os.path.expanduser(word.strip()) for word in found if word.strip()]
    if len(found) == 1 and os.path.isdir(found[0]):
        return found[0], _below(found[0], skip_damaged)
    for path in found:
        if not os.path.isfile(path):
            several = "is a folder; give one folder, or files"
            why = several if os.path.isdir(path) else "no such file or folder"
            raise UserError(f"--images: {path}: {why}")
    if not found:
        raise UserError("--images: names no picture")
    paths = [os.path.abspath(path) for path in found]
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    return root, [os.path.relpath(path, root).replace(os.sep, "/") for path in paths]


def _below(folder: str, skip_damaged: bool) -> list[str]:
    found = walk(folder)
    left = f"; left out: {told(found.left_out)}" if found.left_out else ""
    if left and found.pictures:
        print(f"{folder}: {len(found.pictures)} pictures{left}", file=sys.stderr)
    if not found.pictures and not found.lost:
        raise UserError(f"--images: {folder}: holds no pictures{left}")
    if found.lost and not skip_damaged:
        name, reason = next(iter(found.lost.items()))
        raise UserError(f"--images: {name}: {reason} {SKIP}")
    return sorted((*found.pictures, *found.lost))


def read_texts(texts: str) -> list[str]:
    """Lines of a UTF-8 file; row i of the result belongs to line i. What is no file is texts with
    commas between.

    Raises:
      UserError: there are none; a file that cannot be read, or one text that looks like the name of
        a file (a suffix or a slash, and no space) where there is none.
    """
    named = re.fullmatch(r"[^\s,]*(/[^\s,]*|\.[a-zA-Z]{2,5})", texts)
    if texts.strip(" ,") and not named and not os.path.exists(texts):
        try:
            return [check_text(text.strip()) for text in texts.split(",") if text.strip()]
        except BadText as error:
            raise UserError(f"--texts: {error}") from error
    try:
        lines = read_text(texts).split("\n")
    except UserError as error:
        raise UserError(f"--texts: {error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise UserError(f"--texts: {texts}: holds no text")
    return [line.rstrip("\r") for line in lines]
