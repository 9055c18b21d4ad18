"""facebookresearch/mae (models_mae.py), whose encoder timm's ViT reads.

The file exists to hold what is this family's alone: weights without any config.
"""

from typing import Any

from vlp_jax.interop.blocks import blocks
from vlp_jax.interop.family import Config
from vlp_jax.interop.mae import MaskedAutoencoder, check_fits, ends
from vlp_jax.interop.rules import Rule, Table


def _blocks(ours: str, theirs: str) -> tuple[Rule, ...]:
    qkv = ("attn.qkv.weight", "attn.qkv.bias")
    norms, mlp = ("norm1", "norm2"), ("mlp.fc1", "mlp.fc2")
    return blocks(ours, f"{theirs}.{{i}}", qkv, "attn.proj", norms, mlp)


class OfficialMae(MaskedAutoencoder):
    """The official files."""

    has = ("patch_embed.proj.weight",)
    to = "mae"
    alone = True

    def table(self, names: Any) -> Table:
        """One table."""
        places = ("pos_embed", "decoder_pos_embed")
        rules = (
            *ends("", "", "norm", "patch_embed.proj", places),
            *_blocks("image", "blocks"),
            *_blocks("decoder", "decoder_blocks"),
        )
        return Table("facebookresearch/mae", rules)

    def configs(
        self, method: Config, pictures: Config, tokenizer: Config | None
    ) -> dict[str, dict[str, Any]]:
        """None."""
        check_fits(method, "--to=mae: facebookresearch/mae")
        return {}

    def notes(self, method: Config, pictures: Config) -> list[str]:
        """What the file does not say and its loader has to know."""
        image, decoder = method["image"], method.get("decoder")
        heads = f"num_heads={image['width'] // image['head_width']}"
        heads += f", decoder_num_heads={decoder['num_heads']}" if decoder else ""
        pixels = f"mean={tuple(pictures['mean'])} and std={tuple(pictures['std'])}"
        return [
            f"the file holds weights alone; load it with {heads}, norms of"
            f" eps={image['norm_eps']:g}, activation {image['activation']}, on pictures normalised"
            f" by {pixels}"
        ]


FAMILY = OfficialMae()
