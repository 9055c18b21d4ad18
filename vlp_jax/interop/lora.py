"""LoRA files of diffusers, both ways, through the rule tables of the networks that they change.

Read: peft's names (`unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight`),
those of diffusers before it (`.lora.down.weight`, `.processor.to_q_lora.down.weight`,
`.lora_linear_layer.down.weight`) and kohya's (`lora_unet_..._to_q.lora_down.weight` with `.alpha`,
blocks counted as in diffusers or as in the original U-Net). Written: peft's, `pytorch_lora_weights.
safetensors`, b times scale, so that every reader agrees without an alpha. Their A [r, in] and B
[out, r] (convolutions [r, in, h, w] and [out, r, 1, 1]) are laid out as the kernel's rule says. The
file exists so that a LoRA is the names of its base and nothing else.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange

from vlp_jax.core import adapters
from vlp_jax.core.adapters import Adapter
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.interop.diffusers_unet import unet_rules
from vlp_jax.interop.hf import clip_layers
from vlp_jax.interop.rules import Bound, Rule, Table, bind
from vlp_jax.interop.tensors import Tensor
from vlp_jax.interop.weights_file import read_metadata, read_safetensors

FILE = "pytorch_lora_weights.safetensors"
METADATA = "lora_adapter_metadata"  # of diffusers since 0.34: ranks and alphas by peft's words
_KEY = re.compile(
    r"(?P<stem>.+?)(?:\.lora_(?P<peft>[AB])(?:\.default)?\.weight"
    r"|[._]lora(?:_linear_layer)?\.(?P<side>down|up)\.weight"
    r"|\.lora_(?P<flat>down|up)\.weight|\.(?P<alpha>alpha))"
)


class Names(NamedTuple):
    """A part's names: before peft's, before kohya's, and of its layers."""

    prefix: str
    flat: tuple[str, ...]
    rules: tuple[Rule, ...]


def _text(part: str) -> tuple[Rule, ...]:
    """CLIPTextModel with or without its projection."""
    head = Rule(f"{part}/head/kernel", "text_projection.weight", "o i -> i o")
    return (*clip_layers(part, "text_model"), head)


def _image(part: str) -> tuple[Rule, ...]:
    """CLIPVisionModel with or without its projection."""
    head = Rule(f"{part}/head/kernel", "visual_projection.weight", "o i -> i o")
    return (*clip_layers(part, "vision_model"), head)


PARTS = {
    "unet": Names("unet", ("lora_unet",), (*unet_rules("unet"), *unet_rules("unet", plain=True))),
    "text": Names("text_encoder", ("lora_te", "lora_te1"), _text("text")),
    "text_2": Names("text_encoder_2", ("lora_te2",), _text("text_2")),
    "image": Names("image_encoder", (), _image("image")),
}


class _Place(NamedTuple):
    """One linear map of theirs: in our kernel of the adapter shapes, its layer and number."""

    kernel: str
    shapes: Adapter
    bound: Bound
    layer: int
    number: int
    module: str

    def layouts(self) -> tuple[str, str]:
        """How A and B turn into [*in, r] and [r, *out] of one map."""
        left, right = self.bound.layout.split("->")
        tokens = re.findall(r"\([^)]*\)|\S+", left)
        several = len(self.bound.names[0]) > 1
        out, *inputs = tokens[self.bound.stacked + several :]
        named = lambda group: [w for w in right.split() if w in re.findall(r"\w+", group)]  # noqa: E731
        theirs, ours = " ".join(inputs), " ".join(named(" ".join(inputs)))
        return f"r {theirs} -> {ours} r", f"{out} r -> r {' '.join(named(out))}"

    def sizes(self, layout: str) -> dict[str, int]:
        """Sizes of grouped axes in it."""
        words = re.findall(r"\w+", layout)
        return {axis: n for axis, n in self.bound.sizes().items() if axis in words}

    @property
    def stacked(self) -> bool:
        return len(self.shapes.scale) > 2

    def of(self, adapter: Adapter) -> Adapter:
        """Views of this map's own [*in, r], [r, *out] and [r] of the kernel's leaves."""
        a, b, scale = (leaf[self.layer] if self.stacked else leaf for leaf in adapter)
        several = self.shapes.scale[-2] > 1
        b = b[..., self.number, :] if several else b
        return Adapter(a[..., self.number, :], b, scale[self.number])


