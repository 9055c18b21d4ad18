"""BLIP-2's first stage: queries learn to draw from a frozen eye what a text would say
(arXiv:2301.12597, section 3.1; reference: salesforce/LAVIS blip2_qformer.py).

Three losses on one Q-Former, which differ in what its queries and the text see of each other:
contrast (ITC), of a text the nearest of a picture's queries; matching with hard negatives (ITM);
and the text written behind the queries (ITG). Pictures and texts of the whole batch are each
other's negatives, without a teacher. The file exists to hold these losses.
"""

import dataclasses
import functools
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.fields import ANY, Field, Numbers, Text
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.schema import Chance, Range, Rate, Size
from vlp_jax.core.types import Array, Params
from vlp_jax.core.vectors import unit
from vlp_jax.decoding.how import Writing
from vlp_jax.decoding.scoring import Scoring
from vlp_jax.losses.contrastive import multi_positive_contrastive, softmax_contrastive
from vlp_jax.losses.language import counted, text_loss
from vlp_jax.losses.mining import draw_negatives
from vlp_jax.methods.base import Function, Leaf, Part
from vlp_jax.methods.kits.matching import judged, kept, matching
from vlp_jax.methods.kits.querying import Querying
from vlp_jax.methods.kits.trunk import floats
from vlp_jax.methods.kits.writing import Writer, behind_queries, likelihood, prompt_of, write
from vlp_jax.models.flops import qformer_flops
from vlp_jax.models.head import Head
from vlp_jax.parallel.rows import take_rows

