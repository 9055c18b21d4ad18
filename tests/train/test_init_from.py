"""What a run starts from: `init_from` by prefix, every leaf told, no frozen weight at random."""

import re
import shutil

import jax
import numpy as np
import pytest
from small_runs import digests
from tiny import tiny_config

from vlp_jax.__main__ import main
from vlp_jax.api.config import load_config
from vlp_jax.api.init_from import Source, Weights, sources
from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten, merge
from vlp_jax.interop.folder import write_folder
from vlp_jax.interop.tensors import Tensor
from vlp_jax.train.checkpoint import Checkpoints
from vlp_jax.train.trainer import Trainer

IMAGE = "init_from.image"
LOCKED = {"freeze": "('image/.*',)"}


@pytest.fixture(scope="module")
def other(config_file, tmp_path_factory):
    """The workdir of a run of another seed, at its start."""
    folder = tmp_path_factory.mktemp("other")
    checkpoints = Checkpoints(folder / "checkpoints")
    state = Trainer(load_config(str(config_file), {"seed": "7"})).first().state
    state["ema"] = jax.tree.map(lambda leaf: leaf + 1, state["ema"])  # the average is what counts
    checkpoints.save(1, state)
    checkpoints.wait()
    return folder


def their(workdir):
    """Its weights, {path: array}."""
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    _, model = Checkpoints(workdir / "checkpoints").restore_model(where)
    return flatten(merge(model["ema"], model["frozen"]))


def refused(make_trainer, **overrides):
    with pytest.raises(UserError) as caught:
        Weights(make_trainer(**overrides))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_prefixes_are_added_by_flags(config_file):
    flags = {"init_from.image": "A:vision", "init_from.text": "B"}
    config = load_config(str(config_file), flags)
    assert config.init_from.to_dict() == {"image": "A:vision", "text": "B"}
    assert set(sources(config.init_from)) == {
        Source("image=A:vision", "A", "image", "vision"),
        Source("text=B", "B", "text", "text"),
    }
    nested = {"image/blocks": "B", "image": "A", "text": "C"}
    assert next(iter(sources(nested))).ours == "image/blocks", "the longest wins"
    assert sources("A") == [Source("A", "A")]
    with pytest.raises(UserError, match=r"init_from\.lm is empty: a folder with weights of lm"):
        sources({"lm": ""})
    assert sources("A:x/.*") == [Source("A:x/.*", "A", pattern="x/.*")]
    with pytest.raises(UserError, match="init_from=A gives everything; name prefixes alone"):
        load_config(str(config_file), {"init_from": "A", "init_from.image": "B"})


def test_names_are_translated_statistics_too():
    source = Source("", "W", "image", "vision/trunk")
    assert source.name("vision/trunk/a/b") == "image/a/b"
    assert source.name("batch_stats/vision/trunk/a/mean") == "batch_stats/image/a/mean"
    assert source.name("vision/trunks/a") == source.name("image/a") == ""
    assert source.asks("batch_stats/image/a") and not source.asks("images/a")
    assert Source("", "W").name("anything/else") == "anything/else"


def test_a_tower_comes_and_the_rest_is_fresh(make_trainer, other, capsys):
    trainer, its = make_trainer(**{IMAGE: f"{other}:image"}), their(other)
    given = Weights(trainer)
    given.show()
    count = sum(path.startswith("image/") for path in its)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"init_from image={other}:image: {count} loaded, 0 resized, 0 unused"
    assert lines[1].startswith(f"init_from: {len(its) - count} fresh (logit_scale, text/")
    record = given.record()
    assert len(record["from"][f"image={other}:image"]["loaded"]) == count
    fresh, begun = make_trainer().first().state, trainer.first(given.weights).state
    for path, leaf in flatten(begun["params"]).items():
        wanted = its[path] if path.startswith("image/") else flatten(fresh["params"])[path]
        np.testing.assert_array_equal(leaf, wanted, err_msg=path)
    assert digests(begun["ema"]) == digests(begun["params"])


