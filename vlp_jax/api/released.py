"""Reads a released checkpoint into our tree: architecture, weights, preprocessing, tokenizer,
golden embeddings.

The file exists to hold what `convert` decides about its input: which switches the files set, and
what is refused.
"""

import copy
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from vlp_jax.api.released_tokenizers import MAIN, NONE, find_tokenizers
from vlp_jax.api.switches import computed, described, networks, unlike
from vlp_jax.api.weights import expected_shapes, position_tables
from vlp_jax.core import dispatch
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.fields import Picture
from vlp_jax.interop.detect import Checkpoint, open_checkpoint
from vlp_jax.interop.family import families
from vlp_jax.interop.position import resize_state, same_table
from vlp_jax.interop.preprocess import for_model
from vlp_jax.interop.rules import check, mapped, their_shapes
from vlp_jax.interop.tensors import Tensor
from vlp_jax.methods.base import Method, make_method
from vlp_jax.models.resnet_v1 import LAYERS
from vlp_jax.models.towers import make_tower
from vlp_jax.nn.precision import DTYPES

Arch = dict[str, Any]


class Parts(NamedTuple):
    """Parts of a model on their way between files.

    Attributes:
      arrays: {path: tensor}, or arrays.
      manifest: of interop/folder.py, without golden embeddings.
      notes: for the user.
      files: {name in the folder: tokenizer file to copy}.
    """

    arrays: dict[str, Any]
    manifest: dict[str, Any]
    notes: list[str]
    files: dict[str, str]


def sizes(folder: str) -> Mapping[str, Arch]:
    """The published sizes of models/archs/FOLDER.py by name."""
    return dispatch.load("models.archs", folder, "--arch").ARCHS


def read_released(
    path: str,
    arch_name: str,
    image_size: int = 0,
    tokenizer: str = "",
    weights: str = "",
    dtype: str = "",
) -> Parts:
    """Opens and checks a released checkpoint, whose weights are converted, and proven, as they are
    read.

    Args:
      path: file or folder.
      arch_name: a name of the family's file in models/archs; "" takes the sizes that the config
        beside the weights says.
      image_size: resize a ViT's position embeddings to this; 0 keeps them.
      tokenizer: see data/text; "" takes the one beside the weights, or CLIP's.
      weights: raw or ema, where a file holds both.
      dtype: float32, bfloat16 or float16 of the networks' weights; "" keeps the file's.

    Raises:
      UserError: everything that does not fit, in one message, before a weight is read.
    """
    known = {name for family in families().values() for name in sizes(family.archs)}
    if arch_name and arch_name not in known:  # told before a large file is opened
        raise UserError(f"unknown architecture {arch_name!r}{nearest(arch_name, known)}")
    checkpoint = open_checkpoint(path, weights)
    if image_size and checkpoint.family.unresizable:
        raise UserError(f"--image-size: {checkpoint.family.unresizable}")
    config, notes = method_config(checkpoint, arch_name, image_size)
    arrays = _arrays(checkpoint, config, arch_name, image_size, notes)
    method = make_method(config)
    arrays = cast(method, arrays, dtype)
    texts = find_tokenizers(checkpoint, tokenizer, method, notes)
    if told := checkpoint.family.empty_texts(texts.empty):
        config |= told
        method = make_method(config)
    further = {name: spec for name, spec in texts.specs.items() if name != MAIN}
    manifest = {
        "arch": arch_name or _arch_of(checkpoint, method) or config["name"],
        "method": config,
        "parts": parts_of(method, arrays),
        "preprocessing": _preprocessing(checkpoint, method, image_size),
        "tokenizer": texts.specs.get(MAIN, NONE),
        **({"tokenizers": further} if further else {}),
        **checkpoint.family.manifest(checkpoint.beside),
        "source": {"file": os.path.basename(checkpoint.path), "kind": checkpoint.family.name},
    }
    return Parts(arrays, manifest, notes, texts.files)


