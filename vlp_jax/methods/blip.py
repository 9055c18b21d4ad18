"""BLIP: a picture and its text are drawn together, told from others, and written (arXiv:2201.12086;
reference: salesforce/BLIP).

Three losses on one network: contrast against a momentum teacher and its queue (ITC), matching with
hard negatives (ITM), and the text's next token (LM). Pre-training has all of them, fine-tuning for
retrieval the first two, for captions the last. Negatives come from the whole batch (the reference
draws from each device's 75). The file exists to hold these losses.
"""

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from vlp_jax.core import rng as rngs
from vlp_jax.core.errors import UserError, nearest
from vlp_jax.core.fields import Field, Numbers
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.pytree import partition
from vlp_jax.core.schema import Chance, Range, Rate, Size
from vlp_jax.core.types import Array, Extra, Params
from vlp_jax.core.vectors import unit
from vlp_jax.losses.contrastive import Teacher, info_nce
from vlp_jax.losses.language import counted, text_loss
from vlp_jax.losses.mining import draw_negatives
from vlp_jax.methods.base import Function, Leaf, Part
from vlp_jax.methods.kits.grounded import Grounded
from vlp_jax.methods.kits.matching import judged, kept, matching
from vlp_jax.methods.kits.trunk import floats
from vlp_jax.models.flops import med_flops
from vlp_jax.models.head import Head
from vlp_jax.models.med import ENCODER
from vlp_jax.nn.precision import DTYPES
from vlp_jax.parallel.rows import take_rows

