"""Learned words (textual inversion) on a loaded model, and written from one.

The file exists so that `load(..., words={FILE: "<cat>"})` and `convert --to=learned_embeds` share
what a word is: rows beside the tables of the text encoders, and ids of their tokenizers.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vlp_jax.api.placement import places
from vlp_jax.api.switches import networks
from vlp_jax.core.adapters import NEW_ROWS
from vlp_jax.core.errors import RunError, UserError
from vlp_jax.core.fields import Text
from vlp_jax.core.pytree import flatten, unflatten
from vlp_jax.core.schema import plain
from vlp_jax.data.text.grown import grouped
from vlp_jax.interop.folder import replace_folder
from vlp_jax.interop.learned_embeds import FILE, read_words, words_state
from vlp_jax.interop.weights_file import read_safetensors, write_safetensors
from vlp_jax.methods.base import make_method
from vlp_jax.parallel.sharding import place

_TABLE = "token_embed/embedding"


def with_words(model: Any, words: Mapping[str, str]) -> Any:
    """A Model that knows further words.

    Args:
      model: the base, which is shared.
      words: {learned_embeds file: what prompts call it}; "": the file's own name for it.

    Raises:
      UserError: a file without a name, of an encoder that the model has not, or of another width.
    """
    for file, name in words.items():
        model = _with_word(model, file, name)
    return model


def _with_word(model: Any, file: str, name: str) -> Any:
    path = os.path.join(file, FILE) if os.path.isdir(file) else file
    own, rows = read_words(path)
    name, params = name or own, flatten(model.params)
    if not name:
        raise UserError(f"{path}: has no name for its word; give one, FILE:<word>")
    said, nets = {key: plain(value) for key, value in model.config["method"].items()}, {}
    for part, array in rows.items():
        if f"{part}/{_TABLE}" not in params:
            raise UserError(f"{path}: has rows for {part!r}, the model has no such text encoder")
        width = params[f"{part}/{_TABLE}"].shape[1]
        if array.shape[1] != width:
            what = f"its rows have {array.shape[1]} columns, those of {part!r} {width}"
            raise UserError(f"{path}: is of another base, {what}")
        net = networks(model.method)[part]
        sizes = {key: net[key] + len(array) for key in ("vocab_size", "new_rows")}
        nets[part] = {**said[part], **sizes}
        leaf = f"{part}/token_embed/{NEW_ROWS}"
        put = places(model.mesh, "replicated" if model.mesh else "")
        new = place({leaf: array}, put({leaf: array}))[leaf]
        params[leaf] = jnp.concatenate([params[leaf], new]) if leaf in params else new
    count = len(next(iter(rows.values())))
    config = {**model.config, "method": said | nets}
    named = tuple([name] + [f"{name}_{i}" for i in range(1, count)])
    method = make_method(config["method"])
    changed = dict(method=method, params=unflatten(params), config=config)
    return dataclasses.replace(model, **changed, **_specs(model, set(rows), named))


def _specs(model: Any, parts: set[str], named: tuple[str, ...]) -> dict[str, Any]:
    """The tokenizers of these parts with new words."""
    fields = model.method.fields()
    names = {fields[part].tokenizer for part in parts if isinstance(fields.get(part), Text)}

    def grown(spec: Mapping[str, Any]) -> dict[str, Any]:
        options = dict(spec.get("options", {}))
        return {**spec, "options": options | {"new": (*options.get("new", ()), *named)}}

    found: dict[str, Any] = {}
    if Text.tokenizer in names:
        found["tokenizer_spec"] = grown(model.tokenizer_spec)
    others = getattr(model, "tokenizers", {})
    if names & set(others):
        found["tokenizers"] = {n: grown(s) if n in names else s for n, s in others.items()}
    return found


def write_words(out: str, params: Any, new: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Writes the new rows of a run as a folder, one file a word, and reads them back.

    Args:
      out: the folder: learned_embeds.safetensors, of several words learned_embeds-WORD.safetensors.
      params: the weights. new: words of the tokenizer, in the order of the rows; WORD_1, WORD_2 ...
        behind WORD are further rows of it.

    Returns:
      {word: rows of the first encoder}.

    Raises:
      UserError: no new rows, or another number of words. RunError: the disk.
    """
    flat = flatten(params)
    leaves = {part: f"{part}/token_embed/{NEW_ROWS}" for part in ("text", "text_2")}
    rows = {part: np.asarray(flat[leaf]) for part, leaf in leaves.items() if leaf in flat}
    names = [word.partition("=")[0] for word in new]
    if not rows or any(len(array) != len(names) for array in rows.values()):
        count = max((len(array) for array in rows.values()), default=0)
        raise UserError(f"--to=learned_embeds: {count} new rows, {len(names)} new words")
    groups = grouped(names)
    files = {}
    for word, numbers in groups.items():
        plain_word = "".join(c if c.isalnum() else "_" for c in word).strip("_")
        file = FILE if len(groups) == 1 else FILE.replace(".", f"-{plain_word}.")
        files[file] = words_state(word, {part: array[numbers] for part, array in rows.items()})

    def fill(folder: str) -> None:
        for file, state in files.items():
            write_safetensors(os.path.join(folder, file), state, {"format": "pt"})
            back = read_safetensors(os.path.join(folder, file))
            if any((back[key].read() != array).any() for key, array in state.items()):
                raise RunError(f"{folder}/{file}: does not give its rows back")

    replace_folder(out, fill)
    first = next(iter(rows.values()))
    return {word: first[numbers] for word, numbers in groups.items()}
