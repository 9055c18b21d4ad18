"""Opens a converted checkpoint or a training workdir for commands that use a model: embed, eval,
search, serve.

A converted folder is proven on every load: the digest of its weights and the golden embeddings that
it carries. The file exists so that every command opens a model in the same way.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from vlp_jax.api.config import FRESH
from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Picture, Text
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.pytree import flatten, unflatten
from vlp_jax.core.types import Extra, HostBatch, Params
from vlp_jax.data.framing import Framing
from vlp_jax.interop.folder import MANIFEST, is_folder, read_folder
from vlp_jax.interop.golden import compare, golden_inputs
from vlp_jax.interop.preprocess import SOURCE
from vlp_jax.losses.contrastive import unit
from vlp_jax.methods.base import Method, make_method
from vlp_jax.models.mae_decoder import MAEDecoder
from vlp_jax.models.vit import ViT
from vlp_jax.nn.positions import sincos_table


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model ready to use.

    Attributes:
      path: where it came from.
      method, params, extra: the model and its weights on the device.
      preprocessing: {image_size, mean, std} and what data/framing.py names.
      tokenizer_spec: {name, context_length, options}; name is "" when the checkpoint came without a
        tokenizer.
      config: the whole vlp_jax.json, or the resolved config of a workdir.
    """

    path: str
    method: Method
    params: Params
    extra: Extra
    preprocessing: Mapping[str, Any]
    tokenizer_spec: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def image_size(self) -> int:
        return int(self.preprocessing["image_size"])

    def tokenizer(self) -> Callable[..., np.ndarray]:
        """Loads the tokenizer.

        Raises:
          UserError: the checkpoint carries none, or its ids exceed the model's vocabulary.
        """
        from vlp_jax.data.text import check_vocab, load_tokenizer

        spec = self.tokenizer_spec
        if not spec["name"]:
            raise UserError(
                f"{self.path}: carries no tokenizer; convert it again with --tokenizer=FILE"
            )
        options = dict(spec.get("options", {}))
        tokenizer = load_tokenizer(
            spec["name"], context_length=int(spec["context_length"]), **options
        )
        check_vocab(tokenizer, self.method.text_tower.vocab_size)
        return tokenizer

    def decode(self, data: bytes) -> np.ndarray:
        """Encoded picture -> uint8[S, S, 3] by this model's own preprocessing. Raises
        DamagedSample."""
        from vlp_jax.data.decode import decode_framed

        return decode_framed(data, self.image_size, Framing.of(self.preprocessing))[0]

    def embedders(self) -> dict[str, Callable[[HostBatch], np.ndarray]]:
        """{'image', 'text'} -> f(batch) -> float32[B, E] of unit norm, compiled once per batch
        shape."""
        return embedders(self.method, self.params, self.extra)


def load_model(path: str) -> LoadedModel:
    """Opens a converted folder, a training workdir, or `fresh:WORKDIR`, the baseline without
    training.

    Raises:
      UserError: neither, or a converted folder that does not prove itself (the message names the
        difference).
    """
    fresh, path = path.startswith(FRESH), path.removeprefix(FRESH)
    if is_folder(path) and not fresh:
        return load_converted(path)
    if not os.path.isdir(path):
        raise UserError(f"--checkpoint: {path}: no such folder")
    if os.path.exists(os.path.join(path, "config.json")) and os.path.isdir(
        os.path.join(path, "checkpoints")
    ):
        return load_workdir(path, fresh)
    raise UserError(
        f"--checkpoint: {path}: neither a converted checkpoint ({MANIFEST}) nor a training workdir"
    )


def load_workdir(path: str, fresh: bool = False, average: bool = True) -> LoadedModel:
    """Opens the newest checkpoint of a training workdir (its moving average where the run keeps
    one, and `average`), or its fresh weights: not those of `init_from`, but random ones."""
    from vlp_jax.core.pytree import merge
    from vlp_jax.parallel.mesh import make_mesh, replicated
    from vlp_jax.train.checkpoint import Checkpoints
    from vlp_jax.train.workdir import read_config

    config = read_config(path)
    method = make_method(config["method"])
    where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if jax.process_count() > 1:  # all processes read together, and each needs the whole
        where = replicated(make_mesh({"data": -1}))
    if fresh:
        params, extra = jax.jit(method.fresh)(jax.random.key(config["seed"]))
        step = 0
    else:
        step, state = Checkpoints(os.path.join(path, "checkpoints")).restore_model(where)
        trained = (average and state["ema"]) or state["params"]
        params = merge(trained, state["frozen"])
        extra = state["extra"]
    pictures = config["data"]["image"]
    preprocessing = {**pictures, "crop": pictures["eval_crop"], "image_size": config["image_size"]}
    preprocessing |= {"mean": method.image_mean, "std": method.image_std}
    data = config["data"]
    spec = dict(name=data["tokenizer"], context_length=data["context_length"])
    spec["options"] = data.get("tokenizer_options", {})
    return LoadedModel(path, method, params, extra, preprocessing, spec, {**config, "step": step})


