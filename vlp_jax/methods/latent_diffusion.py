"""Latent diffusion: a U-Net takes noise from latents, told what they shall show (arXiv:2112.10752,
Stable Diffusion 1 and 2; SDXL, arXiv:2307.01952; ControlNet, arXiv:2302.05543; DreamBooth,
arXiv:2208.12242; reference: CompVis/latent-diffusion, diffusers).

Training and every use are fields of one method and one scan: text or class or nothing, further
input channels, control pictures; begun from noise or from a picture, with a mask or without. The
file exists to join the kits of noise, latents and prompts to the U-Net.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from vlp_jax.augment.pictures import Augment
from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Field, Numbers, Picture
from vlp_jax.core.inputs import Aux, Inputs, Vars
from vlp_jax.core.schema import Range, build
from vlp_jax.core.types import Array, Batch
from vlp_jax.diffusion.guidance import pairs
from vlp_jax.diffusion.sample import Given, sample
from vlp_jax.methods.base import Function, Part
from vlp_jax.methods.kits.diffusion import Diffusion, Painting
from vlp_jax.methods.kits.joined import Joined, nearest
from vlp_jax.methods.kits.prompts import Prompted, Told
from vlp_jax.models import controlnet
from vlp_jax.models import unet as unets
from vlp_jax.models.controlnet import ControlNet
from vlp_jax.models.traced_flops import traced_flops
from vlp_jax.models.unet import Condition, Residuals, UNet

TOLD_IDS = 6  # the time_ids of SDXL's base: a picture tells them of itself
Hints = tuple[Array | None, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentDiffusion(Diffusion, Prompted, Joined):
    """Attributes:
    unet: fields of models/unet.py UNet, with its name.
    controls: how many ControlNets there are; they learn, and the U-Net is frozen.
    control: fields of models/controlnet.py ControlNet beside the U-Net's.
    The others: see methods/kits diffusion.py, prompts.py, joined.py and latents.py.
    """

    unet: Mapping[str, Any]
    controls: Annotated[int, Range(0)] = 0
    control: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UserError for sizes that do not fit one another."""
        _ = self.noise_schedule
        net, width = self.net, self.coder.width
        if net.out_channels not in (width, 2 * width):
            wanted = f"the autoencoder's latents have {width}, or twice that with a variance"
            raise UserError(f"method.unet.out_channels={net.out_channels}: {wanted}")
        if net.in_channels != width + self.joined_width:
            more = f", and {self.joined_width} of joins={self.joins!r}" if self.joins else ""
            wanted = f"must be {width + self.joined_width}: {width} of the latents{more}"
            raise UserError(f"method.unet.in_channels={net.in_channels}: {wanted}")
        if bool(self.low_noise) != bool(net.classes) or net.classes < self.low_noise:
            wanted = f"must be more than method.low_noise={self.low_noise}, or both 0"
            raise UserError(f"method.unet.classes={net.classes}: {wanted}")
        if net.cross != self.conditional:
            wanted = "needs text or classes" if net.cross else "has no place for text or classes"
            raise UserError(f"method.unet.cross={net.cross}: {wanted}")
        pooled = self.told_shape[2]
        if net.pooled_width not in (0, pooled):
            wanted = f"the last text encoder pools {pooled}"
            raise UserError(f"method.unet.pooled_width={net.pooled_width}: {wanted}")
        change = build(Augment, self.augment, "method.augment")
        moved = change.flip or change.rotate or change.crop_scale != (1.0, 1.0)
        beside = self._control_fields() or self.joins in ("depth", "map")
        if moved and (beside or net.time_ids == TOLD_IDS):
            why = "maps beside a picture do not follow" if beside else ""
            why = why or "the U-Net is told where the data cut a picture"
            raise UserError(f"method.augment: no flip, rotate or crop_scale; {why}")
        self.grid(self.image_size, self.image_size, "method.image_size")
        if self.controls and self.control_net.factor != self.coder.factor:
            names = f"{self.control_net.factor} times, the autoencoder {self.coder.factor} times"
            raise UserError(f"method.control.hint_widths: makes pictures smaller {names}")

    @cached_property
    def net(self) -> UNet:
        """The U-Net."""
        return self.network("unet")

    @property
    def pools(self) -> bool:
        """See Prompted."""
        return bool(self.net.pooled_width)

    @cached_property
    def control_net(self) -> ControlNet:
        """Each ControlNet."""
        return self.network("control", {**self.unet, **self.control, "name": "controlnet"})

    @cached_property
    def control_names(self) -> tuple[str, ...]:
        """The parts, and the fields of their pictures: control, or control_0, control_1, ..."""
        many = tuple(f"control_{n}" for n in range(self.controls))
        return many if self.controls != 1 else ("control",)

    def grid(self, height: int, width: int, key: str) -> tuple[int, int, int]:
        """(h, w, c) of the latents of a picture.

        Raises:
          UserError: a side off the grid of autoencoder and U-Net; names `key`.
        """
        step = self.coder.factor * 2 ** (self.net.levels - 1)
        if height % step or width % step:
            said = f"{height}" if height == width else f"{height}x{width}"
            raise UserError(f"{key}={said}: sides must be multiples of {step}")
        return height // self.coder.factor, width // self.coder.factor, self.coder.width

    def fields(self) -> dict[str, Field]:
        """image, or latents of a cache; text and text_2, or context and pooled; label; control
        pictures, which share the picture's crop; source."""
        told = ("size", "box") if self.net.time_ids == TOLD_IDS else ()
        found = self.picture_fields(tell=told) | self.prompt_fields() | self.source_fields()
        if self.joins in ("mask", "low"):  # are made of the picture
            del found["latents"]
        if self.net.time_ids not in (0, TOLD_IDS):
            found["time_ids"] = Numbers((self.net.time_ids,))
        return found | self.joined_fields() | self._control_fields()

    def _control_fields(self, **how: Any) -> dict[str, Field]:
        return {n: Picture(self.image_size, of="image", **how) for n in self.control_names}

    def parts(self) -> dict[str, Part]:
        """autoencoder, latent_scale, text, text_2, class_embed, unet, control, ...: those that
        there are."""
        context, frozen = self.told_shape[1], bool(self.controls)
        inputs = unets.reads(self.net, context)
        found = {"unet": Part(self.net, inputs, frozen=frozen, dtype=self.frozen_dtype)}
        if self.controls:
            more = controlnet.reads(self.control_net, context)
            found |= {name: Part(self.control_net, more) for name in self.control_names}
        return self.picture_parts() | self.prompt_parts() | self.joined_parts() | found

    def condition(self, told: Told | None, numbers: Array | None) -> Condition:
        """What the U-Net is told; numbers: float32[B, n], the time_ids of SDXL."""
        context, pooled = told or (None, None)
        return Condition(context=context, pooled=pooled, time_ids=numbers)

    def numbers(self, x: Inputs) -> Array | None:
        """time_ids of a training batch: height and width of the pictures as they were, top and left
        of the crop in pixels of the training size, and that size; or what the data say."""
        if self.net.time_ids != TOLD_IDS:
            return x.batch["time_ids"] if self.net.time_ids else None
        was, box = x.batch["image_size"], x.batch["image_box"]
        corner = box[:, :2] * self.image_size / box[:, 2:]
        return jnp.concatenate([was, corner, jnp.full_like(was, self.image_size)], 1)

    def asked(self, x: Inputs, size: tuple[int, int], name: str = "time_ids") -> Array | None:
        """time_ids of pictures to be drawn: what is given, or `size`, uncropped; the refiner's
        score is 6, and 2.5 of what shall not be seen."""
        count = self.net.time_ids
        if not count or name in x.batch:
            return x.batch.get(name)
        score = 2.5 if name.startswith("negative") else 6.0
        row = (*size, 0, 0, *size) if count == TOLD_IDS else (*size, 0, 0, score)
        return jnp.broadcast_to(jnp.asarray(row, jnp.float32), (len(x.index), count))

    def denoise(
        self,
        v: Vars,
        x: Inputs,
        latent: Array,
        time: Array,
        told: Condition,
        hints: Hints = (),
        scale: Array | float = 1.0,
        guess: bool = False,
    ) -> Array:
        """The raw output of the U-Net for float[M, h, w, in_channels], with what the ControlNets
        add for `hints`, float[M, H, W, 3] in [0, 1] or None; M / 2 of them, as guess mode has it,
        are for the positive rows alone (guidance.pairs). scale, guess: of what is added."""
        added: list[Residuals] = []
        for name, hint in zip(self.control_names, hints, strict=False):
            if hint is not None:
                alone = len(hint) < len(latent)
                seen = latent[..., : self.control_net.in_channels], time, told
                seen = jax.tree.map(lambda a: a[1::2], seen) if alone else seen
                found = self.apply(name, v, x, *seen, hint)
                nothing = lambda a: pairs(jnp.zeros_like(a), a)  # noqa: E731
                added.append(jax.tree.map(nothing, found) if alone else found)
        if added:
            whole = controlnet.scaled(controlnet.joined(added), scale, guess)
            told = told._replace(control=whole)
        return self.apply("unet", v, x, latent, time, told)

    def hints(self, x: Inputs) -> Hints:
        """The control pictures of a batch, float32[B, H, W, 3] in [0, 1]; None where one is not
        there."""
        given = (x.batch.get(name) for name in self.control_names)
        return tuple(None if one is None else one.astype(jnp.float32) / 255 for one in given)

    def encode(self, v: Vars, x: Inputs) -> tuple[dict[str, Array], Aux]:
        """Rows: loss and error, float32[B]."""
        moments, pixels = x.batch.get("latents"), None
        if moments is None:
            pixels = self.augmented(x.batch["image"], x.keys)
            moments = self.posterior(v, x, pixels)
        given = self.noised(x, jax.lax.stop_gradient(self.drawn(v, x, moments)))
        told = self.condition(self.told(v, x, self.dropped(x)), self.numbers(x))
        shown = self.shown(x, pixels)
        if self.low_noise:
            level = self.levels(x)
            shown["low"] = self.blurred(x, shown["low"], level)
            told = told._replace(labels=level)
        seen = _joined(given.x, self.joined(v, x, shown, given.x.shape[1:3]))
        out = self.denoise(v, x, seen, given.time.astype(jnp.float32), told, self.hints(x))
        return self.scored(out, given), Aux()

    def flops(self, text_length: int | None = None) -> float:
        """FLOPs of the loss of one example; the frozen encoders count a third, having no backward
        pass."""
        del text_length
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
        given = jax.eval_shape(self.fresh, jax.random.key(0)), self.batch_spec(1), keys

        def count(fn: Callable[[Vars, Inputs], Any]) -> float:
            run = lambda v, rows, keys: fn(v, Inputs.of(rows, keys, train=True))  # noqa: E731
            return traced_flops(run, *given)

        seen = count(lambda v, x: self.posterior(v, x, self.augmented(x.batch["image"], None)))
        if self.text_nets and not self.learn_text:
            seen += count(lambda v, x: self.read(v, x, x.batch))
        loss = lambda v, x: self.loss(v, x.replace(totals=self.totals(x)))[0]  # noqa: E731
        return count(loss) - 2 / 3 * seen

    def functions(self) -> dict[str, Function]:
        """encode_latents, decode_latents, latents (kits/latents.py); text_states, context, pooled
        (kits/prompts.py); denoise: the raw output, float32[B, h, w, out]; generate_image: image
        float32[B, H, W, 3] in [-1, 1] and its scaled latent."""
        found = self.picture_functions() | self.prompt_functions()
        found["denoise"] = Function(self._denoise, self._denoise_reads())
        found["generate_image"] = Function(self._generate, self._generate_reads(), Painting)
        return found

    def _denoise_reads(self) -> dict[str, Field]:
        latent, _, told = unets.reads(self.net, self.told_shape[1])
        context, latent = self.told_shape[:2], (*self.latent_shape[:2], latent.shape[-1])
        found = {"latent": Numbers(latent, free=2), "time": Numbers(())}
        for name, spec in told._asdict().items():
            if spec is not None:
                states = name == "context"
                shape = context if states else spec.shape[1:]
                found[name] = Numbers(shape, str(spec.dtype), free=int(states))
        return found | self._control_fields(optional=True, free=True)

    def _denoise(self, v: Vars, x: Inputs, _: None) -> Array:
        told = Condition(
            **{n: x.batch[n] for n in Condition._fields if n in x.batch and n != "control"}
        )
        return self.denoise(v, x, x.batch["latent"], x.batch["time"], told, self.hints(x))

    def _generate_reads(self) -> dict[str, Field]:
        own = self.fields()
        found = {n: own[n] for n in (*self.text_nets, "label") if n in own}
        picture = Picture(self.image_size, key="method.image_size", optional=True, free=True)
        found |= self.negative_fields() | {"image": picture, "mask": picture}
        found |= self.joined_fields(drawing=True)
        found["start"] = Numbers(self.latent_shape, optional=True, free=2)
        for name in ("time_ids", "negative_time_ids") if self.net.time_ids else ():
            found[name] = Numbers((self.net.time_ids,), optional=True)
        return found | self._control_fields(optional=True, free=True)

    def _generate(self, v: Vars, x: Inputs, how: Painting) -> dict[str, Array]:
        """See `functions`; negative: what shall not be seen; image: begun with where strength
        leaves steps out; mask: 1 (from 128 on) where the picture is painted over, kept elsewhere to
        the last bit; start: the noise; control: see `hints`."""
        b, guided = x.batch, how.guided and self.conditional
        for name in self.joined_fields(drawing=True):
            if name not in b:
                raise UserError(f"{name}: the U-Net looks at it (joins={self.joins!r}); give it")
        size, pixels, mask = self._size(b, how), None, None
        shape, how = self.grid(*size, "size"), dataclasses.replace(how, guided=guided)
        if "image" in b:
            pixels = self.augmented(b["image"], None)
        if "mask" in b:
            mask = (b["mask"][..., :1] >= 128).astype(jnp.float32)
        given = self._given(v, x, pixels, mask)
        told, hints = self.condition(self.told(v, x), self.asked(x, size)), self.hints(x)
        shown = {"image": pixels, "mask": mask} | {n: b[n] for n in ("depth", "map") if n in b}
        if "low" in b:
            shown["low"] = self.augmented(b["low"], None)
            if self.low_noise:
                level = jnp.full(len(x.index), how.low_noise, jnp.int32)
                shown["low"] = self.blurred(x, shown["low"], level)
                told = told._replace(labels=level)
        more = self.joined(v, x, shown, shape[:2])
        if guided:
            numbers = self.asked(x, size, "negative_time_ids")
            nothing = self.condition(self.negative(v, x), numbers)._replace(labels=told.labels)
            told = jax.tree.map(pairs, nothing, told)
            more = jax.tree.map(lambda a: pairs(a, a), more)
            hints = hints if how.guess else jax.tree.map(lambda a: pairs(a, a), hints)

        def model(latent: Array, time: Array) -> Array:
            scale, guess = how.control_scale, how.guess
            seen = _joined(latent, more)
            return self.denoise(v, x, seen, time, told, hints, scale, guess)

        latent = sample(model, self.noise_schedule, how, x.rng, shape, given)
        image = jnp.clip(self.decoded(v, x, latent / self.factor(v)), -1, 1)
        if mask is not None and how.paste:
            image = jnp.where(mask == 0, pixels, image)
        return {"image": image, "latent": latent}

    def _size(self, b: Batch, how: Painting) -> tuple[int, int]:
        """Height and width of what is drawn: of the picture that is given, as asked for, or as in
        training."""
        if "low" in b:
            return tuple(side * self.coder.factor for side in b["low"].shape[1:3])
        own = next((b[n].shape[1:3] for n in ("image", "depth", "map") if n in b), None)
        return own or (how.height or self.image_size, how.width or self.image_size)

    def _given(self, v: Vars, x: Inputs, pixels: Array | None, mask: Array | None) -> Given:
        """What the scan starts from. A U-Net that sees the mask paints all of it: nothing is
        blended."""
        image = kept = None
        if pixels is not None:
            image = self.drawn(v, x, self.posterior(v, x, pixels))
        if mask is not None:
            kept = nearest(mask, self.coder.factor)
            kept = jnp.ones_like(kept) if self.joins == "mask" else kept
        return Given(image=image, mask=kept, start=x.batch.get("start"))


def _joined(latent: Array, more: Array | None) -> Array:
    return latent if more is None else jnp.concatenate([latent, more], -1)