LOSSES = ("itc", "itm", "lm")
KEYS = ("teacher", "own")
FREE = -(2**31)  # the group of a queue's place that nothing took yet (-100 in the reference)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BLIP(Grounded):
    """Grounded (methods/kits/grounded.py) under any of the three losses, each of weight 1.

    Attributes:
      losses: some of LOSSES.
      embed_dim: E of the contrastive space.
      queue: places of the teacher's earlier vectors, per modality; a multiple of the batch size. A
        run that goes on with another one goes on at the next multiple of that.
      momentum: of the teacher.
      alpha: weight of the teacher's own answer in the targets, reached linearly in
        `alpha_examples`; 0 examples: at once.
      init_temperature: cosines are divided by it; kept in [0.001, 0.5].
      negatives: hard ones are drawn by the cosines with the `teacher`'s vectors (pre-training) or
        with each other's `own` (fine-tuning).
      negative_floor: see losses/mining.py; 1e-4 in pre-training, 0 in fine-tuning.
      label_smoothing: of the LM loss.
      prompt_tokens: of a text's beginning, [DEC] included, which the LM loss leaves out.
      rows_dtype: of a picture's tokens between the stages; bfloat16 halves their memory under
        `accumulate`.
    """

    losses: tuple[str, ...] = LOSSES
    embed_dim: Size = 256
    queue: Annotated[int, Range(0)] = 57_600
    momentum: Chance = 0.995
    alpha: Chance = 0.4
    alpha_examples: Annotated[int, Range(0)] = 0
    init_temperature: Annotated[float, Range(0.001, 0.5)] = 0.07
    negatives: str = "teacher"
    negative_floor: Chance = 1e-4
    label_smoothing: Rate = 0.1
    prompt_tokens: Size = 1
    rows_dtype: str = "float32"

    coupled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises UserError for a loss or negatives that there are not."""
        for key, names in (("losses", LOSSES), ("negatives", KEYS)):
            value = getattr(self, key)
            for name in (value,) if isinstance(value, str) else value:
                if name not in names:
                    raise UserError(f"method.{key}: unknown {name!r}{nearest(name, names)}")
        if self.rows_dtype not in DTYPES:
            raise UserError(
                f"method.rows_dtype: unknown {self.rows_dtype!r}{nearest(self.rows_dtype, DTYPES)}"
            )
        if "lm" in self.losses and self.prompt_tokens >= self.text_length:
            all_of = f"leaves out all text_length={self.text_length} tokens of a text"
            raise UserError(f"method.prompt_tokens={self.prompt_tokens}: {all_of}")
        lacking = {"encoder": "lm", "decoder": "itc"}.get(self.text.get("roles", "both"))
        if lacking in self.losses:
            roles = self.text["roles"]
            raise UserError(f"method.text.roles={roles!r}: {lacking} of method.losses needs both")
        if not self.losses or ("itm" in self.losses and "itc" not in self.losses):
            raise UserError(f"method.losses={self.losses}: itm needs itc, and one there must be")

    @property
    def contrasts(self) -> bool:
        """Whether there are vectors, a teacher and a queue."""
        return "itc" in self.losses

    def fields(self) -> dict[str, Field]:
        """image, text and, where data.fields.group says where it is, group int32[B]: pairs of one
        number match each other too (captions of one picture)."""
        group = {"group": Numbers((), "int32", optional=True)} if self.contrasts else {}
        return super().fields() | group

    def parts(self) -> dict[str, Part]:
        """image, text, and as the losses want them image_proj, text_proj, temperature, itm."""
        found, width = super().parts(), self.text_net.width
        if self.contrasts:
            found["image_proj"] = Part(Head(self.embed_dim), (floats(1, self.states_shape[1]),))
            found["text_proj"] = Part(Head(self.embed_dim), (floats(1, width),))
            found["temperature"] = Part(Leaf(self.init_temperature))
        if "itm" in self.losses:
            found["itm"] = Part(Head(2), (floats(1, width),))
        return found

    def state(self, v: Vars, rng: Array) -> Extra:
        """The teacher, which starts as what it follows, and its queue of random unit vectors."""
        if not self.contrasts:
            return {}
        draw = lambda name: unit(  # noqa: E731
            jax.random.normal(rngs.fold(rng, name), (self.queue, self.embed_dim))
        )
        queue = {name: draw(name) for name in ("image", "text")}
        queue |= {"group": jnp.full(self.queue, FREE, jnp.int32), "at": jnp.int32(0)}
        return {"teacher": jax.tree.map(jnp.copy, _followed(v.params)), "queue": queue}

    def check_batch(self, batch_size: int) -> None:
        """See Method; a batch takes its places of the queue whole, captions alone take any."""
        super().check_batch(batch_size if self.contrasts else max(2, batch_size))
        if self.contrasts and (self.queue % batch_size or not self.queue):
            said = f"method.queue={self.queue}: must be a positive multiple of"
            raise UserError(f"{said} batch_size={batch_size}")

    def totals(self, x: Inputs) -> dict[str, Array]:
        """rows, and the tokens that the LM loss counts."""
        tokens = counted(x.batch["text_mask"], self.prompt_tokens).sum()
        return {**super().totals(x), "tokens": jnp.maximum(jnp.float32(tokens), 1)}

    def vector(self, v: Vars, x: Inputs, kind: str, states: Array) -> Array:
        """float32[B, E] of unit norm from states [B, N, D], by their first."""
        return unit(self.apply(f"{kind}_proj", v, x, states[:, 0].astype(jnp.float32)))

    def words(self, v: Vars, x: Inputs) -> Array:
        """The text's vector, float32[B, E] of unit norm."""
        ids, mask = x.batch["text"], x.batch.get("text_mask")
        return self.vector(v, x, "text", self.read(v, x, "text", ids, mask, None)[0])

    def fits(self, v: Vars, x: Inputs, states: Array, ids: Array, mask: Array | None) -> Array:
        """float32[B, 2], logits of `do not match` and `match`; ids as they are."""
        read, _ = self.read(v, x, "ground", ids, mask, states)
        return self.apply("itm", v, x, read[:, 0].astype(jnp.float32))

    def encode(self, v: Vars, x: Inputs) -> tuple[dict[str, Array], Aux]:
        """Rows: what the losses ask for of vectors, of the teacher's, of tokens, and the LM
        loss."""
        pixels, ids, mask = self.pixels(x), x.batch["text"], x.batch["text_mask"]
        tokens, rows = self.see(v, x, pixels), {}
        if self.contrasts:
            hers, y = Vars(v.extra["teacher"], {}), x.fold("teacher")
            rows["image"] = self.vector(v, x, "image", tokens)
            rows["text"] = self.words(v, x)
            states = self.see(hers, y, pixels)
            rows["teacher_image"] = stop_gradient(self.vector(hers, y, "image", states))
            rows["teacher_text"] = stop_gradient(self.words(hers, y))
        if "itm" in self.losses:
            rows |= {"tokens": tokens.astype(self.rows_dtype), "ids": ids, "mask": mask}
            rows["number"] = x.batch.get("group", x.index)
        if "lm" in self.losses:
            marked = self.marked(ids, "decode")
            logits = self.read(v, x.fold("decode"), "decode", marked, mask, tokens)[1]["logits"]
            count = counted(mask, self.prompt_tokens)
            found = text_loss(logits, marked, count, self.label_smoothing)
            rows["lm"], rows["unsmoothed"] = found
        return rows, Aux()

    def match(
        self, v: Vars, rows: dict[str, Array], others: dict[str, Array], x: Inputs
    ) -> tuple[dict[str, Array], Aux]:
        """Every row with its own text, with its text and a wrong picture, with its picture and a
        wrong text: losses float32[B, 3], right answers bool[B, 3], and which of them count."""
        if "itm" not in self.losses:
            return {}, Aux()

        def wrong(mine: str, theirs: str) -> tuple[Array, Array]:
            key = f"teacher_{theirs}" if self.negatives == "teacher" else theirs
            numbers, scale = (rows["number"], others["number"]), 1 / v.params["temperature"]
            rng, floor = x.fold(f"wrong_{theirs}").rng, self.negative_floor
            return draw_negatives(rows[mine], others[key], scale, rng, *numbers, floor)

        (image, some_image), (text, some_text) = wrong("text", "image"), wrong("image", "text")
        tokens = take_rows(others["tokens"], image)
        ids, mask = take_rows((others["ids"], others["mask"]), text)
        own = rows["tokens"], rows["ids"], rows["mask"]
        logits = []
        for name, (states, words, real) in (
            ("pair", own),
            ("wrong_image", (tokens, *own[1:])),
            ("wrong_text", (own[0], ids, mask)),
        ):
            marked, states = self.marked(words, "ground"), states.astype(self.dtype)
            logits.append(self.fits(v, x.fold(name), states, marked, real))
        found = jnp.stack(logits, axis=1)  # [B, 3, 2]
        return judged(found, some_image, some_text), Aux()

    def objective(self, v: Vars, rows: dict[str, Array], x: Inputs) -> tuple[Array, Aux]:
        """The sum of the losses over the whole batch; the queue takes the teacher's vectors."""
        loss, metrics, extra = jnp.float32(0), {}, {}
        if self.contrasts:
            metrics, extra = self._contrast(v, rows, x)
            loss += metrics["itc"]
        if "itm" in self.losses:
            metrics |= matching(rows)
            loss += metrics["itm"]
        if "lm" in self.losses:
            metrics["lm"] = x.share(rows["lm"], "tokens")
            metrics["lm_unsmoothed"] = x.share(rows["unsmoothed"], "tokens")
            loss += metrics["lm"]
        return loss, Aux(metrics, extra)

    def _contrast(self, v: Vars, rows: dict[str, Array], x: Inputs) -> tuple[dict, Extra]:
        """Metrics, `itc` the loss; the queue as it moved."""
        queue, count = v.extra["queue"], len(rows["image"])
        self.check_batch(count)
        scale = 1 / v.params["temperature"]
        ramp = x.step / (self.alpha_examples / count) if self.alpha_examples else 1.0
        weight = self.alpha * jnp.minimum(1.0, ramp)
        group, labels = x.batch.get("group"), None
        if group is not None:
            labels = group, jnp.concatenate([group, queue["group"]])
        found = {}
        for mine, theirs in (("image", "text"), ("text", "image")):
            key = rows[f"teacher_{theirs}"]
            keys = jnp.concatenate([key, queue[theirs]])
            teacher = Teacher(rows[f"teacher_{mine}"], keys, stop_gradient(scale), weight)
            how = dict(labels=labels, queue=queue[theirs], teacher=teacher)
            found[mine] = info_nce(rows[mine], key, jnp.log(scale), **how)
        metrics = {
            "itc": 0.5 * (found["image"][0] + found["text"][0]),
            "i2t_accuracy": found["image"][1]["accuracy"],
            "t2i_accuracy": found["text"][1]["accuracy"],
            "temperature": v.params["temperature"],
            "alpha": jnp.float32(weight),
        }
        new = {name: rows[f"teacher_{name}"] for name in ("image", "text")}
        new["group"] = jnp.full(count, FREE, jnp.int32) if group is None else group
        put = jax.lax.dynamic_update_slice_in_dim
        at = -(-queue["at"] // count) * count % self.queue  # off it after another batch size alone
        moved = {name: put(queue[name], rows, at, 0) for name, rows in new.items()}
        return metrics, {"queue": moved | {"at": (at + count) % self.queue}}

    def project(self, params: Params) -> Params:
        """Keeps the temperature in its bounds."""
        return kept(params)

    def follow(self, v: Vars, step: Array) -> Extra:
        """Moves the teacher."""
        del step
        if not self.contrasts:
            return {}
        near = lambda hers, mine: self.momentum * hers + (1 - self.momentum) * mine  # noqa: E731
        return {"teacher": jax.tree.map(near, v.extra["teacher"], _followed(v.params))}

    def flops(self, text_length: int | None = None) -> float:
        """Forward FLOPs of one pair through all that learns; the teacher's passes are not among
        them."""
        length = text_length or self.text_length
        cost = lambda mode: med_flops(self.text_net, mode, length, self.states_shape)  # noqa: E731
        modes = {"itc": ["text"], "itm": ["ground"] * 3, "lm": ["decode"]}
        passes = [cost(mode) for loss in self.losses for mode in modes[loss]]
        return super().flops() + sum(passes)

    def scale(self, params: Params) -> Array | None:
        """1 / temperature."""
        return 1 / jnp.float32(params["temperature"]) if self.contrasts else None

    def functions(self) -> dict[str, Function]:
        """embed_image, embed_text (a text that starts with [CLS]): float32[B, E] of unit norm;
        match, and rematch of image_states: float32[B, 2] logits of a text that starts with [ENC];
        the others: see Grounded.
        """
        found, image = super().functions(), {"image": self.fields()["image"]}
        if self.contrasts:

            def embed_image(v: Vars, x: Inputs, _: None) -> Array:
                return self.vector(v, x, "image", self.see(v, x, self.pixels(x)))

            def embed_text(v: Vars, x: Inputs, _: None) -> Array:
                return self.words(v, x)

            found["embed_image"] = Function(embed_image, image)
            found["embed_text"] = Function(embed_text, {"text": self.given("text")})
        if "itm" in self.losses:
            text = {"text": self.given("ground")}

            def rematch(v: Vars, x: Inputs, states: Array) -> Array:
                return self.fits(v, x, states, x.batch["text"], x.batch.get("text_mask"))

            found["match"] = Function(
                lambda v, x, _: rematch(v, x, self.see(v, x, self.pixels(x))), image | text
            )
            states = {"image_states": self.states_field}
            found["rematch"] = Function(
                lambda v, x, _: rematch(v, x, x.batch["image_states"]), states | text
            )
        return found


def _followed(params: Params) -> dict[str, Any]:
    """What the teacher follows: the picture's tower, what encodes a text alone, both
    projections."""
    names = ("image", "image_proj", "text_proj")
    return {name: params[name] for name in names} | {"text": partition(params["text"], ENCODER)[0]}
