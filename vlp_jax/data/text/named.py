"""Tokenizers of a config by name: that of every Text field, checked to fit it.

`data.tokenizers.NAME` is a file, or {name, context_length, clean, pad_id}; `data.tokenizer`,
`tokenizer_options` and `context_length` are the one named "text". The file exists so that a method
may have texts of several vocabularies, and an id that an embedding lacks is refused before JAX
turns it into NaN.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.fields import Field, Text
from vlp_jax.core.schema import plain, section
from vlp_jax.data.text import load_tokenizer
from vlp_jax.data.text.tokenizer import Tokenizer


class _Said(NamedTuple):
    """What a config says of a tokenizer, and the keys that say it."""

    name: str
    length: int
    options: dict[str, Any]
    flag: str
    length_flag: str


def open_tokenizers(fields: Mapping[str, Field], data: Mapping[str, Any]) -> dict[str, Tokenizer]:
    """{field: its tokenizer} of every Text; one without a context_length (0) has the field's.

    Args:
      data: the `data` section of a config.

    Raises:
      UserError: a tokenizer that is not there, or that has more ids or another length than the
        field; names its key.
    """
    data, found, made = plain(data), {}, {}
    for name, field in fields.items():
        if isinstance(field, Text):
            said = _said(name, field, data)
            key = said.flag, said.length or field.length
            if key not in made:
                made[key] = load_tokenizer(said.name, key[1], said.flag, **said.options)
            found[name] = made[key]
            _check(name, field, said, made[key])
    return found


def spec_of(
    name: str, field: Text, data: Mapping[str, Any], carried: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """{name, context_length, options} of a field's tokenizer, for what uses a run's model later.

    carried: {field: its tokenizer} of those that the run's folder has, see carried.py.

    Raises:
      UserError: a tokenizer that the config does not name.
    """
    said = _said(name, field, plain(data))
    file, length = (carried or {}).get(name, said.name), said.length or field.length
    return dict(name=file, context_length=length, options=dict(said.options))


def _said(name: str, field: Text, data: Mapping[str, Any]) -> _Said:
    own = section(section(data, "data.fields"), f"data.fields.{name}")
    wanted = own.get("tokenizer") or field.tokenizer
    named = section(data, "data.tokenizers")
    if wanted in named:
        found = named[wanted]
        found = dict(found) if isinstance(found, Mapping) else {"name": found}
        flag = f"data.tokenizers.{wanted}"
        file, length = found.pop("name", ""), found.pop("context_length", 0)
        return _Said(file, length, found, flag, f"{flag}.context_length")
    if wanted != Text.tokenizer:
        hint = nearest(wanted, (*named, Text.tokenizer))
        raise UserError(f"data.tokenizers: no {wanted!r} for the method's {name}{hint}")
    file, length = data.get("tokenizer", "clip"), data.get("context_length", 0)
    options = section(data, "data.tokenizer_options")
    return _Said(file, length, options, "data.tokenizer", "data.context_length")


def _check(name: str, field: Text, said: _Said, tokenizer: Tokenizer) -> None:
    if tokenizer.vocab_size > field.vocab_size:
        wanted = field.says(name, field.vocab_size + field.own, ".vocab_size")
        wanted += f", of which {field.own} are the method's own" if field.own else ""
        raise UserError(
            f"{said.flag}={tokenizer.name}: has {tokenizer.vocab_size} ids but {wanted}; it takes "
            f"{tokenizer.vocab_size + field.own}"
        )
    if tokenizer.options.get("new") and tokenizer.vocab_size != field.vocab_size:
        wanted = field.says(name, field.vocab_size, ".vocab_size")
        raise UserError(
            f"{said.flag}={tokenizer.name}: has {tokenizer.vocab_size} ids with its new words, but "
            f"{wanted}; these must be the last rows"
        )
    if field.start and tokenizer.sot_id < 0:
        raise UserError(
            f"{said.flag}={tokenizer.name}: begins texts with no token of its own, but the first "
            f"token of {name} says how it is read"
        )
    if field.end not in (-1, tokenizer.eot_id):
        raise UserError(
            f"{said.flag}={tokenizer.name}: ends texts with id {tokenizer.eot_id} but "
            f"{field.says(name, field.end, '.end')}"
        )
    _check_empty(name, field, said, tokenizer)
    if tokenizer.context_length != field.length:
        wanted = field.says(name, field.length, ".context_length")
        length = f"{said.length_flag}={tokenizer.context_length}"
        raise UserError(f"{length} but {wanted}; make them equal")


def _check_empty(name: str, field: Text, said: _Said, tokenizer: Tokenizer) -> None:
    wanted, found = list(field.empty), tokenizer("")[0].tolist()
    while len(found) > 1 and found[-1] == found[-2]:
        found.pop()
    while len(wanted) > 1 and wanted[-1] == wanted[-2]:
        wanted.pop()
    if wanted and found != wanted:
        raise UserError(
            f"{said.flag}={tokenizer.name}: the empty text is {found}, its last id repeated, but "
            f"{field.key or name} takes {wanted}; the padding is pad_id of the tokenizer's options"
        )
