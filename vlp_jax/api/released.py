"""Reads a released checkpoint into our tree: architecture, weights, preprocessing, tokenizer,
golden embeddings.

The file exists to hold what `convert` decides about its input: which switches the files set, and
what is refused.
"""

import os
from typing import Any

import numpy as np

from vlp_jax.api.embed import embedders
from vlp_jax.api.switches import computed, unlike
from vlp_jax.api.weights import expected_shapes, golden_embeddings, position_tables, split_extra
from vlp_jax.core.errors import UserError
from vlp_jax.data.text import check_vocab, load_tokenizer
from vlp_jax.interop.detect import Checkpoint, open_checkpoint
from vlp_jax.interop.position import resize_state, same_table
from vlp_jax.interop.preprocess import default_preprocessing, for_model
from vlp_jax.interop.rules import check, prove_names, their_shapes, to_ours
from vlp_jax.interop.weights_file import read_json
from vlp_jax.methods.base import Method, make_method
from vlp_jax.models.archs.clip import ARCHS, clip_arch
from vlp_jax.models.archs.mae import NAMES as MAE_NAMES


def read_released(
    path: str, arch_name: str, image_size: int = 0, tokenizer: str = "", weights: str = ""
) -> tuple[dict[str, np.ndarray], dict[str, Any], list[str], dict[str, str]]:
    """Opens, checks, converts and proves a released checkpoint.

    Args:
      path: file or folder.
      arch_name: a name of models/archs/clip.py or, for a masked autoencoder, mae_archs.py; "" takes
        the sizes that the config beside the weights says.
      image_size: resize a ViT's position embeddings to this; 0 keeps them.
      tokenizer: see data/text; "" takes the one beside the weights, or CLIP's.
      weights: raw or ema, where a file holds both.

    Returns:
      (flat arrays, manifest for interop/folder.py, notes for the user, {name: tokenizer file to
      copy}).

    Raises:
      UserError: everything that does not fit, in one message, before a weight is read.
    """
    if arch_name not in ("", *MAE_NAMES):
        clip_arch(arch_name)  # a typo is told before a large file is opened
    checkpoint = open_checkpoint(path, weights)
    if checkpoint.is_mae:
        from vlp_jax.api.released_mae import read_mae

        if image_size:
            raise UserError("--image-size: a masked autoencoder's positions are fixed, not resized")
        return read_mae(checkpoint, arch_name)
    if not arch_name and not checkpoint.fields():
        raise UserError(f"--arch: missing{_looks_like(checkpoint) or ', e.g. --arch=ViT-B-32'}")
    config, notes = method_config(checkpoint, arch_name, image_size)
    arrays = _arrays(checkpoint, config, arch_name, image_size, notes)
    method = make_method(config)
    spec, files = _tokenizer(checkpoint, tokenizer, method)
    if not spec["name"]:
        notes.append("no tokenizer beside the weights; texts will need one (--tokenizer=FILE)")
    pictures, size = _preprocessing(checkpoint), method.image_tower.image_size
    pictures = for_model(pictures | ({"image_size": size} if image_size else {}), size, path)
    manifest = {
        "arch": arch_name or _arch_of(method) or config["name"],
        "method": config,
        "preprocessing": pictures,
        "tokenizer": spec,
        "source": {"file": os.path.basename(checkpoint.path), "kind": checkpoint.kind},
        "golden": _golden(checkpoint, method, arrays),
    }
    return arrays, manifest, notes, files