def _places(shapes: Mapping[str, Adapter]) -> dict[str, _Place]:
    """{their module with its part's prefix: its place} of all layers of a base that have names.

    shapes: {path of a kernel: shapes of its adapter}, of any rank.
    """
    found = {}
    for part, names in PARTS.items():
        own = {path: its for path, its in shapes.items() if path.startswith(f"{part}/")}
        for path, its in own.items():
            try:
                (bound,) = bind(Table(part, names.rules), {path: adapters.kernel_shape(its)})
            except UserError:  # a layer that no file names
                continue
            for layer, row in enumerate(bound.names):
                for number, name in enumerate(row):
                    module = name.removesuffix(".weight")
                    whole = f"{names.prefix}.{module}"
                    found[whole] = _Place(path, its, bound, layer, number, module)
    return found


def _aliases(places: Mapping[str, _Place]) -> dict[str, str]:
    """{what else a module may be called: its name among the places}."""
    blocks = [re.match(r"unet\.down_blocks\.0\.resnets\.(\d+)", name) for name in places]
    per_level = 2 + max((int(found[1]) for found in blocks if found), default=0)
    found: dict[str, str] = {}
    for whole, place in places.items():
        names = PARTS[place.kernel.partition("/")[0]]
        spelled = [place.module]
        if names.prefix == "unet":
            spelled.append(_original(place.module, per_level))
            found.setdefault(place.module, whole)
        if place.module.startswith("text_model."):
            found[f"{names.prefix}.{place.module.removeprefix('text_model.')}"] = whole
        for flat in names.flat:
            found |= {f"{flat}_{module.replace('.', '_')}": whole for module in spelled}
    return found


