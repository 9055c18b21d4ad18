"""Runs whose adapters learn: at their start the base bit for bit, nothing else moves, small
checkpoints, a resume repeats every bit, micro-batches change nothing.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import digests
from tiny import tiny_batch, tiny_config, tiny_method

from vlp_jax.api.config import load_config
from vlp_jax.api.convert import convert
from vlp_jax.api.init_from import Weights, fitting
from vlp_jax.core import adapters
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.pytree import flatten, matches, merge
from vlp_jax.core.rng import example_keys, step_key
from vlp_jax.interop import learned_embeds
from vlp_jax.interop.learned_embeds import read_words
from vlp_jax.interop.lora import FILE, read_lora
from vlp_jax.methods.base import make_method
from vlp_jax.optim.adapt import Adapt
from vlp_jax.optim.optimizer import lr_factors, make_optimizer
from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.gradient import loss_and_gradient
from vlp_jax.train.loop import Loop
from vlp_jax.train.state import Recipe, init_state
from vlp_jax.train.step import make_step
from vlp_jax.train.trainer import Trainer
from vlp_jax.train.workdir import run_files, write_files

B = 8
TOWERS = dict(image={"num_layers": 1, "dropout": 0.1}, text={"num_layers": 1})
LORA = {"adapt.rank": 2, "adapt.alpha": 4.0}
FOUND = {f"{tower}/blocks/attn/{name}" for tower in ("image", "text") for name in ("qkv", "out")}


def batch(seed=0):
    return jax.tree.map(jnp.asarray, tiny_batch(B, seed))


@pytest.fixture(scope="module")
def started():
    """(method, its weights without adapters, first state, frozen weights)."""
    method, recipe = tiny_method("clip", **TOWERS), Recipe(0, B, adapt=Adapt(2, alpha=4))
    tx = make_optimizer({"name": "adamw", "weight_decay": 0.1})
    start = jax.jit(lambda: init_state(method, tx, recipe))()
    return method, jax.jit(lambda: method.fresh(jax.random.key(0)).params)(), *start


def test_the_base_is_frozen_and_computes_what_it_did(started):
    method, base, state, frozen = started
    assert {path.rpartition("/")[0] for path in flatten(state["params"])} == FOUND
    whole = flatten(frozen)
    assert whole.keys() == flatten(base).keys()
    assert all((whole[path] == leaf).all() for path, leaf in flatten(base).items())
    embed = jax.jit(lambda params: method.encode(Vars(params, {}), Inputs.of(batch()))[0])
    one, two = embed(base), embed(merge(state["params"], frozen))
    assert all((one[name] == two[name]).all() for name in ("image", "text"))
    strong = jax.tree.map(lambda leaf: leaf + 0.1, state["params"])
    found = embed(merge(strong, frozen))
    folded = embed(adapters.fold(merge(strong, frozen)))
    for name in ("image", "text"):
        assert np.abs(found[name] - one[name]).max() > 0.05
        np.testing.assert_allclose(found[name], folded[name], atol=1e-6)


def test_adapters_alone_learn(started):
    """Weight decay included; their constant factor stays, as does what micro-batches compute."""
    method, _, state, frozen = started
    optim = {"name": "adamw", "weight_decay": 0.1}
    factors, first = lr_factors(optim, state["params"]), state
    tx, recipe = make_optimizer(optim), Recipe(0, B, adapt=Adapt(2, alpha=4))
    step = jax.jit(make_step(method, tx, lambda _: jnp.float32(1e-2), factors, recipe))
    losses = []
    for _ in range(6):
        state, metrics = step(state, frozen, batch())
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] - 0.05
    moved = {
        p: (x != flatten(first["params"])[p]).any() for p, x in flatten(state["params"]).items()
    }
    assert all(moved[path] != path.endswith(adapters.SCALE) for path in moved)
    x = Inputs.of(batch(), example_keys(step_key(0, 1), B), step=1, train=True)
    slope = jax.jit(
        lambda count: loss_and_gradient(method, state["params"], frozen, {}, x, count)[2],
        static_argnums=0,
    )
    one, two = flatten(slope(1)), flatten(slope(2))
    largest = max(float(jnp.abs(leaf).max()) for leaf in one.values())
    for path, leaf in one.items():
        np.testing.assert_allclose(leaf, two[path], atol=1e-5 * largest, err_msg=path)


@pytest.fixture(scope="module")
def base(config_file, tmp_path_factory):
    """A workdir to start from."""
    folder = tmp_path_factory.mktemp("base")
    checkpoints = Checkpoints(folder / "checkpoints")
    state = Trainer(load_config(str(config_file), {"seed": "7"})).first().state
    checkpoints.save(1, state)
    checkpoints.wait()
    return folder


def train(make_trainer, base, workdir, stop=0, **flags):
    """Trains to `stop`, or to the end, from the workdir's newest checkpoint."""
    trainer = make_trainer(init_from=base, steps=4, checkpoint_every=2, **{**LORA, **flags})
    if stop:
        object.__setattr__(trainer, "steps", stop)
    workdir.mkdir(exist_ok=True)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=10)
    start = trainer.first(Weights(trainer).weights)
    if steps := checkpoints.steps():
        state = checkpoints.restore(trainer.abstract.state)
        start = type(start)(state, checkpoints.restore_frozen(trainer.abstract.frozen, steps[-1]))
    loop = Loop(trainer, workdir, start, checkpoints)
    loop.run()
    return trainer, loop


