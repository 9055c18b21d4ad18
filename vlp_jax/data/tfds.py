"""TFDS data sets in the `array_record` file format, read without TensorFlow.

`tfds:NAME[:SPLIT]` (prepared below TFDS_DATA_DIR) or `tfds:FOLDER[:SPLIT]` (the version folder with
its features.json). The file exists so that existing TFDS collections need no conversion.
"""

import glob
import os
from typing import Any

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.data.damage import Damage, DamagedSample
from vlp_jax.data.source import Example, captions_of, digest, stamp_of

_CAPTIONS = ("caption", "captions", "text", "sentence", "title")


def _builder(tfds: Any, name: str, path: str) -> Any:
    try:
        if os.path.isdir(name):
            return tfds.builder_from_directory(name)
        return tfds.builder(name, file_format="array_record")
    except Exception as error:  # tfds raises many types; each means it cannot be opened
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path!r}: TFDS cannot open {name!r}: {reason}") from error


def _plain(value: Any) -> Any:
    """Feature values as JSON-like Python values: bytes to str, arrays to lists. Bytes that are no
    UTF-8 become half characters, which `captions_of` refuses."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


class TfdsSource:
    """A split of a TFDS set as samples: its Image feature, its text features, everything else in
    `meta`.

    The first of the features caption, captions, text, sentence, title gives the captions; without
    one, a class label gives its name. Further Image features are members by their name. The key is
    the record's number. Raises UserError where nothing is prepared.
    """

    def __init__(self, path: str):
        import tensorflow_datasets as tfds

        name, _, split = path.removeprefix("tfds:").partition(":")
        split = split or "train"
        builder = _builder(tfds, name, path)
        form = getattr(builder.info, "file_format", None)
        if form is not None and form.value != "array_record":
            raise UserError(
                f"{path!r} is stored as {form.value}; prepare it with file_format='array_record'"
            )
        self._features = builder.info.features
        images = [key for key, f in self._features.items() if isinstance(f, tfds.features.Image)]
        labels = [
            key for key, f in self._features.items() if isinstance(f, tfds.features.ClassLabel)
        ]
        if not images:
            raise UserError(f"{path!r} has no Image feature; it has: {', '.join(self._features)}")
        self.path, self._folder = path, str(builder.data_path)
        self._image, *self._further = images
        self._names = {key: list(self._features[key].names or ()) for key in labels}
        raw = {key: tfds.decode.SkipDecoding() for key in images}
        try:
            self._records = builder.as_data_source(split=split, decoders=raw)
        except Exception as error:  # tfds raises many types; each means it cannot be read
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{path!r}: split {split!r} is not prepared or unknown: {reason}"
            ) from error
        self.damage: list[Damage] = []
        lengths = [builder.info.splits[s].shard_lengths for s in sorted(builder.info.splits)]
        self.fingerprint = digest(
            [builder.info.full_name, split, str(len(self._records)), str(lengths)]
        )

    @property
    def stamp(self) -> str:
        """Changes with the files, which the fingerprint does not cover."""
        return digest(stamp_of(p) for p in sorted(glob.glob(os.path.join(self._folder, "*"))))

    def __len__(self) -> int:
        return len(self._records)

    def where(self, i: int) -> str:
        return f"{self.path}: record {i}"

    def metadata(self, i: int) -> Example:
        example = self[i]
        example.pop("image", None)
        return example

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < len(self):
            raise IndexError(i)
        try:
            record = dict(self._records[i])
        except Exception as error:  # a failed checksum surfaces as one of several types
            raise DamagedSample("unreadable_record", self.where(i)) from error
        image = record.pop(self._image)
        members = {key: record.pop(key) for key in self._further}
        meta = _plain(record)
        texts = next((meta[key] for key in _CAPTIONS if meta.get(key)), None)
        if texts is None:
            texts = [
                names[meta[key]].replace("_", " ") for key, names in self._names.items() if names
            ]
        return {
            "key": f"{i:08d}",
            "text": captions_of(None, {"captions": texts}),
            "meta": meta,
            "image": image,
            "members": members,
        }
