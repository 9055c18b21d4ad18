"""What the two releases of BLIP share: the names of the MED, which follow BERT's, and tensors that
are stored more than once.

The file exists because transformers kept the words of salesforce/BLIP for texts and not for
pictures.
"""

import re
from collections.abc import Iterable

import numpy as np

from vlp_jax.core.errors import UserError
from vlp_jax.interop.blocks import blocks, linear, norm, patches
from vlp_jax.interop.hf import bert_layers
from vlp_jax.interop.rules import Rule
from vlp_jax.interop.tensors import State

ENCODER, DECODER_LM = "text_encoder.", "text_decoder."
SECOND = "second_"  # before our names of a second picture's (nn/transformer.py)
_OWN = "decode_"  # before our names of what is the decoder's alone (models/med.py)
WORDS = "embeddings.word_embeddings.weight"
TIED = (  # in the decoder: a name, and that of the tensor that it repeats
    (f"{DECODER_LM}cls.predictions.decoder.weight", f"{DECODER_LM}bert.{WORDS}"),
    (f"{DECODER_LM}cls.predictions.decoder.bias", f"{DECODER_LM}cls.predictions.bias"),
)
_SELF = re.compile(r"encoder\.layer\.\d+\.attention\.")


def encoder_rules(ours: str, theirs: str = ENCODER) -> tuple[Rule, ...]:
    """A MED's embeddings, and its blocks but for what is the decoder's alone."""
    return (*_embedding_rules(ours, theirs), *_layers(ours, theirs))


def decoder_rules(ours: str, theirs: str = DECODER_LM) -> tuple[Rule, ...]:
    """What is the decoder's alone: self-attention, and the head of words."""
    layers = bert_layers(ours, f"{theirs}bert.encoder.layer.{{i}}")
    own = tuple(
        Rule(rule.ours.replace(f"/{name}", f"/{_OWN}{name}"), rule.theirs, rule.layout)
        for rule in layers
        for name in ("attn/", "norm1/")
        if f"/{name}" in rule.ours
    )
    head = f"{theirs}cls.predictions"
    return (
        *own,
        *linear(f"{ours}/head/dense", f"{head}.transform.dense"),
        *norm(f"{ours}/head/norm", f"{head}.transform.LayerNorm"),
        Rule(f"{ours}/head/bias", f"{head}.bias"),
    )


def whole_decoder(ours: str) -> tuple[Rule, ...]:
    """A decoder alone: its embeddings, blocks and head."""
    return (*decoder_rules(ours), *encoder_rules(ours, f"{DECODER_LM}bert."))


def _embedding_rules(ours: str, theirs: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{ours}/token_embed/embedding", f"{theirs}{WORDS}"),
        Rule(f"{ours}/pos_embed", f"{theirs}embeddings.position_embeddings.weight"),
        *norm(f"{ours}/norm_embed", f"{theirs}embeddings.LayerNorm"),
    )


def pair_rules(ours: str, names: Iterable[str]) -> tuple[Rule, ...]:
    """An encoder that looks at two pictures (NLVR2); names: of its tensors, which say what the
    first layer is that merges them linearly."""
    layer, stack = f"{ENCODER}encoder.layer.{{i}}", f"{ours}/blocks"
    other = f"{layer}.crossattention"
    merge, own = f"{other}.output.merge_layer", f"{ours}/merge"
    first = first_merged(names)
    return (
        *_embedding_rules(ours, ENCODER),
        *bert_layers(ours, layer),
        *looks(f"{stack}/cross_attn", f"{other}.self0", f"{other}.output.dense0"),
        *looks(f"{stack}/{SECOND}cross_attn", f"{other}.self1", f"{other}.output.dense1"),
        *norm(f"{ours}/blocks/norm_cross", f"{other}.output.LayerNorm"),
        Rule(f"{own}/kernel", f"{merge}.weight", "l o i -> l i o", first=first),
        Rule(f"{own}/bias", f"{merge}.bias", first=first),
    )


def first_merged(names: Iterable[str]) -> int:
    """The first layer that merges two pictures linearly; the number of layers where none does."""
    found, layers = [], 0
    for name in names:
        number = re.match(rf"{ENCODER}encoder\.layer\.(\d+)\.", name)
        if number:
            layers = max(layers, int(number[1]) + 1)
            found += [int(number[1])] if "merge_layer" in name else []
    return min(found, default=layers)


def _layers(ours: str, theirs: str) -> tuple[Rule, ...]:
    """Self-attention, MLP and cross-attention of every layer."""
    layer = f"{theirs}encoder.layer.{{i}}"
    other = f"{layer}.crossattention"
    return (
        *bert_layers(ours, layer),
        *looks(f"{ours}/blocks/cross_attn", f"{other}.self", f"{other}.output.dense"),
        *norm(f"{ours}/blocks/norm_cross", f"{other}.output.LayerNorm"),
    )


def looks(ours: str, theirs: str, out: str) -> tuple[Rule, ...]:
    """A cross-attention of every layer."""
    weights, biases = (
        tuple(f"{theirs}.{name}.{end}" for name in ("key", "value")) for end in ("weight", "bias")
    )
    return (
        Rule(f"{ours}/query/kernel", f"{theirs}.query.weight", "l (h k) i -> l i h k"),
        Rule(f"{ours}/query/bias", f"{theirs}.query.bias", "l (h k) -> l h k"),
        Rule(f"{ours}/key_value/kernel", weights, "l two (h k) i -> l i h two k"),
        Rule(f"{ours}/key_value/bias", biases, "l two (h k) -> l h two k"),
        Rule(f"{ours}/out/kernel", f"{out}.weight", "l o (h k) -> l h k o"),
        Rule(f"{ours}/out/bias", f"{out}.bias"),
    )


def vision_rules(theirs: str = "vision_model") -> tuple[Rule, ...]:
    """transformers' BlipVisionModel and Blip2VisionModel but for the last norm."""
    fused = ("self_attn.qkv.weight", "self_attn.qkv.bias")
    norms, mlp = ("layer_norm1", "layer_norm2"), ("mlp.fc1", "mlp.fc2")
    layer = f"{theirs}.encoder.layers.{{i}}"
    return (
        *patches("image/patch_embed", f"{theirs}.embeddings.patch_embedding"),
        Rule("image/cls_token", f"{theirs}.embeddings.class_embedding", "1 1 d -> d"),
        Rule("image/pos_embed", f"{theirs}.embeddings.position_embedding", "1 n d -> n d"),
        *blocks("image", layer, fused, "self_attn.projection", norms, mlp),
    )


def repeated(names: Iterable[str]) -> list[tuple[str, str]]:
    """(name, the encoder's that it repeats) of a decoder that shares all but self-attention with
    the encoder beside it, both under salesforce/BLIP's names (blip.md 2.4)."""
    bert = f"{DECODER_LM}bert."
    return [
        (name, ENCODER + name.removeprefix(bert))
        for name in names
        if name.startswith(bert) and not _SELF.search(name) and "position_ids" not in name
    ]


def check_tied(state: State, pairs: Iterable[tuple[str, str]], where: str) -> None:
    """Raises UserError for a tensor that must repeat another one and does not."""
    for name, original in pairs:
        if name not in state or original not in state:
            continue
        if not np.array_equal(state[name].read(), state[original].read(), equal_nan=True):
            raise UserError(f"{where}: {name} must be {original} once more, and differs from it")
