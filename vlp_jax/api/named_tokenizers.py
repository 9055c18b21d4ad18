"""The tokenizers that a checkpoint's folder names.

The file exists so that words can be looked at before weights are loaded.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlp_jax.api.config import FRESH
from vlp_jax.api.texts import open_tokenizer
from vlp_jax.api.weights import tokenizer_name
from vlp_jax.core.fields import Field, Text
from vlp_jax.data.text.carried import check_same, found_in
from vlp_jax.data.text.named import spec_of
from vlp_jax.data.text.tokenizer import Tokenizer
from vlp_jax.interop.folder import MANIFEST
from vlp_jax.methods.base import make_method
from vlp_jax.train.workdir import read_run

Specs = dict[str, dict[str, Any]]  # {name: {name, context_length, options}}


def specs_of_run(path: str, config: Mapping[str, Any], fields: Mapping[str, Field]) -> Specs:
    """Those of a training workdir, of its own files as far as it has them. Raises UserError for
    files that are others than it was trained with."""
    told = read_run(Path(path)).get("tokenizers", {})
    own = found_in(path, told)
    texts = {name: field for name, field in fields.items() if isinstance(field, Text)}
    made = {name: spec_of(name, field, config["data"], own) for name, field in texts.items()}
    for name in told.keys() & made.keys() - own.keys():
        check_same(made[name]["name"], told[name], "its copy is gone")
    found = {field.tokenizer: made[name] for name, field in texts.items()}
    usual = [made[name] for name, field in texts.items() if field.tokenizer == Text.tokenizer]
    longest = max((spec["context_length"] for spec in usual), default=0)  # of texts and prompts
    said = made["text"] | {"context_length": longest} if "text" in made else {"name": ""}
    return found | {Text.tokenizer: said}


def specs_of_converted(path: str, manifest: Mapping[str, Any]) -> Specs:
    """Those of a converted folder, by the paths of their files."""
    specs = {Text.tokenizer: manifest["tokenizer"], **manifest.get("tokenizers", {})}
    named = lambda spec: {**spec, "name": tokenizer_name(path, spec["name"])}  # noqa: E731
    return {name: named(spec) for name, spec in specs.items()}


def early_tokenizer(path: str) -> Tokenizer | None:
    """What the texts of a checkpoint are written with; None where its folder says nothing of it,
    which loading tells. Raises UserError as `open_tokenizer`."""
    path = path.removeprefix(FRESH)
    for file, specs_of in ((MANIFEST, _converted), ("config.json", specs_of_run)):
        with (
            contextlib.suppress(OSError, ValueError, KeyError, TypeError),
            open(os.path.join(path, file), encoding="utf-8") as said,
        ):
            config = json.load(said)
            fields = make_method(config["method"]).fields()
            specs = specs_of(path, config, fields)
            return open_tokenizer(path, Text.tokenizer, specs.get(Text.tokenizer), fields)
    return None


def _converted(path: str, manifest: Mapping[str, Any], fields: Mapping[str, Field]) -> Specs:
    del fields
    return specs_of_converted(path, manifest)
