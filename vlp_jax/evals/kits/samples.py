"""Pictures, captions and labels of a data set as the evaluators need them.

The file exists because every evaluator reads the same three things from a source, and because all
of them must thin a data set too large for the training cadence in the same way.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vlp_jax.core.errors import RunError, UserError, nearest
from vlp_jax.core.fields import Picture
from vlp_jax.data.caption import candidates
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.encoding import read_text
from vlp_jax.data.evaluation import eval_batches
from vlp_jax.data.fields.base import Reader, Setup, make_readers
from vlp_jax.data.labels import check_classes
from vlp_jax.data.mixture import open_pool
from vlp_jax.data.source import Source, check_key, label_value
from vlp_jax.data.subset import thinned
from vlp_jax.evals.base import EvalContext, EvalFn, Rows, embed_some

MAX_DAMAGED = 0.01  # share of pictures that an evaluation may lose before it is no longer one
FEW_DAMAGED = 10  # so many are always allowed, as in training, unless they are half of the set


def open_samples(
    path: str | Source, limit: int = 0, label: str = "", cover: bool = False
) -> Source:
    """Opens a data set (or takes an open one); with limit > 0 so many samples that stand for it,
    every class of the JSON key `label` with its share (see `data.subset`).

    Raises UserError when it is empty or limit is negative.
    """
    if limit < 0:
        raise UserError(f"limit is {limit}, it must be >= 0 (0: all samples)")
    if isinstance(path, str) and not path:
        raise UserError("no data: set `path`, and `train` where the evaluator learns")
    source = open_pool(path) if isinstance(path, str) else path
    if not len(source):
        raise UserError(f"no samples in {path}")
    return thinned(source, limit, label, cover) if 0 < limit < len(source) else source


def embed_pictures(
    fn: EvalFn, source: Source, context: EvalContext, members: Mapping[str, str] | None = None
) -> tuple[Rows, np.ndarray]:
    """Runs `fn` over every picture of a source that can be read; members: {field: the file of a
    sample that is its picture}, of several pictures or another than the sample's own.

    Returns rows [K, ...] and int[K], the samples they belong to, in order. Raises RunError when
    more than 1 % of the pictures, and more than ten or half of them, are damaged.
    """
    framing = {**vars(context.framing), "eval_crop": context.framing.crop}
    files = {"image": context.member, **(members or {})}
    where = {name: {"member": file} for name, file in files.items() if file}
    setup = Setup({"image": framing, "fields": where}, train=False)
    readers = make_readers(dict.fromkeys(files, Picture(context.image_size)), setup)
    return embed_read(fn, source, readers, context)


def embed_read(
    fn: EvalFn, source: Source, readers: Mapping[str, Reader], context: EvalContext
) -> tuple[Rows, np.ndarray]:
    """As `embed_pictures`, of what the `readers` find in every sample."""
    batches = eval_batches(
        source,
        readers,
        batch_size=context.batch_size,
        process_index=context.process_index,
        process_count=context.process_count,
    )
    rows, seen = embed_some(fn, batches, len(source))
    lost = np.flatnonzero(~seen)
    if lost.size > max(MAX_DAMAGED * len(source), min(FEW_DAMAGED, len(source) / 2)):
        first = source.where(int(lost[0]))
        raise RunError(f"{lost.size} of {len(source)} pictures cannot be read, first {first}")
    return jax.tree.map(lambda leaf: leaf[seen], rows), np.flatnonzero(seen)


def read_values(source: Source, key: str) -> list[Any]:
    """The value of a JSON key for every sample, without reading pictures; None where it is damaged.

    Raises UserError naming the first sample without it and the nearest key it has.
    """
    if not key:
        raise UserError("this evaluation needs labels: set its key 'label' to a JSON key")
    values = []
    for sample in read_metadata(source):
        if sample is not None and key not in sample["meta"]:
            hint = nearest(key, sample["meta"])
            raise UserError(f"sample {sample['key']!r} has no JSON key {key!r}" + hint)
        value = None if sample is None else label_value(sample["meta"][key])
        members = value if isinstance(value, list) else [value]
        if sample is not None and any(isinstance(v, dict | list | None) for v in members):
            raise UserError(f"sample {sample['key']!r}: {key!r} is no label but {value}")
        values.append(value)
    return values


def check_labels(sources: Mapping[str, Source], label: str, where: str) -> None:
    """Looks for the labels of an evaluator's data sets, {config key: set}, before any training.

    Raises:
      UserError: no sample of one has the JSON key `label`, only one class to learn, or class
        folders that are numbered otherwise; the message starts with `where`.
    """
    if not label:
        return
    for source in sources.values():
        check_key(source, label, f"{where}.label")
    if "train" in sources:
        check_classes(sources["train"], label, f"{where}.label")
    folders = {key: tuple(getattr(source, "classes", ())) for key, source in sources.items()}
    path, train = (folders.get(key, ()) for key in ("path", "train"))
    if label == "label" and path and train and path != train:
        raise UserError(
            f"{where}.label='label' numbers the class folders of each set, and those of "
            f"path {_some(path)} are not those of train {_some(train)}; "
            "set it to 'class', their names"
        )


def _some(names: tuple[str, ...]) -> str:
    return f"({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"


def check_several(classes: Mapping[Any, str], label: str) -> None:
    """Raises UserError where there is nothing to tell apart."""
    if len(classes) < 2:
        raise UserError(f"label={label!r}: there is only one class, {next(iter(classes), None)!r}")


def read_metadata(source: Source) -> Iterator[dict[str, Any] | None]:
    """Metadata of every sample in order; None for a damaged one, whose picture will be left out."""
    for i in range(len(source)):
        try:
            yield source.metadata(i)
        except DamagedSample:
            yield None


def read_captions(source: Source, key: str = "", first: int = 0) -> list[list[str]]:
    """Captions of each picture, none for a damaged or an uncaptioned one (a key may hold null).

    Raises UserError naming the first sample that lacks `key`, or where no sample has a caption.
    """
    captions = []
    for sample in read_metadata(source):
        if sample is None:  # damaged, and so is its picture
            captions.append([])
            continue
        try:
            found = candidates(sample, key) if key else sample.get("text", [])
        except DamagedSample:  # what stands under the key is no text
            found = []
        if key and key not in sample["meta"]:
            hint = nearest(key, sample["meta"])
            raise UserError(
                f"sample {sample['key']!r} has no caption under the JSON key {key!r}" + hint
            )
        captions.append(found[:first] if first else found)
    if not any(captions):
        raise UserError(f"none of the {len(captions)} samples has a caption")
    return captions


def class_names(values: Sequence[Any], file: str = "") -> dict[Any, str]:
    """Class value -> name to read out, in class order.

    Without a file: the sorted distinct values (of lists, their members). A `.json` file holds
    {value: name} or [name, ...]; any other file one name a line. Where the data's values are
    integers, a list is read by position. Raises UserError for a missing or empty file and for a
    value it does not name.
    """
    members = {v for value in values for v in (value if isinstance(value, list) else [value])}
    members.discard(None)
    if not file:
        return {v: str(v) for v in sorted(members, key=lambda v: (isinstance(v, str), v))}
    if not os.path.isfile(file):
        raise UserError(f"no file of class names at {file}")
    named = _read_names(file)
    if isinstance(named, dict):
        as_text = {str(v): v for v in members}
        named = {as_text.get(k, k): name for k, name in named.items()}
    else:
        by_position = all(isinstance(v, int) for v in members)
        named = dict(enumerate(named)) if by_position else {name: name for name in named}
    for value in members:
        if value not in named:
            raise UserError(
                f"{file} names no class {value!r}" + nearest(str(value), map(str, named))
            )
    return named


def _read_names(file: str) -> dict[str, str] | list[str]:
    """What a file of class names holds. Raises UserError where it is no text, no JSON of such a
    form, or a name is blank: the names after it would stand for other classes."""
    text = read_text(file).rstrip()
    try:
        named = json.loads(text) if file.endswith(".json") else text.split("\n")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: no class names: {error}") from error
    names = list(named.values()) if isinstance(named, dict) else named
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{file}: must hold {{value: name}} or [name, ...]")
    blank = next((i for i, name in enumerate(names) if not name.strip()), None)
    if blank is not None:
        raise UserError(f"{file}: name {blank + 1} of {len(names)} is blank")
    return named


def class_ids(values: Sequence[Any], classes: dict[Any, str], where: str = "data") -> np.ndarray:
    """int32[N] positions of values in `classes`, -1 for None (a damaged sample).

    Raises UserError for a value that is none of the classes, or a list of values.
    """
    position = {value: i for i, value in enumerate(classes)}
    for value in values:
        if isinstance(value, list):
            raise UserError(f"{where} holds several labels a sample ({value}); this needs just one")
        if value is not None and value not in position:
            raise UserError(f"{where} holds the unknown class {value!r}" + nearest(value, position))
    return np.asarray([position.get(value, -1) for value in values], np.int32)
