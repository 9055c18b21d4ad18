"""A model ready to use: `vlp_jax.load(PATH)` opens a converted checkpoint or a training workdir.

A converted folder is proven on every load: the digest of its weights and the golden embeddings that
it carries. The file exists so that commands and notebooks open a model in the same way and ask it
the same things.
"""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from vlp_jax.api.compose import composed
from vlp_jax.api.config import FRESH
from vlp_jax.api.drawing import Asked, sample
from vlp_jax.api.embed import (
    Batching,
    check_scale,
    embed_pictures,
    embed_texts,
    embedders,
    joined,
    shares,
    sides,
)
from vlp_jax.api.golden import embeds, golden_embeddings, golden_outputs
from vlp_jax.api.lora import with_lora
from vlp_jax.api.named_tokenizers import specs_of_converted, specs_of_run
from vlp_jax.api.pictures import check_list, check_texts, frame, read_numbered
from vlp_jax.api.placement import Run, choose_mesh, places, shapes
from vlp_jax.api.texts import TextArrays, open_tokenizer
from vlp_jax.api.weights import check_shapes, split_extra
from vlp_jax.api.writing import generate, match, score
from vlp_jax.core.errors import UserError, no_download
from vlp_jax.core.fields import Text
from vlp_jax.core.inputs import Vars
from vlp_jax.core.pytree import size
from vlp_jax.core.types import Extra, Params
from vlp_jax.data.framing import Framing
from vlp_jax.data.order import STREAM
from vlp_jax.interop.folder import MANIFEST, is_folder, read_folder
from vlp_jax.interop.golden import compare
from vlp_jax.interop.preprocess import SOURCE
from vlp_jax.methods.base import Method, make_method
from vlp_jax.parallel.sharding import place
from vlp_jax.train.functions import find

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A model ready to use.

    Attributes:
      path: where it came from.
      method, params, extra: the model and its weights on the device.
      preprocessing: {image_size, mean, std} and what data/framing.py names.
      tokenizer_spec: {name, context_length, options}; name is "" when the checkpoint came without a
        tokenizer.
      tokenizers: {name: the same} of further ones, as fields name them.
      config: the whole vlp_jax.json, or the resolved config of a workdir.
      mesh: of the devices that hold the weights; None where it is one.
    """

    path: str
    method: Method
    params: Params
    extra: Extra
    preprocessing: Mapping[str, Any]
    tokenizer_spec: Mapping[str, Any]
    config: Mapping[str, Any]
    mesh: Mesh | None = None
    tokenizers: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        count = f"{size(self.params):,} parameters"
        return f"Model({self.path!r}, {type(self.method).__name__}, {count})"

    def embed_images(self, pictures: Iterable[Any], how: Batching | None = None) -> np.ndarray:
        """float32[N, E] of unit norm: pictures in the space that a dual encoder shares with texts;
        of other models their features, divided by their norm. BLIP-2 gives several vectors each,
        float32[N, n, E], of which the nearest to a text counts.

        Args:
          pictures: paths, Pillow pictures or uint8[H, W, 3] arrays, of any size, in any iterable.
            Files and Pillow pictures are turned as their EXIF says; all are framed as the model's
            preprocessing frames files.

        Raises:
          UserError: one that cannot be read, named by its number.
        """
        numbered = enumerate(check_list(pictures, "pictures"))
        read = functools.partial(read_numbered, self.decode)
        rows, _ = embed_pictures(self.run("image"), numbered, read, how or Batching())
        return joined(rows, self.width("image"))

    def embed_texts(self, texts: Iterable[str], how: Batching | None = None) -> np.ndarray:
        """float32[M, E] of unit norm.

        Raises:
          UserError: a model without a text tower, or without a tokenizer that fits it.
        """
        run, texts = self.run("text"), check_texts(texts)
        if not texts:  # then none needs a tokenizer
            return joined([], self.width("text"))
        arrays = self.text_arrays()
        rows = embed_texts(run, texts, arrays, how or Batching())
        arrays.tell()
        return joined(rows, self.width("text"))

    def similarity(
        self, pictures: Iterable[Any], texts: Iterable[str], scale: float | None = None
    ) -> np.ndarray:
        """float32[N, M]: what each picture says of the texts, a softmax over scale * cosine.

        Args:
          pictures, texts: as `embed_images` and `embed_texts` take them.
          scale: None is the model's own, as it was trained (a bias, which SigLIP has, changes no
            softmax); 100 is that of the released CLIPs.

        Raises:
          UserError: a model without a text tower, or without a scale where none is given.
        """
        text = self.embed_texts(texts)  # first: a missing tower is told at once
        scale = self.scale_of(scale)
        return shares(self.embed_images(pictures), text, scale)

    def scale_of(self, scale: float | None = None) -> float:
        """The given factor of the cosines, or the model's own.

        Raises:
          UserError: it has none, or the given one is no positive number.
        """
        if scale is not None:
            return check_scale(scale)
        own = self.method.scale(self.params)
        if own is None:
            raise UserError(f"{self.path} holds no logit scale; give a scale, 100 is CLIP's")
        return float(own)

    @property
    def image_size(self) -> int:
        return int(self.preprocessing["image_size"])

    def tokenizer(self, name: str = Text.tokenizer) -> Callable[..., np.ndarray]:
        """The tokenizer that fields know by this name, loaded once.

        Raises:
          UserError: the checkpoint carries none, or its ids exceed the model's vocabulary.
        """
        if name not in self._tokenizers:
            specs = {Text.tokenizer: self.tokenizer_spec, **self.tokenizers}
            opened = open_tokenizer(self.path, name, specs.get(name), self.method.fields())
            self._tokenizers[name] = opened
        return self._tokenizers[name]

    @functools.cached_property
    def _tokenizers(self) -> dict[str, Callable[..., np.ndarray]]:
        return {}

    def text_arrays(self, field: Text | None = None, name: str = "text") -> TextArrays:
        """texts -> {name: int32[B, T]}, with name_mask bool[B, T] where the field has one; texts
        that do not fit are cut, and counted. field: default the model's `text`. Raises UserError as
        `tokenizer`.
        """
        field = field or self.method.fields()["text"]
        return TextArrays(self.tokenizer(field.tokenizer), field, name)

    def generate(
        self, pictures: Iterable[Any] | None = None, prompt: str | Sequence[str] = "", **how: Any
    ) -> list[str | None] | list[list[str] | None]:
        """The best text for each picture: a caption, or the answer to a question; of a language
        model alone, generate(prompt=[...]), what follows each prompt. A list of several where
        `returned` is above 1: the best of as many beams, best first, or as they are drawn.

        Args:
          pictures: as `embed_images` takes them.
          prompt: how the text begins, or the question; one for all, or one of each.
          how: decoding/how.py Writing (beams=3, max_new=20, top_p=0.9, ...), seed, stop=["."],
            returned=3, and skip_damaged: None for a picture that cannot be read.

        Raises:
          UserError: a model that writes nothing; see api/writing.py.
        """
        found = generate(self, pictures, prompt, **how)
        texts = [made and [one.text for one in made] for made in found]
        return texts if how.get("returned", 1) > 1 else [some and some[0] for some in texts]

    def score(
        self, pictures: Iterable[Any], texts: Sequence[str], prompt: str | Sequence[str] = ""
    ) -> np.ndarray:
        """float32[N, K], the log-likelihood of each of K texts, their end included, as what the
        model would write for each picture after the prompt, or in answer to the question.

        Args:
          pictures, prompt: as `generate` takes them.

        Raises:
          UserError: a model that scores no texts; see api/writing.py.
        """
        return score(self, pictures, texts, prompt)

    def match(self, pictures: Iterable[Any], texts: Sequence[str]) -> np.ndarray:
        """float32[N], the probability that each picture and its text belong together.

        Raises:
          UserError: a model without that head, or another number of texts.
        """
        return match(self, pictures, texts)

    def sample(
        self,
        prompts: Sequence[str] | Sequence[int] | str | None = None,
        *,
        seed: int | Sequence[int] = 0,
        n: int = 1,
        size: tuple[int, int] | None = None,
        batching: Batching | None = None,
        **given: Any,
    ) -> list[Image.Image]:
        """Pictures that the model draws, in the order of the prompts, n of each.

        Args:
          prompts: texts, or numbers of classes; None for a model that draws without.
          seed: of every prompt's first picture, or one for each prompt; its others follow.
          size: height and width; default that of a given picture, or the model's own.
          given: negative="...", image=F (with strength=0.8), mask=F, control=F (control_0, ...),
            each for all prompts or a list of one for each; and options of the model's
            `generate_image`: steps=50, guidance=7.5, sampler="ddim", ... (diffusion/how.py).

        Raises:
          UserError: a model that draws nothing; see api/drawing.py.
        """
        return sample(self, Asked(prompts, seed, n, size, given), batching)

    def decode(self, picture: Any) -> np.ndarray:
        """A path, the bytes of a file, a Pillow picture or uint8[H, W, 3] -> uint8[S, S, 3] by this
        model's own preprocessing.

        Raises:
          DamagedSample: it cannot be read. UserError: it is none of these.
        """
        return frame(picture, self.image_size, Framing.of(self.preprocessing))

    def embedders(self) -> dict[str, Run]:
        """{'image', 'text'} -> f(batch) -> float32[B, E] of unit norm, compiled once per batch
        shape."""
        return self._embedders

    @functools.cached_property
    def _embedders(self) -> dict[str, Run]:
        return embedders(self.method, self.params, self.extra, self.mesh)

    def run(self, side: str, flag: str = "") -> Run:
        """f(batch) -> float32[B, E] of `image` or `text`.

        Raises:
          UserError: the model has no such tower; the message starts with the flag.
        """
        if side not in self._embedders:
            what = f"a model of method {self.config['method']['name']!r}, without"
            article = "an" if side == "image" else "a"
            raise UserError(f"{flag}{self.path} holds {what} {article} {side} tower")
        return self._embedders[side]

    def width(self, side: str) -> int:
        """E of `image` or `text`."""
        return self.row(side)[-1]

    def row(self, side: str) -> tuple[int, ...]:
        """(E,) of `image` or `text`, or (n, E) where they have several vectors."""
        if side not in self._rows:  # tracing takes longer than embedding a text
            name, v = sides(self.method)[side], Vars(self.params, self.extra)
            spec = find(self.method, name).reads[side].spec(side, 1)
            self._rows[side] = shapes(self.method, name, v, spec).shape[1:]
        return self._rows[side]

    @functools.cached_property
    def _rows(self) -> dict[str, tuple[int, ...]]:
        return {}


def load_model(
    path: str,
    sharding: str = "",
    mesh: Mapping[str, int] | None = None,
    parts: Mapping[str, str] | None = None,
    lora: Mapping[str, float] | None = None,
) -> Model:
    """Opens a converted folder, a training workdir, or `fresh:WORKDIR`, the baseline without
    training.

    Args:
      path: of the folder.
      sharding: "" puts the weights on one device; a preset of parallel/sharding.py (`replicated`,
        `fsdp`, ...) on all, which share the rows of a batch.
      mesh: {axis: size} for the preset; default all devices.
      parts: {part: "FOLDER[:its part]"} of other checkpoints, see api/compose.py.
      lora: {file: strength} of adapters on the weights, see api/lora.py.

    Raises:
      UserError: neither, an unknown preset, a converted folder that does not prove itself (the
        message names the difference), or parts or adapters that do not fit.
    """
    if parts or lora:
        model = load_model(path, sharding, mesh)
        model = composed(model, parts or {}, lambda folder: load_model(folder, sharding, mesh))
        return with_lora(model, lora or {})
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise UserError(f"--checkpoint: {path!r} is no path of a folder")
    path = os.fspath(path)
    fresh, path = path.startswith(FRESH), path.removeprefix(FRESH)
    if is_folder(path) and not fresh:
        return load_converted(path, sharding, mesh)
    if not os.path.isdir(path):
        raise UserError(f"--checkpoint: {path}: no such folder{no_download(path)}")
    if os.path.exists(os.path.join(path, "config.json")) and os.path.isdir(
        os.path.join(path, "checkpoints")
    ):
        return load_workdir(path, fresh, sharding=sharding, mesh=mesh)
    raise UserError(
        f"--checkpoint: {path}: neither a converted checkpoint ({MANIFEST}) nor a training workdir"
    )


def load_workdir(
    path: str,
    fresh: bool = False,
    average: bool = True,
    sharding: str = "",
    mesh: Mapping[str, int] | None = None,
) -> Model:
    """Opens the newest checkpoint of a training workdir (its moving average where the run keeps
    one, and `average`), or its fresh weights: not those of `init_from`, but random ones."""
    from vlp_jax.core.pytree import merge
    from vlp_jax.train.checkpoint import Checkpoints
    from vlp_jax.train.workdir import read_config, stream_of

    config, drawn = read_config(path), stream_of(Path(path))
    if fresh and drawn not in (None, STREAM):
        words = "%s: its run drew random stream %d, this version draws %d: other fresh weights"
        _log.warning(words, path, drawn, STREAM)
    method = make_method(config["method"])
    devices = choose_mesh(sharding, mesh)
    where = places(devices, sharding)
    if fresh:
        key = jax.random.key(config["seed"])
        out = where(jax.eval_shape(method.fresh, key))
        params, extra = jax.jit(method.fresh, out_shardings=out)(key)
        step = 0
    else:
        step, state = Checkpoints(os.path.join(path, "checkpoints")).restore_model(where)
        trained = (average and state["ema"]) or state["params"]
        params = merge(trained, state["frozen"])
        extra = state["extra"]
    data = config["data"]
    pictures = {**data["image"], **(data.get("fields") or {}).get("image", {})}
    preprocessing = {**pictures, "crop": pictures["eval_crop"], "image_size": config["image_size"]}
    fields = method.fields()
    if "image" in fields:
        preprocessing |= {"mean": method.image_mean, "std": method.image_std}
    others = specs_of_run(path, config, fields)
    spec = others.pop(Text.tokenizer)
    config = {**config, "step": step}
    return Model(path, method, params, extra, preprocessing, spec, config, devices, others)


def load_converted(path: str, sharding: str = "", mesh: Mapping[str, int] | None = None) -> Model:
    """Opens a converted folder and proves it."""
    devices = choose_mesh(sharding, mesh)
    tensors, manifest = read_folder(path)
    method = make_method(manifest["method"])
    check_shapes(method, tensors, path)
    weights = split_extra(tensors)
    params, extra = place(weights, places(devices, sharding)(weights))
    specs = specs_of_converted(path, manifest)
    spec, how = specs.pop(Text.tokenizer), SOURCE | manifest["preprocessing"]
    model = Model(path, method, params, extra, how, spec, manifest, devices, specs)
    golden = manifest["golden"]
    if embeds(method):
        found = golden_embeddings(method, model.embedders())
    else:
        found = golden_outputs(method, Vars(params, extra), golden)
    compare(golden, found, path)
    return model