def test_a_converted_folder_is_read_when_it_is_put(make_trainer, other, tmp_path, capsys):
    """By a regex over its paths; it says how its pictures were made."""
    folder, its = str(tmp_path / "c"), their(other)
    arrays = {path: np.asarray(leaf) for path, leaf in its.items() if path.startswith("image/")}
    how = {"image_size": 32, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    how |= {"crop": "center", "resample": "bicubic"}
    manifest = dict(arch="", method={}, preprocessing=how, tokenizer={}, golden={})
    write_folder(folder, arrays, manifest)
    given = Weights(make_trainer(init_from=f"{folder}:image/(?!head).*"))
    given.show()
    assert given.weights.keys() == {path for path in arrays if not path.startswith("image/head/")}
    for path, leaf in given.weights.items():
        assert isinstance(leaf, Tensor), "unread: a device reads its share"
        np.testing.assert_array_equal(leaf, arrays[path])
    assert "its pictures were made with mean=[0.5, 0.5, 0.5]" in capsys.readouterr().err


def test_positions_of_another_grid_are_resized_and_others_refused(make_trainer, other):
    larger = {"image_size": 64, "method.image.image_size": 64, IMAGE: other}
    given = Weights(make_trainer(**larger))
    (told,) = given.told.values()
    assert told.resized == ["image/pos_embed"] and not told.unused
    old, new = their(other)["image/pos_embed"], given.weights["image/pos_embed"]
    assert new.shape == (65, 64)
    np.testing.assert_array_equal(new[0], old[0])
    np.testing.assert_allclose(new[1:].mean(), old[1:].mean(), atol=1e-2)
    shorter = {"data.context_length": 8, "method.text.context_length": 8, "init_from.text": other}
    assert "text/pos_embed is [12, 64], needs [8, 64]" in refused(make_trainer, **shorter)


def test_another_network_names_the_flags_that_make_it_fit(make_trainer, other, tmp_path):
    """Of a converted folder, which says what its weights are of."""
    folder, config = str(tmp_path / "folder"), make_trainer().config
    method = config.method.to_dict() | {"image": {**config.method.image.to_dict(), "width": 96}}
    arrays = {path: np.zeros(7, np.float32) for path in their(other) if path.startswith("image/")}
    how = {"image_size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop": "center"}
    how |= {"resample": "bicubic"}
    manifest = dict(arch="", method=method, preprocessing=how, tokenizer={}, golden={})
    write_folder(folder, arrays, manifest)
    message = refused(make_trainer, **{IMAGE: folder})
    assert "give --config.method.image.width=96)" in message and "; and " in message, message


def test_a_longer_prefix_wins_and_what_it_gives_is_asked_of_nobody_else(
    make_trainer, other, tmp_path, capsys
):
    """The picture tower of the broad source has other positions, which nobody needs."""
    small = {"image_size": 16, "method.image.image_size": 16}
    source = make_trainer(**small).first().state
    broad = str(tmp_path / "broad")
    arrays = {path: np.asarray(leaf) for path, leaf in flatten(source["params"]).items()}
    how = {"image_size": 16, "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop": "center"}
    how |= {"resample": "bicubic"}
    manifest = dict(arch="", method={}, preprocessing=how, tokenizer={}, golden={})
    arrays["image/cls_token"] = arrays["image/cls_token"][:3]
    write_folder(broad, arrays, manifest)
    text = {path for path in arrays if path.startswith("text/")}
    given = Weights(make_trainer(**{"init_from.text": broad, "init_from.text/pos_embed": other}))
    assert given.weights.keys() == text
    first, second = given.told.values()
    assert first.loaded == ["text/pos_embed"] and second.unused == ["text/pos_embed"]
    assert {*second.loaded, *second.unused} == text and not {*second.loaded} & {*second.unused}
    np.testing.assert_array_equal(given.weights["text/pos_embed"], their(other)["text/pos_embed"])
    both = {"init_from.image": broad, "init_from.image/cls_token": f"{other}:image/cls_token"}
    given = Weights(make_trainer(**both))
    np.testing.assert_array_equal(given.weights["image/cls_token"], their(other)["image/cls_token"])
    given.show()
    assert "its pictures" in capsys.readouterr().err


def test_another_network_of_the_same_shapes_is_told(make_trainer, other, tmp_path, capsys):
    arrays = {path: np.asarray(leaf) for path, leaf in their(other).items()}
    how = {"image_size": 32, "crop": "center", "resample": "bicubic", "mean": (0.5,) * 3}
    how |= {"std": (0.5,) * 3}
    for activation in ("gelu", "quick_gelu"):
        tower = {"num_layers": 1, "activation": activation}
        method = tiny_config(image={**tower, "dropout": 0.3}, text=tower)
        manifest = dict(arch="", method=method, preprocessing=how, tokenizer={}, golden={})
        write_folder(str(tmp_path / activation), arrays, manifest)
        Weights(make_trainer(**{IMAGE: f"{tmp_path / activation}:image"})).show()
        notes = [x for x in capsys.readouterr().err.splitlines() if "another network" in x]
        assert len(notes) == (activation == "quick_gelu")
    assert notes[0].endswith("another network: image.activation='gelu', there 'quick_gelu'")


def test_what_is_missing_must_be_named(make_trainer, other):
    """The towers' blocks are alike, what stands around them is not."""
    crossed = {"init_from.text": f"{other}:image"}
    message = refused(make_trainer, **crossed)
    assert "missing text/token_embed/embedding" in message and "`fresh` names" in message
    assert "text/pos_embed is [17, 64], needs [12, 64]" in message
    given = Weights(make_trainer(fresh="('text/(?!blocks).*',)", **crossed))
    (told,) = given.told.values()
    assert all(path.startswith("image/blocks/") for path in told.loaded) and told.loaded
    assert "image/patch_embed/kernel" in told.unused and "image/pos_embed" in told.unused
    assert "text/token_embed/embedding" in given.fresh
    assert "image/head/kernel" in told.anew  # it would fit
    nobody = refused(make_trainer, fresh="('nobody',)", **crossed)
    assert "fresh: 'nobody' matches no parameter" in nobody


def test_what_begins_anew_although_it_is_there_is_told_loudly(make_trainer, other, capsys):
    text = sorted(path for path in their(other) if path.startswith("text/"))
    given = Weights(make_trainer(init_from=str(other), fresh="('text/.*',)"))
    given.show()
    assert sorted(given.told[str(other)].anew) == sorted(given.fresh) == text
    lines = capsys.readouterr().err.splitlines()
    assert f", 0 unused, {len(text)} anew (text/" in lines[0]
    said = rf"warning: init_from={re.escape(str(other))}: `fresh` begins anew {len(text)} weights "
    assert re.match(said + r"that it holds \(text/.*; --config\.fresh='\(\)' takes", lines[-1])


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"init_from.imgae": "W"}, "init_from.imgae: the method has no such weights; did you mean"),
        ({IMAGE: "W:imgae"}, "no path matches; did you mean 'image'?"),
        ({"init_from": "W:imgae/.*"}, "no path matches"),
        ({IMAGE: "W/checkpoints:image"}, "neither a converted checkpoint (vlp_jax.json) nor"),
        ({IMAGE: "/no/such"}, "init_from: /no/such: no such folder"),
        ({"init_from.text": "W", **LOCKED}, "which is frozen and never drawn at random"),
        ({"init_from": "W:image/blocks/.*", **LOCKED}, "gives no image/cls_token"),
        ({IMAGE: "W", "fresh": "('image/head/.*',)", **LOCKED}, "gives no image/head/"),
    ],
)
def test_mistakes_are_one_line(make_trainer, other, flags, message):
    flags = {key: text.replace("W", str(other), 1) for key, text in flags.items()}
    assert message in refused(make_trainer, **flags)