def test_a_resume_repeats_every_bit_and_checkpoints_hold_adapters_alone(
    make_trainer, base, tmp_path
):
    trainer, whole = train(make_trainer, base, tmp_path / "whole")
    train(make_trainer, base, tmp_path / "parts", stop=2)
    _, parts = train(make_trainer, base, tmp_path / "parts")
    assert parts.start == 2 and digests(parts.state) == digests(whole.state)
    saved = Checkpoints(tmp_path / "whole" / "checkpoints")
    names = flatten(saved._saved(4).shapes())
    learned = [path.partition("/")[2] for path in names if path.startswith(("params", "ema"))]
    assert learned and all(matches(path, adapters.PATHS) for path in learned)
    assert sum(np.prod(leaf.shape) for leaf in names.values()) < 9_000
    given = Weights(make_trainer(init_from=tmp_path / "whole"))  # no adapters: they are folded in
    tuned = merge(whole.state["ema"], whole.frozen)
    kernel = "image/blocks/attn/qkv/kernel"
    np.testing.assert_array_equal(given.weights[kernel], flatten(adapters.fold(tuned))[kernel])
    assert (given.weights[kernel] != flatten(whole.frozen)[kernel]).any()
    on = Weights(make_trainer(init_from=tmp_path / "whole", **LORA))  # these go on from them
    b = "text/blocks/attn/out/lora_b"
    np.testing.assert_array_equal(on.weights[b], flatten(whole.state["ema"])[b])
    check_files(trainer, whole.state["ema"], tmp_path / "whole", tmp_path / "lora")


def check_files(trainer, learned, workdir, out):
    """`convert --to=lora` writes the average's adapters; a run without any has none to write."""
    write_files(workdir, run_files(trainer.config, ""))
    report = convert(str(workdir), str(out), to="lora")
    assert report["tensors"] == 2 * 2 * 4 and report["parameters"] < 2_500
    back = read_lora(str(out / FILE), trainer.method.adapters(1))
    for kernel, its in adapters.adapters(flatten(learned)):
        found = adapters.Adapter(*(back[name] for name in adapters.names(kernel)))
        wanted = adapters.product(its)
        assert np.abs(wanted).max() > 1e-4
        np.testing.assert_allclose(adapters.product(found), wanted, atol=1e-6)
    with pytest.raises(UserError, match="is a training run"):
        convert(str(workdir), f"{out}2")


def test_a_new_word_alone_learns(config_file, base, tmp_path):
    """It starts as the row of the word that it is given for; nothing else moves; both files."""
    flags = {"init_from": base, "steps": 2, "optim.weight_decay": 0.0, "ema_decay": 0.0}
    config = load_config(str(config_file), {key: str(value) for key, value in flags.items()})
    with config.unlocked(), config.ignore_type():
        config.data.tokenizer_options.new = ("n=a",)  # in every caption
        config.method.text.vocab_size += 1
        config.method.text.new_rows = 1
        config.adapt.learn = ("text/token_embed/new_rows",)
    trainer = Trainer(config)
    start = trainer.first(Weights(trainer).weights)
    assert list(flatten(start.state["params"])) == ["text/token_embed/new_rows"]
    table = np.asarray(start.frozen["text"]["token_embed"]["embedding"])
    first = np.asarray(start.state["params"]["text"]["token_embed"]["new_rows"])
    np.testing.assert_array_equal(first, table[trainer.tokenizers["text"].inner.encode("a")])
    loop = Loop(trainer, tmp_path, start, Checkpoints(tmp_path / "checkpoints"))
    loop.run()
    learned = flatten(loop.state["params"])["text/token_embed/new_rows"]
    assert np.abs(learned - first).max() > 1e-4
    write_files(tmp_path, run_files(trainer.config, ""))
    report = convert(str(tmp_path), str(tmp_path / "word"), to="learned_embeds")
    assert report["parameters"] == learned.size
    name, rows = read_words(str(tmp_path / "word" / learned_embeds.FILE))
    assert name == "n" and rows.keys() == {"text"}
    np.testing.assert_array_equal(rows["text"], learned)
    with config.unlocked():
        config.method.text.vocab_size -= 1
    with pytest.raises(UserError, match="bytes: has 260 ids but"):
        Trainer(config)


def test_mistakes_are_told_before_anything_is_compiled(make_trainer, base):
    for flags, message in (
        ({"adapt.rank": 2}, "init_from: gives no image/"),
        ({"adapt.rank": 2, "adapt.paths": "('image/atn.*',)"}, "adapt.paths: 'image/atn.*'"),
        ({"adapt.learn": "('image/(',)"}, "adapt.learn: 'image/(' is no regular expression"),
        ({"adapt.learn": "('imag/.*',)"}, "adapt.learn: 'imag/.*' matches no parameter"),
    ):
        with pytest.raises(UserError) as caught:
            make_trainer(**flags)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    trainer = make_trainer(init_from=base, **LORA, **{"adapt.learn": "('logit_scale',)"})
    assert "logit_scale" in trainer.abstract.state["params"]
    half = make_trainer(init_from=base, **LORA, **{"adapt.half": "true"}).abstract.frozen
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(half)} == {"bfloat16", "float32"}


def test_a_base_of_another_vocabulary_is_asked_for_with_the_new_rows_beside_it():
    """Textual inversion from a network of another size: what the error says must keep the word."""
    base = tiny_config("clip")
    rows = base["text"]["vocab_size"]
    own = tiny_config("clip", text={**base["text"], "new_rows": 1, "vocab_size": rows + 8})
    trainer = SimpleNamespace(method=make_method(own), config=SimpleNamespace(method=own))
    (line,) = fitting({"text": "text"}, base, trainer)
    assert f"--config.method.text.vocab_size={rows + 1}" in line and "new_rows" not in line