def _arrays(
    checkpoint: Checkpoint,
    config: dict[str, Any],
    arch_name: str,
    image_size: int,
    notes: list[str],
) -> dict[str, np.ndarray]:
    """Checks every name and shape, then reads; the result mapped back is the input, bit for bit.
    Positions that are not the fixed table that the config says become weights, in `config` too.
    """
    method = make_method(config)
    tables, state = position_tables(method), checkpoint.state
    expected = expected_shapes(method) | {path: table.shape for path, table in tables.items()}
    if image_size and tables:
        raise UserError("--image-size: fixed sine-cosine positions are not resized")
    if image_size:
        state = resize_state(state, checkpoint.family, expected, antialias=not checkpoint.is_hf)
    what = arch_name or "what its config says"
    try:
        check(checkpoint.family, state, expected, f"{checkpoint.path} does not hold {what}")
    except UserError as error:
        first, *rest = str(error).split("\n")
        raise UserError("\n".join([first + _looks_like(checkpoint), *rest])) from None
    arrays = to_ours(checkpoint.family, state, expected, checkpoint.path)
    prove_names(checkpoint.family, state, arrays, checkpoint.path)
    for path, table in tables.items():
        (name,) = their_shapes(checkpoint.family, {path: table.shape})
        if same_table(arrays[path], table, state[name].dtype):
            del arrays[path]
        else:
            config["image"]["pos_embed"] = "learned"
            notes.append("positions are not the fixed table that the config says; kept as weights")
    return arrays


def _golden(
    checkpoint: Checkpoint, method: Method, arrays: dict[str, np.ndarray]
) -> dict[str, list[float]]:
    rows = golden_embeddings(method, embedders(method, *split_extra(arrays)))
    for side, row in rows.items():
        if not np.isfinite(row).all():
            where = f"{checkpoint.path}: its weights"
            raise UserError(f"{where} give a {side} embedding that is not finite")
    return {side: [float(value) for value in row] for side, row in rows.items()}


def method_config(
    checkpoint: Checkpoint, arch_name: str, image_size: int = 0
) -> tuple[dict[str, Any], list[str]]:
    """The method's config for this checkpoint: the named architecture with the switches that its
    files set, or all that they say.

    Returns:
      (config, notes about switches that differ from the name's).
    """
    said, notes = checkpoint.fields(), list(checkpoint.notes)
    arch = clip_arch(arch_name) if arch_name else said
    name = "siglip" if "logit_bias" in checkpoint.state else "clip"
    if arch_name:
        before = computed(make_method({"name": name, **arch}))
        for tower, changes in checkpoint.arch_changes().items():
            known = before[tower]
            arch[tower] |= {key: value for key, value in changes.items() if key in known}
        after = computed(make_method({"name": name, **arch}))
        for key, (said_now, named) in unlike(after, before).items():
            notes.append(f"{key} is {said_now!r} as the files say, not {named!r}")
    if checkpoint.is_hf and not checkpoint.config:
        activation = arch["image"].get("activation")
        notes.append(f"no config.json beside the weights; activation {activation!r} is the name's")
    if image_size:
        _check_image_size(arch["image"], image_size)
        arch["image"]["image_size"] = image_size
    how = _preprocessing(checkpoint)
    return {**arch, "name": name, "image_mean": how["mean"], "image_std": how["std"]}, notes


def _check_image_size(image: dict[str, Any], image_size: int) -> None:
    if image["name"] != "vit":
        raise UserError("--image-size: only a ViT's position embeddings can be resized")
    if image_size < 1 or image_size % image["patch_size"]:
        raise UserError(f"--image-size: {image_size} is no multiple of {image['patch_size']}")


def _preprocessing(checkpoint: Checkpoint) -> dict[str, Any]:
    return default_preprocessing(checkpoint.is_siglip, checkpoint.is_hf) | dict(
        checkpoint.preprocessing
    )


def _arch_of(method: Method) -> str:
    """The name of this architecture among the released ones, or ""."""
    own = computed(method)
    name = "siglip" if own["image"].get("pool") == "map" else "clip"
    found = (
        known for known in ARCHS if computed(make_method({"name": name, **clip_arch(known)})) == own
    )
    return next(found, "")


