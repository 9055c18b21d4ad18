"""open_clip's SigLIP: timm's ViT with attention pooling, and a text tower under `text.`.

Names as in open_clip 3.3.0 and timm 1.0 (vision_transformer.py, attention_pool.py). The file exists
to hold what is this family's alone.
"""

from typing import Any

from vlp_jax.interop import preprocess
from vlp_jax.interop.blocks import blocks, linear, norm, patches
from vlp_jax.interop.families.open_clip import SCALARS, OpenClip, text_tower
from vlp_jax.interop.family import Beside, Config
from vlp_jax.interop.rules import Rule, Table
from vlp_jax.interop.siglip import tokenizer_options
from vlp_jax.interop.tensors import State

_TRUNK, _POOL = "visual.trunk", "visual.trunk.attn_pool"
_TIMM_VIT = (
    *patches("image/patch_embed", f"{_TRUNK}.patch_embed.proj"),
    Rule("image/pos_embed", f"{_TRUNK}.pos_embed", "1 n d -> n d"),
    *blocks(
        "image",
        f"{_TRUNK}.blocks.{{i}}",
        ("attn.qkv.weight", "attn.qkv.bias"),
        "attn.proj",
        ("norm1", "norm2"),
        ("mlp.fc1", "mlp.fc2"),
    ),
    *norm("image/norm_post", f"{_TRUNK}.norm"),
    Rule("image/pool/probe", f"{_POOL}.latent", "1 1 d -> d"),
    Rule("image/pool/attn/query/kernel", f"{_POOL}.q.weight", "(h k) i -> i h k"),
    Rule("image/pool/attn/query/bias", f"{_POOL}.q.bias", "(h k) -> h k"),
    Rule("image/pool/attn/key_value/kernel", f"{_POOL}.kv.weight", "(two h k) i -> i h two k"),
    Rule("image/pool/attn/key_value/bias", f"{_POOL}.kv.bias", "(two h k) -> h two k"),
    Rule("image/pool/attn/out/kernel", f"{_POOL}.proj.weight", "o (h k) -> h k o"),
    Rule("image/pool/attn/out/bias", f"{_POOL}.proj.bias"),
    *norm("image/pool/norm", f"{_POOL}.norm"),
    *linear("image/pool/mlp/fc1", f"{_POOL}.mlp.fc1"),
    *linear("image/pool/mlp/fc2", f"{_POOL}.mlp.fc2"),
    *linear("image/head", "visual.head.proj"),
)
_PROJECTION = "text.text_projection"


class OpenClipSiglip(OpenClip):
    """A dual encoder on one of timm's SigLIP trunks."""

    has = ("visual.trunk.attn_pool.latent",)
    archive = None
    release = preprocess.SIGLIP

    def table(self, names: Any) -> Table:
        """The projection of texts is a linear layer, but where a file or a tree has a matrix."""
        own = f"{_PROJECTION}.weight" in names or "text/head/bias" in names
        with_bias = own or not {_PROJECTION, "text/head/kernel"} & set(names)
        rules = (*_TIMM_VIT, *text_tower("text.", with_bias), *SCALARS)
        return Table("open_clip SigLIP", rules)

    def known_names(self, state: State) -> State:
        """As they are."""
        return state

    def switches(self, state: State, config: Config) -> dict[str, dict[str, Any]]:
        """open_clip runs the first SigLIP with exact GELU."""
        return {"image": {"activation": "gelu"}, "text": {"activation": "gelu"}}

    def tokenizer_options(
        self, beside: Beside, file: str, vocab_size: int, method: str
    ) -> dict[str, Any]:
        """tokenizer_kwargs, else as the release does."""
        said = (
            super().tokenizer_options(beside, file, vocab_size, method) if beside.config else None
        )
        return tokenizer_options(said, file, vocab_size)

    def takes(self, method: Config) -> bool:
        """Image towers with attention pooling."""
        return method["name"] in self.methods and method["image"].get("pool") == "map"


FAMILY = OpenClipSiglip()