LOSSES = ("itc", "itm", "itg")
KEYS = ("method.qformer.vocab_size", "method.text_length", "method.end_id")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BLIP2(Querying):
    """Querying (methods/kits/querying.py) under any of the three losses, each of weight 1.

    Attributes:
      losses: some of LOSSES.
      embed_dim: E of the contrastive space.
      text_length: tokens of a training text.
      dec_id: the id of [DEC], which begins what is written; -1: the last of the vocabulary.
      end_id: the id of [SEP], which ends texts.
      init_temperature: cosines are divided by it; kept in [0.001, 0.5], as BLIP does.
      negative_floor: see losses/mining.py.
      contrast_smoothing, label_smoothing: of ITC and of ITG.
      prompt_tokens: of a text's beginning, [DEC] included, which ITG leaves out.
    """

    losses: tuple[str, ...] = LOSSES
    embed_dim: Size = 256
    text_length: Size = 32
    dec_id: int = -1
    end_id: int = 102
    init_temperature: Annotated[float, Range(0.001, 0.5)] = 0.07
    negative_floor: Chance = 0.0
    contrast_smoothing: Rate = 0.1
    label_smoothing: Rate = 0.1
    prompt_tokens: Size = 1

    coupled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises UserError for losses that there are not, or that the Q-Former cannot have."""
        super().__post_init__()
        for name in (self.losses,) if isinstance(self.losses, str) else self.losses:
            if name not in LOSSES:
                raise UserError(f"method.losses: unknown {name!r}{nearest(name, LOSSES)}")
        if not self.losses or ("itm" in self.losses and "itc" not in self.losses):
            raise UserError(f"method.losses={self.losses}: itm needs itc, and one there must be")
        if self.writes and self.prompt_tokens >= self.text_length:
            all_of = f"leaves out all text_length={self.text_length} tokens of a text"
            raise UserError(f"method.prompt_tokens={self.prompt_tokens}: {all_of}")
        need, texts = "write" if self.writes else "read", self.qformer.get("texts", "write")
        if self.query_net.stack_config() and not self.query_net.has(need):
            what = f"method.losses={self.losses} needs {need!r}"
            raise UserError(f"method.qformer.texts={texts!r}: {what}")

    @property
    def contrasts(self) -> bool:
        """Whether there are vectors."""
        return "itc" in self.losses

    @property
    def writes(self) -> bool:
        """Whether texts are learned."""
        return "itg" in self.losses

    @property
    def mark(self) -> int:
        """The id of [DEC]. Raises UserError for one outside the vocabulary."""
        size = self.query_net.vocab_size
        if not -1 <= self.dec_id < size:
            raise UserError(f"method.dec_id={self.dec_id}: not below {KEYS[0]}={size}")
        return size - 1 if self.dec_id < 0 else self.dec_id

    def fields(self) -> dict[str, Field]:
        """image, or image_states; text: int32[B, T] from [CLS] to [SEP], with text_mask; group
        int32[B], where data.fields.group says where it is: pairs of one number match each other
        too (captions of one picture)."""
        size = self.query_net.vocab_size
        known = self.mark if self.writes else size  # the tokenizer's own ids lie below [DEC]
        how = dict(own=size - known, keys=KEYS, mask=True, cut=True, end=self.end_id)
        group = {"group": Numbers((), "int32", optional=True)} if self.contrasts else {}
        text = Text(self.text_length, known, start=self.writes, **how)
        return super().fields() | {"text": text} | group

    def given(self, mark: int = -1, **how: Any) -> Text:
        """The field of a text that a function takes as it is; mark: its first id."""
        return Text(self.text_length, self.query_net.vocab_size, mask=True, mark=mark, **how)

    def parts(self) -> dict[str, Part]:
        """Those of Querying, and as the losses want them image_proj, text_proj, temperature,
        itm."""
        found, width = super().parts(), self.query_net.width
        if self.contrasts:
            found["image_proj"] = Part(Head(self.embed_dim), (floats(1, width),))
            found["text_proj"] = Part(Head(self.embed_dim), (floats(1, width),))
            found["temperature"] = Part(Leaf(self.init_temperature))
        if "itm" in self.losses:
            found["itm"] = Part(Head(2), (floats(1, width),))
        return found

    def totals(self, x: Inputs) -> dict[str, Array]:
        """rows, and the tokens that ITG counts."""
        tokens = counted(x.batch["text_mask"], self.prompt_tokens).sum()
        return {**super().totals(x), "tokens": jnp.maximum(jnp.float32(tokens), 1)}

    def vectors(self, v: Vars, x: Inputs, kind: str, states: Array) -> Array:
        """float32[..., E] of unit norm from states [..., D]."""
        return unit(self.apply(f"{kind}_proj", v, x, states.astype(jnp.float32)))

    def words(self, v: Vars, x: Inputs) -> Array:
        """The text's vector float32[B, E] of unit norm, by its first token."""
        ids, mask = x.batch["text"], x.batch.get("text_mask")
        return self.vectors(v, x, "text", self.read(v, x, "text", ids, mask)[0][:, 0])

    def fits(self, v: Vars, x: Inputs, states: Array, ids: Array, mask: Array | None) -> Array:
        """float32[B, 2], logits of `do not match` and `match`, the mean over queries; states: the
        tower's; ids as they are."""
        seen = self.norm(v, x, states)
        read, _ = self.read(v, x, "bidirectional", ids, mask, seen)
        queries = read[:, : self.query_net.num_queries].astype(jnp.float32)
        return self.apply("itm", v, x, queries).mean(1)

    def encode(self, v: Vars, x: Inputs) -> tuple[dict[str, Array], Aux]:
        """Rows: what the losses ask for of vectors and of tokens, and ITG's loss, of the text
        behind the very queries that contrast."""
        ids, mask = x.batch["text"], x.batch["text_mask"]
        states, rows = self.see(v, x), {}
        cache = self.query_net.empty_cache(*ids.shape) if self.writes else None
        seen = self.norm(v, x, states)
        queries, out = self.read(v, x, "queries", states=seen, cache=cache)
        if self.contrasts:
            rows["image"] = self.vectors(v, x, "image", queries)
            rows["text"] = self.words(v, x.fold("text"))
        if "itm" in self.losses:
            rows |= {"states": states, "ids": ids, "mask": mask}
            rows["number"] = x.batch.get("group", x.index)
        if self.writes:
            marked, y = ids.at[:, 0].set(self.mark), x.fold("decode")
            logits = self.read(v, y, "decode", marked, mask, cache=out["cache"])[1]["logits"]
            count = counted(mask, self.prompt_tokens)
            found = text_loss(logits, marked, count, self.label_smoothing)
            rows["itg"], rows["unsmoothed"] = found
        return rows, Aux()

    def match(
        self, v: Vars, rows: dict[str, Array], others: dict[str, Array], x: Inputs
    ) -> tuple[dict[str, Array], Aux]:
        """Every row with its own text, with its text and a wrong picture, with its picture and a
        wrong text: losses float32[B, 3], right answers bool[B, 3], and which of them count."""
        if "itm" not in self.losses:
            return {}, Aux()

        def wrong(mine: str, theirs: str) -> tuple[Array, Array]:
            numbers, scale = (rows["number"], others["number"]), 1 / v.params["temperature"]
            rng, floor = x.fold(f"wrong_{theirs}").rng, self.negative_floor
            return draw_negatives(rows[mine], others[theirs], scale, rng, *numbers, floor)

        (image, some_image), (text, some_text) = wrong("text", "image"), wrong("image", "text")
        own = rows["states"], rows["ids"], rows["mask"]
        pairs = (
            own,
            (take_rows(others["states"], image), *own[1:]),
            (own[0], *take_rows((others["ids"], others["mask"]), text)),
        )
        three = jax.tree.map(lambda *a: rearrange(list(a), "k b ... -> (b k) ..."), *pairs)
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(x.rng)  # [B, 3]
        found = self.fits(v, x.replace(rng=keys.reshape(-1)), *three)
        found = rearrange(found, "(b k) two -> b k two", k=3)
        return judged(found, some_image, some_text), Aux()

    def objective(self, v: Vars, rows: dict[str, Array], x: Inputs) -> tuple[Array, Aux]:
        """The sum of the losses over the whole batch."""
        loss, metrics = jnp.float32(0), {}
        if self.contrasts:
            scale, pair = -jnp.log(v.params["temperature"]), (rows["image"], rows["text"])
            how, group = dict(label_smoothing=self.contrast_smoothing), x.batch.get("group")
            if group is None:
                metrics["itc"], more = softmax_contrastive(*pair, scale, **how)
            else:
                metrics["itc"], more = multi_positive_contrastive(*pair, scale, group, **how)
            metrics |= more | {"temperature": v.params["temperature"]}
            loss += metrics["itc"]
        if "itm" in self.losses:
            metrics |= matching(rows)
            loss += metrics["itm"]
        if self.writes:
            metrics["itg"] = x.share(rows["itg"], "tokens")
            metrics["itg_unsmoothed"] = x.share(rows["unsmoothed"], "tokens")
            loss += metrics["itg"]
        return loss, Aux(metrics)

    def project(self, params: Params) -> Params:
        """Keeps the temperature in its bounds."""
        return kept(params)

    def scale(self, params: Params) -> Array | None:
        """1 / temperature."""
        return 1 / jnp.float32(params["temperature"]) if self.contrasts else None

    def flops(self, text_length: int | None = None) -> float:
        """Forward FLOPs of one pair."""
        length, net = text_length or self.text_length, self.query_net
        cost = lambda mode: qformer_flops(net, mode, length, self.states_shape)  # noqa: E731
        modes = {"itc": ["text"], "itm": ["bidirectional"] * 3, "itg": ["decode"]}
        passes = [cost(mode) for loss in self.losses for mode in modes[loss]]
        return super().flops() + cost("queries") + sum(passes)

    def functions(self) -> dict[str, Function]:
        """embed_image: float32[B, Q, E], a picture's vectors, and embed_text (of a text that starts
        with [CLS]): float32[B, E], all of unit norm; their similarity is that of the nearest
        (core/vectors.py). match, and rematch of image_states: float32[B, 2] logits, the text as it
        is. lm_logits: float32[B, T, V] of each next token of a text that starts with [DEC];
        generate_text: what follows `prompt`, [DEC] alone where there is none (decoding/steps.py
        Written); loglik: float32[B, K], how likely each of `texts`, int32[B, K, L] from [DEC] on,
        follows it. The others: see Querying.
        """
        found, image = super().functions(), {"image": self.fields()["image"]}
        if self.contrasts:

            def embed_image(v: Vars, x: Inputs, _: None) -> Array:
                return self.vectors(v, x, "image", self.ask(v, x))

            found["embed_image"] = Function(embed_image, image)
            found["embed_text"] = Function(lambda v, x, _: self.words(v, x), {"text": self.given()})
        if "itm" in self.losses:
            text = {"text": self.given()}

            def match(v: Vars, x: Inputs, _: None) -> Array:
                return self.fits(v, x, self.see(v, x), x.batch["text"], x.batch.get("text_mask"))

            found["match"] = Function(match, image | text)
            found["rematch"] = Function(match, {"image_states": self.states_field} | text)
        return found | (self._writing(image) if self.writes else {})

    def _writing(self, image: dict[str, Field]) -> dict[str, Function]:
        """The functions of what writes."""

        def speaker(v: Vars, x: Inputs) -> Writer:
            states = self.norm(v, x, self.see(v, x))
            run = functools.partial(self.apply, "qformer", v, x)
            return behind_queries(run, self.query_net, v.params["queries"], states)

        def lm_logits(v: Vars, x: Inputs, _: None) -> Array:
            ids, mask = x.batch["text"], x.batch.get("text_mask")
            states = self.norm(v, x, self.see(v, x))
            return self.read(v, x, "multimodal_causal", ids, mask, states)[1]["logits"]

        def generate_text(v: Vars, x: Inputs, how: Writing) -> dict[str, Array]:
            stop = (self.end_id, *how.stop)
            return write(speaker(v, x), *prompt_of(x, self.mark), how, stop, x.rng)._asdict()

        def loglik(v: Vars, x: Inputs, how: Scoring) -> Array:
            given = x.batch["texts"], x.batch.get("texts_mask")
            return likelihood(speaker(v, x), *prompt_of(x, self.mark), *given, how)

        read = image | {"prompt": self.given(self.mark, open=True, optional=True)}
        texts = {"texts": self.given(self.mark, count=ANY)}
        places = self.query_net.context_length
        return {
            "lm_logits": Function(lm_logits, image | {"text": self.given(self.mark)}),
            "generate_text": Function(generate_text, read, Writing, places),
            "loglik": Function(loglik, read | texts, Scoring, places),
        }
