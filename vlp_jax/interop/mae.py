"""What the two releases of masked autoencoders share: everything outside the blocks, and what
neither of them can be.

Both store the fixed position tables, which are no parameters here: they are compared on the way in
and written on the way out. The file exists because the libraries differ in words alone.
"""

from collections.abc import Mapping
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.interop import preprocess
from vlp_jax.interop.blocks import linear, norm, patches
from vlp_jax.interop.family import Beside, Config, Family
from vlp_jax.interop.rules import Rule
from vlp_jax.interop.tensors import State


class MaskedAutoencoder(Family):
    """A ViT without a part of its patches, and a decoder."""

    archs = "mae"
    release = preprocess.MAE
    unresizable = "a masked autoencoder's positions are fixed, not resized"
    methods = ("mae",)

    def complete(self, method: dict[str, Any], state: State, beside: Beside) -> list[str]:
        """Fine-tuned and released encoders come without a decoder."""
        if any("decoder_pred" in name for name in state):
            return []
        method["decoder"] = None
        return ["an encoder alone: features, or init_from=OUT:image/.* for a run"]


def ends(
    tower: str, decoder: str, final_norm: str, patch: str, positions: tuple[str, str]
) -> tuple[Rule, ...]:
    """Rules of everything outside the blocks.

    Args:
      tower, decoder: what stands before their names.
      final_norm, patch: names of the encoder's last norm and of its patch embedding.
      positions: names of the two tables.
    """
    return (
        Rule("image/pos_embed", positions[0], "1 n d -> n d"),
        Rule("decoder/pos_embed", positions[1], "1 n d -> n d"),
        Rule("image/cls_token", f"{tower}cls_token", "1 1 d -> d"),
        *patches("image/patch_embed", patch),
        *norm("image/norm_post", final_norm),
        Rule("decoder/mask_token", f"{decoder}mask_token", "1 1 d -> d"),
        *linear("decoder/embed", f"{decoder}decoder_embed"),
        *norm("decoder/norm_post", f"{decoder}decoder_norm"),
        *linear("decoder/pred", f"{decoder}decoder_pred"),
    )


def check_fits(method: Mapping[str, Any], where: str) -> None:
    """Raises UserError, which begins with `where`, for a masked autoencoder (see Family.configs)
    that neither library can be: mean pooling without a class token, a norm before the blocks,
    patches without a bias, mask tokens in the encoder, an encoder and a decoder of different eps or
    activation.
    """
    image: Config = method["image"]
    decoder: Config = method.get("decoder") or image
    own, other = ((side["norm_eps"], side["activation"]) for side in (image, decoder))
    reasons = {
        "a tower without a class token": not (image["cls_token"] or image["pool"] == "cls"),
        "a norm before the blocks": image["pre_norm"],
        "a patch embedding without bias": not image["conv_bias"],
        "mask tokens in the encoder": method["mask_token_in_encoder"],
        "another norm_eps or activation in the decoder": own != other,
    }
    for what, found in reasons.items():
        if found:
            raise UserError(f"{where} cannot be {what}")
