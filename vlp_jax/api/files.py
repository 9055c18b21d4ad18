"""Files that commands read and write: .npz archives, and folders that must be writable before any
work.

The file exists so that a result is written whole or not at all, and what stands in its way is said
first.
"""

import os
import tempfile
import zipfile
from collections.abc import Mapping

import numpy as np

from vlp_jax.core.errors import RunError, UserError


def split(text: str) -> tuple[str, str]:
    """(folder, what follows the colon) of a checkpoint and a part of it."""
    if os.path.isdir(text) or ":" not in text:
        return text, ""
    folder, _, rest = text.partition(":")
    return folder, rest


def check_writable(flag: str, folder: str) -> None:
    """Refuses a folder that could not be made or written, before any work for it; makes nothing.

    Raises:
      UserError: names the flag and what stands in the way.
    """
    there = os.path.realpath(folder)
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        raise UserError(f"{flag}={folder}: {there} is a file, not a folder")
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{flag}={folder}: {there} cannot be written ({why})") from error


def check_npz(path: str) -> None:
    """Refuses a place where no .npz could be written.

    Raises:
      UserError: names --out.
    """
    if not path.endswith(".npz"):
        raise UserError(f"--out: {path}: must end with .npz")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise UserError(f"--out: {os.path.dirname(path)}: no such folder")
    if os.path.isdir(path):
        raise UserError(f"--out: {path}: is a folder")
    check_writable("--out", folder)


def read_npz(path: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz; nothing pickled is opened.

    Raises:
      UserError: no such file, no .npz, an array of objects; names --inputs.
    """
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise UserError(f"--inputs: {path}: is no .npz archive")
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"--inputs: {path}: {error.strerror or 'is damaged'}") from error
    except Exception as error:  # whatever numpy raises for a damaged header
        why = "holds objects, not numbers" if "allow_pickle" in str(error) else "is damaged"
        raise UserError(f"--inputs: {path}: {why}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise UserError(f"--inputs: {path}: {name} is no array")
    return arrays


def write_npz(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an uncompressed .npz whole or not at all. Raises RunError when the disk refuses."""
    temporary = f"{path}.part"
    try:
        with open(temporary, "wb") as file:
            with zipfile.ZipFile(file, "w") as archive:  # np.savez takes no array called `file`
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