def load_converted(path: str) -> LoadedModel:
    """Opens a converted folder and proves it."""
    arrays, manifest = read_folder(path)
    method = make_method(manifest["method"])
    params, extra = split_extra(arrays)
    check_shapes(method, arrays, path)
    params, extra = jax.device_put((params, extra))
    fns = embedders(method, params, extra)
    compare(manifest["golden"], golden_embeddings(method, fns), path)
    spec = {**manifest["tokenizer"], "name": tokenizer_name(path, manifest["tokenizer"]["name"])}
    how = SOURCE | manifest["preprocessing"]
    return LoadedModel(path, method, params, extra, how, spec, manifest)


def tokenizer_name(folder: str, name: str) -> str:
    """A tokenizer file lies in the folder; a built-in one is a bare name."""
    file = os.path.join(folder, os.path.basename(name.removeprefix("spm:")))
    if not name or not os.path.isfile(file):
        return name
    return f"spm:{file}" if name.startswith("spm:") else file


def embedders(
    method: Method, params: Params, extra: Extra
) -> dict[str, Callable[[HostBatch], np.ndarray]]:
    """See LoadedModel.embedders; a method without embeddings gives 'image', its features divided
    by their norm. Products run in full float32, so that numbers agree between kinds of device."""
    fns = {name: function.run for name, function in method.functions().items()}
    sides = {side: fns[f"embed_{side}"] for side in ("image", "text") if f"embed_{side}" in fns}
    if not sides:
        sides = {"image": lambda v, x: unit(fns["features"](v, x))}

    def compile_(fn: Callable) -> Callable:
        return jax.jit(lambda params, extra, batch: fn(Vars(params, extra), Inputs.of(batch)))

    compiled = {side: compile_(fn) for side, fn in sides.items()}

    def make(side: str) -> Callable[[HostBatch], np.ndarray]:
        def run(batch: HostBatch) -> np.ndarray:
            with jax.default_matmul_precision("highest"):
                return np.asarray(compiled[side](params, extra, batch))

        return run

    return {side: make(side) for side in compiled}


def golden_embeddings(method: Method, fns: Mapping[str, Callable]) -> dict[str, np.ndarray]:
    """Embeddings of the golden picture and, where there is a text tower, text: {'image':
    float32[E], 'text': float32[E]}.
    """
    fields = method.fields()
    image, text = fields.get("image", Picture(2)), fields.get("text", Text(2, 2))
    batch = golden_inputs(image.size, text.length, text.vocab_size)
    arrays = {side: [name for name in fields[side].spec(side, 1) if name in batch] for side in fns}
    return {side: fns[side]({name: batch[name] for name in arrays[side]})[0] for side in fns}


def expected_shapes(method: Method) -> dict[str, tuple[int, ...]]:
    """{path: shape} of everything a checkpoint holds: parameters, and batch statistics under
    `batch_stats/`."""
    params, extra = jax.eval_shape(method.fresh, jax.random.key(0))
    return {path: leaf.shape for path, leaf in flatten({**params, **extra}).items()}


def position_tables(method: Method) -> dict[str, np.ndarray]:
    """The fixed tables of a method by path, for files that hold them as tensors: float32[C + N,
    D]."""
    tables = {}
    for name, net in ((name, part.net) for name, part in method.parts().items()):
        if isinstance(net, ViT) and net.pos_embed == "sincos":
            tables[f"{name}/pos_embed"] = sincos_table(net.grid, net.width, int(net.has_cls))
        if isinstance(net, MAEDecoder):
            tables[f"{name}/pos_embed"] = sincos_table(net.grid, net.width, prefix=1)
    return tables


def check_shapes(method: Method, arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Raises UserError listing every path that the method and the arrays do not share."""
    expected = expected_shapes(method)
    lines = [
        f"  missing      {path} {list(shape)}"
        for path, shape in expected.items()
        if path not in arrays
    ]
    lines += [
        f"  not known    {path} {list(arrays[path].shape)}"
        for path in arrays
        if path not in expected
    ]
    lines += [
        f"  wrong shape  {path} {list(arrays[path].shape)}, expected {list(shape)}"
        for path, shape in expected.items()
        if path in arrays and arrays[path].shape != tuple(shape)
    ]
    if lines:
        raise UserError(
            "\n".join([f"{where}: {len(lines)} weights do not fit; nothing was loaded", *lines])
        )


def split_extra(arrays: Mapping[str, np.ndarray]) -> tuple[Params, Extra]:
    """Flat arrays -> (params, extra)."""
    tree = unflatten(arrays)
    extra = {"batch_stats": tree.pop("batch_stats")} if "batch_stats" in tree else {}
    return tree, extra