def _tokenizer(
    checkpoint: Checkpoint, asked: str, method: Method
) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns ({name, context_length, options}, {name in the folder: file to copy})."""
    tower = method.text_tower
    file = asked.removeprefix("spm:") if asked not in ("", "clip", "bytes") else ""
    if file and not os.path.isfile(file):
        raise UserError(f"--tokenizer: {file}: no such file")
    if asked:
        check_vocab(load_tokenizer(asked, tower.context_length), tower.vocab_size)
    elif _has_clips_vocabulary(checkpoint, tower.vocab_size):
        asked = "clip"
    else:
        file = checkpoint.tokenizer_file
    options = {} if asked == "bytes" else _tokenizer_options(checkpoint, file, tower.vocab_size)
    spec = {"name": asked, "context_length": tower.context_length, "options": options}
    if not file:
        return spec, {}
    is_json = file.endswith(".json")
    name = "tokenizer.json" if is_json else "tokenizer.model"
    files, named = {name: file}, os.path.join(os.path.dirname(file), "tokenizer_config.json")
    if is_json and os.path.isfile(named):
        files["tokenizer_config.json"] = named  # names the padding
    return spec | {"name": name if is_json else f"spm:{name}"}, files


def _has_clips_vocabulary(checkpoint: Checkpoint, vocab_size: int) -> bool:
    """Whether a text tower that came without --tokenizer reads CLIP's ids."""
    file = checkpoint.tokenizer_file
    if not checkpoint.is_hf and checkpoint.config:  # get_tokenizer of open_clip decides so
        return not checkpoint.text_cfg.get("hf_tokenizer_name") and vocab_size == 49408
    if vocab_size != 49408 or not file.endswith(".json"):
        return vocab_size == 49408 and not file
    return load_tokenizer(file).vocab_size == vocab_size


def _tokenizer_options(checkpoint: Checkpoint, file: str, vocab_size: int) -> dict[str, Any]:
    """How texts are cleaned and padded: as the files say, else as the release does."""
    if not checkpoint.is_hf and checkpoint.config:
        clean = (checkpoint.text_cfg.get("tokenizer_kwargs") or {}).get("clean")
        options = {"clean": clean} if clean else {}
    elif checkpoint.is_siglip and file and not _says_class(file):
        options = {"clean": "canonicalize"}  # punctuation dropped
    else:
        options = {}
    if checkpoint.is_siglip and file and vocab_size == 32000:
        options["pad_id"] = 1  # padded with </s>, T5's id 1
    return options


def _says_class(file: str) -> bool:
    """Whether the tokenizer_config.json beside a file names another class than SigLIP's."""
    path = os.path.join(os.path.dirname(file), "tokenizer_config.json")
    kind = read_json(path).get("tokenizer_class", "") if os.path.isfile(path) else ""
    return bool(kind) and not kind.startswith(("Siglip", "T5"))


def _looks_like(checkpoint: Checkpoint) -> str:
    """Names the architectures whose telling shapes the checkpoint has."""
    found = [name for name, arch in ARCHS.items() if _fits(checkpoint, arch)]
    shown = [name for name in found if not name.endswith("-quickgelu")] or found
    return f"; its shapes are those of {' or '.join(shown)}" if shown else ""


def _fits(checkpoint: Checkpoint, arch: dict[str, Any]) -> bool:
    image, text = arch["image"], arch["text"]
    if (image["name"] == "resnet") != ("visual.attnpool.positional_embedding" in checkpoint.state):
        return False
    if (image.get("pool") == "map") != checkpoint.is_siglip:
        return False
    telling = {"text/token_embed/embedding": (text.get("vocab_size", 49408), text["width"])}
    if image["name"] == "vit":
        grid, width = image["image_size"] // image["patch_size"], image["width"]
        telling["image/pos_embed"] = (grid * grid + (image.get("pool", "cls") == "cls"), width)
        telling["image/patch_embed/kernel"] = (image["patch_size"], image["patch_size"], 3, width)
        telling["image/blocks/norm1/scale"] = (image["num_layers"], width)
    else:
        telling["image/attnpool/pos_embed"] = (
            (image["image_size"] // 32) ** 2 + 1,
            32 * image["width"],
        )
        for stage, count in enumerate(image["layers"], start=1):
            telling[f"image/stage{stage}_block{count - 1}/conv1/bn/scale"] = (
                image["width"] * 2 ** (stage - 1),
            )
    shapes = their_shapes(checkpoint.family, telling)
    return all(
        name in checkpoint.state and checkpoint.state[name].shape == shape
        for name, shape in shapes.items()
    )