def test_frozen_weights_without_a_start_are_refused_at_once(make_trainer):
    with pytest.raises(UserError, match=r"init_from: gives no image/\S+ \(\d+ such\)"):
        make_trainer(**LOCKED)


def test_weights_go_straight_to_their_shards(make_trainer, other):
    mesh = {"sharding": "fsdp", "mesh.data": 1, "mesh.fsdp": -1}
    trainer, its = make_trainer(8, **mesh, **LOCKED, **{IMAGE: other}), their(other)
    given = Weights(trainer)
    start = trainer.first(given.weights)
    for path, leaf in flatten(start.frozen).items():
        assert leaf.sharding == flatten(trainer.abstract.frozen)[path].sharding
        np.testing.assert_array_equal(leaf, its[path])
    for leaves in (flatten(start.frozen), given.weights):
        kernel = leaves["image/blocks/mlp/fc1/kernel"]
        assert kernel.addressable_shards[0].data.size == kernel.size // 8


def test_a_locked_run_goes_on_and_its_checkpoints_leave_the_tower_out(
    config_file, other, tmp_path, capsys
):
    source = shutil.copytree(other, tmp_path / "source")
    words = ["train", f"--config={config_file}", f"--workdir={tmp_path / 'w'}"]
    words += [f"--config.{IMAGE}={source}", "--config.freeze=('image/.*',)"]
    words += ["--config.checkpoint_every=1", "--config.optim.schedule=constant"]
    assert main([*words, "--config.steps=2"]) == 0
    assert (tmp_path / "w" / "init_from.json").is_file()
    shutil.rmtree(source)
    assert main([*words, "--config.steps=3", "--force"]) == 0
    its, found = their(other), their(tmp_path / "w")
    moved = {path for path in found if (found[path] != its[path]).any()}
    assert moved and not any(path.startswith("image/") for path in moved)
    saved = Checkpoints(tmp_path / "w" / "checkpoints")
    assert saved.steps() == [1, 2, 3]
    names = flatten(saved._saved(3).shapes())
    assert not any("image" in path for path in names)
    assert main(["replay", f"--workdir={tmp_path / 'w'}", "--step=3"]) == 0
    shutil.rmtree(tmp_path / "w" / "checkpoints" / "frozen")
    capsys.readouterr()
    for command in (words, ["eval", f"--checkpoint={tmp_path / 'w'}"]):
        more = ["--config.evals.retrieval.path=builtin:emoji/noto-val"] * (command is not words)
        more = more or ["--config.steps=3", "--force"]
        assert main([*command, *more]) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "checkpoints/frozen/" in line


def test_further_channels_of_a_first_convolution_start_as_zeros():
    """A U-Net that sees a mask goes on from one that does not; nothing else changes its shape."""
    given, kernel = Weights.__new__(Weights), np.ones((3, 3, 4, 6), np.float32)
    given.trainer = None
    paths = {"unet/conv_in/kernel": (3, 3, 9, 6), "unet/conv_out/kernel": (3, 3, 9, 6)}
    given.ours = {path: np.zeros(shape) for path, shape in paths.items()}
    made = given._resize("unet/conv_in/kernel", kernel)
    assert made.shape == (3, 3, 9, 6) and made.dtype == np.float32
    assert (made[:, :, :4] == 1).all() and not made[:, :, 4:].any()
    assert given._resize("unet/conv_out/kernel", kernel) is None
    for other in (kernel[..., :5], kernel[:1], np.ones((3, 3, 12, 6))):
        assert given._resize("unet/conv_in/kernel", other) is None