def _original(module: str, per_level: int) -> str:
    """A transformer of diffusers' U-Net under the number that CompVis's gives its block."""
    match = re.match(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.(.*)", module)
    if match is None:
        return module.replace("mid_block.attentions.0.", "middle_block.1.")
    side, level, number = match[1], int(match[2]), int(match[3])
    before = f"input_blocks.{1 + level * per_level + number}"
    if side == "up":
        before = f"output_blocks.{level * per_level + number}"
    return f"{before}.1.{match[4]}"


def read_lora(path: str, shapes: Mapping[str, Adapter]) -> dict[str, np.ndarray]:
    """Reads a file as adapters of a base.

    Args:
      path: a .safetensors file.
      shapes: {path of a kernel: shapes of its adapter}, of any rank, of the base's layers.

    Returns:
      {path of a leaf: float32 array}, of the kernels that the file changes; layers and maps beside
      each other that it leaves out, and ranks below the largest, have scale 0.

    Raises:
      UserError: a file that cannot be read, holds no LoRA, or is one of another base; one line.
    """
    state, places = read_safetensors(path), _places(shapes)
    maps = _grouped(path, state, places)
    alphas = _said_alphas(path)
    found: dict[str, Adapter] = {}
    ranks: dict[str, int] = {}
    for whole, own in maps.items():
        kernel = places[whole].kernel
        ranks[kernel] = max(ranks.get(kernel, 0), own["down"].shape[0])
    for kernel, rank in ranks.items():
        made = adapters.of_rank(shapes[kernel], rank)
        found[kernel] = Adapter(*(np.zeros(shape, np.float32) for shape in made))
    for whole, own in maps.items():
        place, rank = places[whole], own["down"].shape[0]
        into = place.of(found[place.kernel])
        down, up = (own[side].read().astype(np.float32) for side in ("down", "up"))
        as_a, as_b = place.layouts()
        into.a[..., :rank] = rearrange(down, as_a, **place.sizes(as_a))
        up = up.reshape(up.shape[:2])
        into.b[:rank] = rearrange(up, as_b, **place.sizes(as_b))
        alpha = own["alpha"].read().item() if "alpha" in own else alphas(whole, rank)
        into.scale[:rank] = float(alpha) / rank
        if not all(np.isfinite(leaf).all() for leaf in into):
            raise UserError(f"{path}: the numbers of {whole} are not finite")
    return {
        leaf: array
        for kernel, adapter in found.items()
        for leaf, array in zip(adapters.names(kernel), adapter, strict=True)
    }


def _grouped(
    path: str, state: Mapping[str, Tensor], places: Mapping[str, _Place]
) -> dict[str, dict[str, Tensor]]:
    """{name of a place: its tensors, {down, up, alpha}}, checked."""
    aliases, found, keys = _aliases(places), {}, {}
    for key, tensor in state.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise UserError(f"{path}: {key} is no tensor of a LoRA of linear layers")
        stem = match["stem"].removeprefix("base_model.model.").replace(".processor.", ".")
        stem += ".0" if stem.endswith(".to_out") else ""
        whole = stem if stem in places else aliases.get(stem)
        if whole is None:
            hint = nearest(stem, [*places, *aliases], 3)
            what = f"{key} {list(tensor.shape)}: the base has no such layer"
            raise UserError(f"{path}: is of another base, {what}{hint}")
        side = "alpha" if match["alpha"] else match["side"] or match["flat"]
        side = side or {"A": "down", "B": "up"}[match["peft"]]
        found.setdefault(whole, {})[side] = tensor
        keys[whole, side] = key
    for whole, own in found.items():
        for side in ("down", "up"):
            if side not in own:
                raise UserError(f"{path}: {keys[whole, min(own)]} has no {side} beside it")
        _check(path, places[whole], own, {side: keys[whole, side] for side in own})
    return found


def _check(path: str, place: _Place, own: Mapping[str, Tensor], keys: Mapping[str, str]) -> None:
    """Raises UserError where the tensors of a map do not fit its layer."""
    kernel = np.broadcast_to(np.float32(0), adapters.kernel_shape(place.shapes))
    whole = place.bound.to_theirs(kernel)[place.layer][place.number].shape
    if "alpha" in own and np.prod(own["alpha"].shape) != 1:
        found = list(own["alpha"].shape)
        raise UserError(f"{path}: {keys['alpha']} is {found}, an alpha is one number")
    down, up = own["down"].shape, own["up"].shape
    rank, ones = down[0] if down else 0, (1,) * (len(whole) - 2)
    fits_up = up in ((whole[0], rank), (whole[0], rank, *ones))
    for side, fits, found, wanted in (
        ("down", down[1:] == whole[1:] and rank, down, (rank or "r", *whole[1:])),
        ("up", fits_up, up, (whole[0], rank, *ones)),
    ):
        if not fits:
            what = f"{keys[side]} is {list(found)}, its layer takes {list(wanted)}"
            raise UserError(f"{path}: is of another base, {what}")


def _said_alphas(path: str) -> Any:
    """f(name of a place, rank) -> alpha, as diffusers' metadata says it; without them the rank."""
    try:
        said = json.loads(read_metadata(path).get(METADATA, "{}"))
        said = said if isinstance(said, dict) else {}
    except ValueError as error:
        raise UserError(f"{path}: its {METADATA} is not JSON ({error})") from error

    def alpha(whole: str, rank: int) -> float:
        prefix, _, module = whole.partition(".")
        own = said.get(f"{prefix}.alpha_pattern") or {}
        known = (value for name, value in own.items() if module.endswith(name))
        found = next(known, said.get(f"{prefix}.lora_alpha", rank))
        return float(found) * (rank**0.5 if said.get(f"{prefix}.use_rslora") else 1.0)

    return alpha


def write_lora(flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The adapters of a flat tree under peft's names, float32.

    Raises:
      UserError: one on a layer that such files have no name for.
    """
    own = dict(adapters.adapters(flat))
    places = _places({kernel: Adapter(*map(np.shape, its)) for kernel, its in own.items()})
    named = {place.kernel for place in places.values()}
    for kernel, its in own.items():
        several = sum(place.kernel == kernel for place in places.values())
        layers = its.scale.shape[0] if its.scale.ndim > 2 else 1
        if kernel not in named or several != layers * its.scale.shape[-2]:
            known = ", ".join(PARTS)
            raise UserError(f"--to=lora: files have no name for {kernel} (parts: {known})")
    state = {}
    for whole, place in places.items():
        a, b, scale = place.of(Adapter(*(np.asarray(x, np.float32) for x in own[place.kernel])))
        used = scale != 0
        if not used.any():  # a map that its file left out
            continue
        (left_a, right_a), (left_b, right_b) = (text.split(" -> ") for text in place.layouts())
        down = rearrange(a[..., used], f"{right_a} -> {left_a}")
        up = rearrange(b[used] * _wide(scale[used], b.ndim), f"{right_b} -> {left_b}")
        up = up.reshape(*up.shape, *(1,) * (down.ndim - 2))
        state[f"{whole}.lora_A.weight"] = np.ascontiguousarray(down)
        state[f"{whole}.lora_B.weight"] = np.ascontiguousarray(up)
    return state


def _wide(scale: np.ndarray, axes: int) -> np.ndarray:
    """[r] -> [r, 1, ...]."""
    return scale.reshape(-1, *(1,) * (axes - 1))
