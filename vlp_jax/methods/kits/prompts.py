"""What a picture shall show: texts through one or two encoders, or a class (Stable Diffusion,
SDXL arXiv:2307.01952, LDM arXiv:2112.10752).

The file exists so that dropping, caching and negating a condition are written once, whatever the
encoders.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.core.fields import NONE, Field, Label, Numbers, Text
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.schema import Range, Size
from vlp_jax.core.types import Array
from vlp_jax.methods.base import Function, Leaf, Part
from vlp_jax.methods.kits.latents import Latents

TEXTS = ("text", "text_2")


class Told(NamedTuple):
    """context: float32[B, T, D], states that transformers look at. pooled: float32[B, P] of the
    last text encoder, None where the network is not told that."""

    context: Array
    pooled: Array | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompted(Latents):
    """Latents that follow a text, a class, or nothing.

    Attributes:
      text, text_2: networks of texts (models/text.py) with their names; {}: there is none. The
        states of both are joined on the last axis, `pooled` is the last one's embedding.
      states: of the encoders, behind the `last` norm (SD 1; SD 2, whose released encoder lacks its
        last block), or those the last block sees (`penultimate`, SDXL).
      empty, empty_2: ids of the empty text, the last repeated to the end.
      null: what an example without its text is told: the `empty` text, or `zeros` (SDXL).
      learn_text: the text encoders learn too.
      classes: numbered from 0, told as a context of one token; 0: none. class_width: its columns.
    """

    text: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    text_2: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    states: Literal["last", "penultimate"] = "last"
    empty: tuple[int, ...] = (49406, 49407)
    empty_2: tuple[int, ...] = (49406, 49407, 0)
    null: Literal["empty", "zeros"] = "empty"
    learn_text: bool = False
    classes: Annotated[int, Range(0)] = 0
    class_width: Size = 512

    @cached_property
    def text_nets(self) -> dict[str, nn.Module]:
        """The text encoders that there are, by their parts."""
        return {name: self.network(name) for name in TEXTS if getattr(self, name)}

    @property
    def conditional(self) -> bool:
        """Whether there is anything to follow."""
        return bool(self.text_nets or self.classes)

    @property
    def pools(self) -> bool:
        """Whether the network is told the pooled text too."""
        return True

    @cached_property
    def told_shape(self) -> tuple[int, int, int]:
        """(T, D, P) of what the U-Net is told; 0 where it is not."""
        nets = list(self.text_nets.values())
        if not nets:
            return (1, self.class_width, 0) if self.classes else (0, 0, 0)
        pooled = nets[-1].embed_dim or nets[-1].width
        return nets[0].context_length, sum(net.width for net in nets), pooled

    def prompt_fields(self) -> dict[str, Field]:
        """The texts, which share their draws, or what a cache holds in their place, context and
        pooled; label."""
        found = {name: self._text(name) for name in self.text_nets}
        if found and not self.learn_text:
            length, width, pooled = self.told_shape
            found["context"] = Numbers((length, width), self.dtype, optional=True)
            if self.pools:
                found["pooled"] = Numbers((pooled,), self.dtype, optional=True)
        return found | ({"label": Label(self.classes)} if self.classes else {})

    def _text(self, name: str, **how: Any) -> Text:
        """How the text `name`, or a negative of its encoder, is read."""
        net, empty = self.text_nets[name], getattr(self, name.replace("text", "empty"))
        known = dict(tokenizer=name, of="text", key=f"method.{name}")
        if self.null == "empty":
            known["empty"] = empty
        return Text(net.context_length, net.vocab_size, **known, **how)

    def prompt_parts(self) -> dict[str, Part]:
        """The text encoders, frozen unless they learn; class_embed, the classes' tokens and last
        that of none."""
        how = dict(frozen=not self.learn_text, dtype=self.frozen_dtype)
        ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
        found = {name: Part(net, (ids,), **how) for name, net in self.text_nets.items()}
        if self.classes:
            shape = (self.classes + 1, self.class_width)
            found["class_embed"] = Part(Leaf(lambda key: jax.random.normal(key, shape)))
        return found

    def read(self, v: Vars, x: Inputs, ids: Mapping[str, Array]) -> Told:
        """What the encoders make of {part: int32[B, T]}."""
        before, states, pooled = self.states == "penultimate", [], None
        for name in self.text_nets:
            pooled, out = self.apply(name, v, x, ids[name], before=before)
            states.append(out["before" if before else "tokens"].astype(jnp.float32))
        return Told(jnp.concatenate(states, -1), pooled.astype(jnp.float32))

    def kept(self, told: Told) -> Told:
        """What of it the network is told."""
        return told if self.pools else told._replace(pooled=None)

    def empties(self, count: int, x: Inputs) -> dict[str, Array]:
        """{part: int32[count, T]} of the empty text, as long as the batch's texts."""
        found = {}
        for name, net in self.text_nets.items():
            ids = getattr(self, name.replace("text", "empty"))
            length = x.batch[name].shape[1] if name in x.batch else net.context_length
            row = (ids + ids[-1:] * length)[:length]
            found[name] = jnp.broadcast_to(jnp.asarray(row, jnp.int32), (count, len(row)))
        return found

    def told(self, v: Vars, x: Inputs, dropped: Array | None = None) -> Told | None:
        """What the batch says, rows that are `dropped` (bool[B]) being told of nothing; None of an
        unconditional model."""
        rows = len(x.index)
        dropped = jnp.zeros(rows, bool) if dropped is None else dropped
        if not self.conditional:
            return None
        if not self.text_nets:
            number = jnp.where(dropped, self.classes, x.batch["label"])
            return Told(v.params["class_embed"][number][:, None])
        if "context" in x.batch:
            kept = Told(x.batch["context"], x.batch["pooled"] if self.pools else None)
            kept = jax.tree.map(lambda a: a.astype(jnp.float32), kept)
            return _chosen(dropped, self.nothing(v, x), kept)
        ids = {name: x.batch[name] for name in self.text_nets}
        if self.null == "zeros":
            return _chosen(dropped, self.nothing(v, x), self.kept(self.read(v, x, ids)))
        return self.kept(self.read(v, x, _chosen(dropped, self.empties(rows, x), ids)))

    def nothing(self, v: Vars, x: Inputs) -> Told | None:
        """What is told where there is no condition, of every row."""
        rows, (length, width, pooled) = len(x.index), self.told_shape
        if not self.text_nets:
            return self.told(v, x, jnp.ones(rows, bool)) if self.classes else None
        if self.null == "zeros":
            length = next((x.batch[n].shape[1] for n in self.text_nets if n in x.batch), length)
            return self.kept(Told(jnp.zeros((rows, length, width)), jnp.zeros((rows, pooled))))
        one = self.kept(self.read(v, x.replace(train=False), self.empties(1, x)))
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (rows, *a.shape[1:])), one)

    def negative(self, v: Vars, x: Inputs) -> Told | None:
        """What shall not be seen: the texts `negative` and `negative_2`, else `nothing`; one alone
        that is not there is the empty text."""
        names = {name: name.replace("text", "negative") for name in self.text_nets}
        given = {n: x.batch[m] for n, m in names.items() if m in x.batch}
        if not given:
            return self.nothing(v, x)
        ids = empties = self.empties(len(x.index), x)
        ids = ids | {n: jnp.where(a == NONE, empties[n], a) for n, a in given.items()}
        told = self.kept(self.read(v, x, ids))
        if self.null == "empty":
            return told
        none = jnp.stack([a[:, 0] == NONE for a in given.values()]).all(0)
        return _chosen(none, self.nothing(v, x), told)

    def negative_fields(self) -> dict[str, Field]:
        """negative and negative_2, texts that may be absent."""
        return {
            name.replace("text", "negative"): self._text(name, optional=True, absent=True)
            for name in self.text_nets
        }

    def prompt_functions(self) -> dict[str, Function]:
        """text_states: states float32[B, T, D] and pooled float32[B, P]; context and, where it is
        told, pooled: each alone, which `data cache` keeps."""
        if not self.text_nets:
            return {}
        reads = {name: self._text(name) for name in self.text_nets}

        def states(v: Vars, x: Inputs, _: None) -> Told:
            return self.read(v, x, {name: x.batch[name] for name in reads})

        def named(told: Told) -> dict[str, Array]:
            return {"states": told.context, "pooled": told.pooled}

        found = {
            "text_states": lambda v, x, how: named(states(v, x, how)),
            "context": lambda v, x, how: states(v, x, how).context.astype(self.dtype),
        }
        if self.pools:
            found["pooled"] = lambda v, x, how: states(v, x, how).pooled.astype(self.dtype)
        return {name: Function(run, reads) for name, run in found.items()}


def _chosen(where: Array, one: Any, other: Any) -> Any:
    """Rows of `one` where that says so, bool[B], else of `other`."""

    def choose(a: Array, b: Array) -> Array:
        return jnp.where(where.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, one, other)
