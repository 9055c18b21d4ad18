"""The tokenizers of a released checkpoint: one for each vocabulary that its method reads.

The file exists to hold what `convert` decides about texts.
"""

import os
from typing import Any, NamedTuple

from vlp_jax.api.switches import described
from vlp_jax.api.weights import tokenized
from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Text
from vlp_jax.data.text import check_vocab, load_tokenizer
from vlp_jax.interop.detect import Checkpoint
from vlp_jax.interop.family import Beside
from vlp_jax.methods.base import Method

NONE: dict[str, Any] = {"name": "", "context_length": 0, "options": {}}
MAIN = Text.tokenizer


class Found(NamedTuple):
    """specs: {name: {name, context_length, options}}. files: {name in the folder: file to copy}.
    empty: {name: ids of the empty text, the last repeated to the end} of fields that want them."""

    specs: dict[str, dict[str, Any]]
    files: dict[str, str]
    empty: dict[str, tuple[int, ...]]


def find_tokenizers(checkpoint: Checkpoint, asked: str, method: Method, notes: list[str]) -> Found:
    """Those of all texts.

    Args:
      asked: see data/text; "" takes what lies beside the weights, or CLIP's; those with a folder of
        their own are not asked for. notes: are added to.

    Raises:
      UserError: a file that is not there, or a vocabulary that does not fit.
    """
    found, kind = Found({}, {}, {}), described(method)["name"]
    for name, field in tokenized(method).items():
        spec, file = _one(checkpoint, asked, name, field, kind)
        if not spec["name"] and not file:
            notes.append(_lacking(checkpoint.family.folders.get(name, "")))
            found.specs[name] = spec
            continue
        further = file and name != MAIN  # no file of its own names its padding beside it
        if file.endswith(".json"):
            _leave_out(file, field.vocab_size, spec, notes)
        if field.empty or further:
            path = spec["name"] or file
            opened = load_tokenizer(path, spec["context_length"], **spec["options"])
            if field.empty:
                found.empty[name] = _shortest(opened("")[0].tolist())
            spec["options"] |= {"pad_id": opened.pad_id} if further else {}
        if file:
            spec["name"] = _placed(file.removeprefix("spm:"), name, found.files)
        found.specs[name] = spec
    return found


def _one(
    checkpoint: Checkpoint, asked: str, name: str, field: Text, kind: str
) -> tuple[dict[str, Any], str]:
    """(its spec; the file that it is, `spm:` before a SentencePiece model, "" of a built-in one).
    Without either there is none."""
    family = checkpoint.family
    asked = "" if name != MAIN and name in family.folders else asked
    usual = checkpoint.beside if name == MAIN or family.one_tokenizer else Beside()
    beside = checkpoint.beside.tokenizers.get(name, usual)
    length = family.text_length(beside, field.length)
    file = asked.removeprefix("spm:") if asked not in ("", "clip", "bytes") else ""
    if file and not os.path.isfile(file):
        raise UserError(f"--tokenizer: {file}: no such file")
    if asked:
        check_vocab(load_tokenizer(asked, length), field.vocab_size)
    elif _has_clips_vocabulary(checkpoint, beside, field.vocab_size):
        asked = "clip"
    else:
        file = beside.tokenizer
    said = beside, file, field.vocab_size, kind
    cleaned = asked != "bytes" and (name == MAIN or not family.one_tokenizer)
    options = family.tokenizer_options(*said) if cleaned else {}
    spec = {"name": "" if file else asked, "context_length": length, "options": options}
    return spec, file if not file or file.endswith((".json", ".txt")) else f"spm:{file}"


def _leave_out(file: str, count: int, spec: dict[str, Any], notes: list[str]) -> None:
    """Tokens of a file beyond the `count` words of a network (<image>, which a processor adds)."""
    found = load_tokenizer(file, spec["context_length"], **spec["options"]).beyond(count)
    if found:
        shown = ", ".join(map(repr, found[:3])) + ", ..." * (len(found) > 3)
        notes.append(f"tokenizer {file}: {shown} unknown, beyond the network's {count:,} words")
        spec["options"] = {**spec["options"], "below": count}


def _lacking(folder: str) -> str:
    if folder:
        return f"no tokenizer in {folder} beside the weights, whose texts need it; convert it again"
    return "no tokenizer beside the weights; texts will need one (--tokenizer=FILE)"


def _placed(file: str, name: str, files: dict[str, str]) -> str:
    """Adds a tokenizer's file, and what names its padding; returns how it is named there."""
    stem = "tokenizer" if name == MAIN else name
    if not file.endswith((".json", ".txt")):
        files[f"{stem}.model"] = file
        return f"spm:{stem}.model"
    words = "vocab" if name == MAIN else name
    own = f"{words}.txt" if file.endswith(".txt") else f"{stem}.json"
    named = os.path.join(os.path.dirname(file), "tokenizer_config.json")
    files |= {own: file}
    if name == MAIN and os.path.isfile(named):
        files["tokenizer_config.json"] = named
    return own


def _shortest(ids: list[int]) -> tuple[int, ...]:
    """Without the repetitions of the last: [1, 2, 2, 2] -> (1, 2)."""
    while len(ids) > 1 and ids[-1] == ids[-2]:
        ids = ids[:-1]
    return tuple(ids)


def _has_clips_vocabulary(checkpoint: Checkpoint, beside: Beside, vocab_size: int) -> bool:
    """Whether a text tower that came without --tokenizer reads CLIP's ids."""
    said = checkpoint.family.has_clips_vocabulary(beside, vocab_size)
    if said is not None:
        return said
    file = beside.tokenizer
    if vocab_size != 49408 or not file.endswith(".json"):
        return vocab_size == 49408 and not file
    return load_tokenizer(file).vocab_size == vocab_size