def cast(method: Method, arrays: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The weights of the networks in another dtype ("" keeps it); lone parameters and batch
    statistics stay."""
    inside = tuple(f"{part}/" for part in networks(method)) if dtype else ()
    kind = DTYPES[dtype or "float32"]
    return {path: a.astype(kind) if path.startswith(inside) else a for path, a in arrays.items()}


def parts_of(method: Method, arrays: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{part: {net: its network with every field, or {} for a lone parameter; dtypes; parameters}}
    of a tree, as a manifest says it."""
    nets, found = networks(method), {}
    for part in method.parts():
        own = [a for path, a in arrays.items() if path == part or path.startswith(f"{part}/")]
        dtypes = sorted({str(array.dtype) for array in own})
        count = sum(array.size for array in own)
        found[part] = {"net": nets.get(part, {}), "dtypes": dtypes, "parameters": count}
    return found


def method_config(
    checkpoint: Checkpoint, arch_name: str, image_size: int = 0
) -> tuple[dict[str, Any], list[str]]:
    """The method's config for this checkpoint: the named architecture with the switches that its
    files set, or all that they say.

    Returns:
      (config, notes about switches that differ from the name's).

    Raises:
      UserError: neither a name nor a config; a size that does not fit.
    """
    family, notes = checkpoint.family, list(checkpoint.notes)
    said = checkpoint.method() or ({} if arch_name else _inferred(checkpoint))
    config = {"name": family.methods[0], **said}
    if arch_name:
        config, more = _named(checkpoint, arch_name, config)
        notes += more
    elif not any(isinstance(part, Mapping) for part in config.values()):
        shown = _looks_like(checkpoint) or f", e.g. --arch={next(iter(sizes(family.archs)))}"
        why = f" ({notes[0]})" if checkpoint.notes else ""
        raise UserError(f"--arch: missing{shown}{why}")
    notes += family.complete(config, checkpoint.state, checkpoint.beside)
    if image_size:
        _check_image_size(config.get("image", {}), image_size)
        config["image"]["image_size"] = image_size
    if "image" in config:
        how = family.release | dict(checkpoint.preprocessing)
        config |= {"image_mean": how["mean"], "image_std": how["std"]}
    return config, notes


def _inferred(checkpoint: Checkpoint) -> dict[str, Any]:
    try:
        return checkpoint.family.inferred(checkpoint.state)
    except UserError as error:
        raise UserError(f"{checkpoint.path}: {error}") from error


def _named(
    checkpoint: Checkpoint, arch_name: str, said: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """(config of a named architecture with the switches of the files, what they changed)."""
    archs = sizes(checkpoint.family.archs)
    if arch_name not in archs:
        what = f"--arch: {arch_name!r} is no size of {checkpoint.table.name}"
        raise UserError(f"{what}{nearest(arch_name, archs)}")
    scalars = {key: value for key, value in said.items() if not isinstance(value, Mapping)}
    config = scalars | copy.deepcopy(dict(archs[arch_name]))
    before = computed(make_method(config))
    for part, changes in checkpoint.switches().items():
        config[part] |= {key: value for key, value in changes.items() if key in before[part]}
    changed = unlike(computed(make_method(config)), before)
    notes = [
        f"{key} is {value!r} as the files say, not {named!r}"
        for key, (value, named) in changed.items()
    ]
    return config, notes


def _check_image_size(image: Mapping[str, Any], image_size: int) -> None:
    if image.get("name") != "vit":
        raise UserError("--image-size: only a ViT's position embeddings can be resized")
    if image_size < 1 or image_size % image["patch_size"]:
        raise UserError(f"--image-size: {image_size} is no multiple of {image['patch_size']}")


def _arrays(
    checkpoint: Checkpoint,
    config: dict[str, Any],
    arch_name: str,
    image_size: int,
    notes: list[str],
) -> dict[str, Tensor]:
    """Checks every name and shape. Positions that are not the fixed table that the config says
    become weights, in `config` too.
    """
    method, table = make_method(config), checkpoint.table
    fixed, state = position_tables(method), checkpoint.state
    expected = expected_shapes(method) | {path: rows.shape for path, rows in fixed.items()}
    if image_size and fixed:
        raise UserError("--image-size: fixed sine-cosine positions are not resized")
    if image_size:
        state = resize_state(state, table, expected, checkpoint.family.antialias)
    what = arch_name or "what its config says"
    try:
        check(table, state, expected, f"{checkpoint.path} does not hold {what}")
    except UserError as error:
        first, *rest = str(error).split("\n")
        raise UserError("\n".join([first + _looks_like(checkpoint), *rest])) from None
    arrays = mapped(table, state, expected, checkpoint.path)
    for path, rows in fixed.items():
        part, (name,) = path.partition("/")[0], their_shapes(table, {path: rows.shape})
        if same_table(arrays[path].read(), rows, state[name].code):
            del arrays[path]
        elif "pos_embed" in described(method)[part]:
            config[part]["pos_embed"] = "learned"
            notes.append(f"{part}: its positions are not the fixed table; they are kept as weights")
        else:
            raise UserError(f"{checkpoint.path}: {path} is not the fixed sine-cosine table")
    return arrays


def _preprocessing(checkpoint: Checkpoint, method: Method, image_size: int) -> dict[str, Any]:
    """Of pictures; {} for a model of texts alone."""
    field = method.fields().get("image")
    if not isinstance(field, Picture):
        return {}
    said = checkpoint.family.release | dict(checkpoint.preprocessing)
    said |= {"image_size": image_size} if image_size else {}
    return for_model(said, field.size, checkpoint.path)


def _arch_of(checkpoint: Checkpoint, method: Method) -> str:
    """The name of this architecture among the released ones, or ""."""
    name = described(method)["name"]
    whole = lambda m: (computed(m), described(m).get("schedule"))  # noqa: E731

    def is_it(arch: Arch) -> bool:
        try:
            return whole(make_method({"name": name, **arch})) == whole(method)
        except UserError:  # a size of another method of the family
            return False

    archs = sizes(checkpoint.family.archs).items()
    return next((known for known, arch in archs if is_it(arch)), "")


def _looks_like(checkpoint: Checkpoint) -> str:
    """Names the architectures whose telling shapes the checkpoint has."""
    archs = sizes(checkpoint.family.archs)
    found = [name for name, arch in archs.items() if _fits(checkpoint, arch)]
    shown = [name for name in found if not name.endswith("-quickgelu")] or found
    return f"; its shapes are those of {' or '.join(shown)}" if shown else ""


def _fits(checkpoint: Checkpoint, arch: Arch) -> bool:
    family, state = checkpoint.family, checkpoint.state
    if not family.takes({"name": family.methods[0], **arch}):
        return False
    telling = {}
    for part, net in arch.items():
        if isinstance(net, Mapping):
            shapes = _telling(net).items()
            telling |= {f"{part}/{path}": shape for path, shape in shapes}
    try:
        shapes = their_shapes(checkpoint.table, telling)
    except UserError:  # a network that the family has no names for
        return False
    return all(name in state and state[name].shape == shape for name, shape in shapes.items())


def _telling(net: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes that tell one size of a network from another, by path."""
    name, width = net.get("name"), net.get("width")
    if name == "efficientnet":
        tower = make_tower(net, "image")
        norms = {
            f"block{number}/project/bn/scale": (block.after,)
            for number, block in enumerate(tower.blocks())
        }
        return {"stem/bn/scale": (tower.stem_width,), **norms}
    if name == "vit":
        patch, grid = net["patch_size"], net["image_size"] // net["patch_size"]
        return {
            "pos_embed": (grid * grid + (net.get("pool", "cls") == "cls"), width),
            "patch_embed/kernel": (patch, patch, 3, width),
            "blocks/norm1/scale": (net["num_layers"], width),
        }
    if name == "resnet":
        stages = enumerate(net["layers"], start=1)
        norms = {
            f"stage{stage}_block{count - 1}/conv1/bn/scale": (width * 2 ** (stage - 1),)
            for stage, count in stages
        }
        return norms | {"attnpool/pos_embed": ((net["image_size"] // 32) ** 2 + 1, 32 * width)}
    if name == "resnet_v1":
        depth, block = net["depth"], f"stage3_block{LAYERS[net['depth']][2] - 1}/conv1/bn/scale"
        last = ("conv3", 256) if depth >= 50 else ("conv2", 64)
        return {block: (256,), f"stage1_block0/{last[0]}/bn/scale": (last[1],)}
    if name == "text":
        return {"token_embed/embedding": (net.get("vocab_size", 49408), width)}
    if name in ("bert", "med"):
        sizes = {"token_embed/embedding": (net["vocab_size"], width)}
        return sizes | {"blocks/norm2/scale": (net["num_layers"], width)}
    return {}
