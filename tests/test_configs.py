"""Every recipe loads, builds its method and optimiser, and has the keys that scripts rely on."""

import dataclasses
import json
import pathlib

import jax
import pytest

from vlp_jax.api.config import load_config, split_overrides
from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import matches, merge
from vlp_jax.core.pytree import size as size_of
from vlp_jax.core.schema import build
from vlp_jax.methods.base import make_method
from vlp_jax.optim.adapt import Adapt
from vlp_jax.optim.optimizer import check_paths, make_optimizer
from vlp_jax.train.settings import check_pictures
from vlp_jax.train.state import Recipe, init_state

ROOT = pathlib.Path(__file__).parents[1] / "configs"
FILES = sorted(p for p in ROOT.rglob("*.py") if p.name not in ("__init__.py", "common.py"))
KEYS = (
    *("steps", "batch_size", "accumulate", "image_size", "seed", "mesh", "sharding"),
    *("eval_every", "checkpoint_every", "log_every"),
)
QUICKSTART = str(ROOT / "clip" / "quickstart.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_recipe(path):
    config = load_config(str(path), {})
    assert all(key in config for key in KEYS) and "path" in config.data
    assert config.steps or config.examples or config.epochs
    method, tx = make_method(config.method), make_optimizer(config.optim)
    recipe = Recipe(config.seed, config.batch_size, config.accumulate, tuple(config.freeze))
    recipe = dataclasses.replace(recipe, adapt=build(Adapt, config.adapt, "adapt"))
    state, frozen = jax.eval_shape(lambda: init_state(method, tx, recipe))
    assert jax.tree.leaves(state["params"])
    check_paths(config.optim, merge(state["params"], frozen))
    fields = method.fields()
    check_pictures(config.image_size, method)
    assert "text" not in fields or fields["text"].length == config.data.context_length
    assert "label" not in fields or config.data.label


@pytest.mark.parametrize(
    "what, sees",
    [
        ("stage2.py:g,vicuna-7b-v1.5", 32),
        ("stage2.py:L,flan-t5-xxl", 32),
        ("caption.py:g,flan-t5-xl", 32),
        ("vqa.py:g,flan-t5-xl,SECOND,BERT", 32),
        ("instructblip.py:g,flan-t5-xxl,SECOND,BERT", 32),
        ("prompt_tuning.py:g,flan-t5-xl", 132),
    ],
)
def test_what_stands_before_a_language_model(what, sees):
    """The model is frozen in half precision, its texts end as its own do, and what is asked for is
    what is there."""
    path = f"{ROOT}/blip2/{what}"
    test_every_recipe(path)
    config = load_config(path, {})
    method, t5 = make_method(config.method), "t5" in what
    lm = method.parts()["lm"]
    assert lm.frozen and lm.dtype == "bfloat16" and method.encodes == t5 and method.seen == sees
    assert (method.start_id, method.end_ids) == ((0, (1,)) if t5 else (1, (2,)))
    if "SECOND" in what:
        own = method.parts()
        assert {path.partition("/")[0] for path in config.init_from} == set(own)
        found = {name for name in config.init_from if "/at" in name}
        assert found == {
            f"qformer/layers/at{i}/{name}" for i in (0, 1) for name in ("mlp", "norm2")
        }
    with pytest.raises(
        UserError, match=r"unknown language model 'opt-2\.8b'; did you mean 'opt-2\.7b"
    ):
        load_config(f"{path.partition(':')[0]}:g,opt-2.8b", {})


@pytest.mark.parametrize("arch", ["RN50", "ViT-L-14-336", "ViT-bigG-14"])
def test_the_reference_recipe_takes_every_size(arch):
    config = load_config(f"{ROOT}/clip/openai.py:{arch}", {})
    assert make_method(config.method).image_tower.image_size == config.image_size


@pytest.mark.parametrize("size, width", [("ViT-B-16", 768), ("ViT-L-16", 1024), ("ViT-H-14", 1280)])
def test_the_masked_autoencoder_as_published(size, width):
    """mae.md 4.1: peak rate 2.4e-3 at batch 4096; tokens decay, gains and biases do not."""
    config = load_config(f"{ROOT}/mae/pretrain.py:{size}", {})
    method = make_method(config.method)
    assert (method.image_tower.width, method.decoder_net.width) == (width, 512)
    assert config.optim.lr == pytest.approx(2.4e-3) and config.batch_size == 4096
    kept = [
        p for p in ("image/cls_token", "decoder/mask_token") if matches(p, config.optim.no_decay)
    ]
    assert not kept and matches("decoder/blocks/norm1/scale", config.optim.no_decay)


def test_the_small_masked_autoencoder_takes_another_size_and_set():
    config = load_config(f"{ROOT}/mae/tiny.py:SOME/DIR", {"method.decoder.num_layers": "1"})
    assert config.image_size == 28 and config.data.path == "SOME/DIR/fashion_mnist-train-*.tar"
    assert make_method(config.method).keep == 12  # of 49


@pytest.mark.parametrize("name", ["tiny", "retrieval", "caption", "vqa"])
def test_the_small_forms_share_their_towers_and_pictures(name):
    """So that each can start from another; a flip would make `left` wrong."""
    config = load_config(f"{ROOT}/blip/{name}.py:SOME/DIR", {})
    method, first = make_method(config.method), load_config(f"{ROOT}/blip/tiny.py:SOME/DIR", {})
    assert config.method.image == first.method.image and method.text_net.width == 128
    assert bool(config.method.augment.flip) == (name == "caption")  # of plain lists
    assert config.data.tokenizer == "SOME/DIR/vocab.txt" and config.steps and not config.epochs


def test_the_small_form_of_answers_reads_the_scenes():
    config = load_config(f"{ROOT}/blip/vqa.py:SOME/DIR", {"data.context_length": "16"})
    assert config.method.text_length == 16 and config.method.answer_length == 6
    assert config.data.path == "SOME/DIR/emoji_scenes-vqa-train-*.tar"
    assert config.evals.vqa.path == "SOME/DIR/emoji_scenes-vqa-test-*.tar"


@pytest.mark.parametrize(
    "override, message",
    [
        ("bacth_size=3", "--config.bacth_size: unknown key; did you mean 'batch_size'?"),
        ("optim.lrr=3", "--config.optim.lrr: unknown key; did you mean 'optim.lr'?"),
        ("method.image.widht=3", "did you mean 'method.image.width'"),
        ("batch_size=many", "--config.batch_size=many: must be of type int"),
        ("optim=3", "--config.optim: is a section; set one of optim."),
        ("method.unroll=maybe", "must be true or false"),
    ],
)
def test_bad_overrides_name_the_key(override, message):
    key, _, value = override.partition("=")
    with pytest.raises(UserError) as caught:
        load_config(QUICKSTART, {key: value})
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("recipe", ["pretrain", "nlvr"])
def test_sizes_of_blip_are_those_that_are_published(recipe):
    with pytest.raises(UserError, match="unknown size 'bases'; did you mean 'base'"):
        load_config(f"{ROOT / 'blip' / recipe}.py:bases", {})


def test_a_section_that_is_empty_says_how_to_fill_it():
    with pytest.raises(
        UserError, match=r"evals: is a section; set keys of it, as evals\.NAME\.KEY"
    ):
        load_config(str(ROOT / "blip" / "words.py"), {"evals": ""})


def test_values_are_parsed_as_the_type_that_is_there():
    words = ["--config.steps=1e3", "--config.optim.lr", "1", "--config.freeze=('a',)", "--x"]
    rest, overrides = split_overrides([*words, "--config.data.path=3"])
    assert rest == ["--x"]
    config = load_config(QUICKSTART, overrides)
    assert config.steps == 1000 and config.optim.lr == 1.0 and isinstance(config.optim.lr, float)
    assert config.freeze == ("a",) and config.data.path == "3"


def test_a_length_on_the_command_line_replaces_the_files():
    config = load_config(str(ROOT / "clip" / "folder.py"), {"steps": "5"})
    assert (config.steps, config.examples, config.epochs) == (5, 0, 0.0)
    assert config.optim.warmup_epochs == 1.0
    config = load_config(QUICKSTART, {"epochs": "2", "optim.warmup_epochs": "1"})
    assert (config.steps, config.epochs, config.optim.warmup_steps) == (0, 2.0, 0)


def test_a_missing_file_is_one_line():
    with pytest.raises(UserError, match="no such file; did you mean"):
        load_config(str(ROOT / "clip" / "quickstrat.py"), {})


def test_evaluators_may_be_added_by_flags():
    config = load_config(QUICKSTART, {"evals.mine.type": "knn", "evals.mine.k": "(1, 5)"})
    assert config.evals.mine.to_dict() == {"type": "knn", "k": (1, 5)}


def test_a_controlnet_beside_another_autoencoder_is_set_by_a_flag():
    path, key = f"{ROOT}/latent_diffusion/controlnet.py:SD,edges.png", "method.control.hint_widths"
    assert make_method(load_config(path, {}).method).control_net.factor == 8
    other = {key: "(8, 16, 32)", "method.autoencoder.widths": "(32, 64, 64)"}
    assert make_method(load_config(path, other).method).control_net.factor == 4


def test_places_of_fields_and_tokenizers_may_be_added_by_flags():
    flags = {"fields.map.member": "seg.png", "fields.map.fill": "3", "tokenizers.t5": "t5.json"}
    flags |= {"tokenizers.own.name": "bytes", "tokenizers.own.context_length": "5"}
    data = load_config(QUICKSTART, {f"data.{key}": value for key, value in flags.items()}).data
    assert data.fields.to_dict() == {"map": {"member": "seg.png", "fill": 3}}
    own = {"name": "bytes", "context_length": 5}
    assert data.tokenizers.to_dict() == {"t5": "t5.json", "own": own}


@pytest.mark.parametrize(
    "recipe, name",
    [
        ("simclr/tiny.py", "neighbours"),
        ("simclr/cifar.py", "neighbours"),
        ("simclr/imagenet.py", "neighbours"),
        ("mae/tiny.py", "reconstruction"),
        ("mae/pretrain.py", "reconstruction"),
        ("pretext/rotation.py:tiny", "task"),
        ("pretext/jigsaw.py", "task"),
    ],
)
def test_sheets_are_of_ones_own_pictures(recipe, name):
    """The recipe's test part, data.path where that is given, and what the flag names above all."""
    usual, key = load_config(f"{ROOT}/{recipe}", {}), f"evals.{name}.path"
    test = usual.evals[name].path
    assert test != usual.data.path and test.split("-")[0].split(":")[0] in ("builtin", "tfds")
    own = load_config(f"{ROOT}/{recipe}", {"data.path": "MINE"})
    assert own.evals[name].path == "MINE"
    assert json.loads(own.to_json())["evals"][name]["path"] == "MINE"
    assert own.evals.get("knn", {}).get("path") == usual.evals.get("knn", {}).get("path")
    given = load_config(f"{ROOT}/{recipe}", {"data.path": "MINE", key: "OTHER"})
    assert (given.data.path, given.evals[name].path) == ("MINE", "OTHER")


@pytest.mark.parametrize("name", ["pretrain", "finetune", "linear_probe", "supervised"])
def test_the_rate_follows_the_batch(name):
    path = f"{ROOT}/{'mae' if name == 'pretrain' else 'classify'}/{name}.py"
    usual, small = load_config(path, {}), load_config(path, {"batch_size": "128"})
    assert usual.optim.lr / usual.batch_size == pytest.approx(small.optim.lr / 128)
    assert load_config(path, {"batch_size": "128", "optim.lr": "0.5"}).optim.lr == 0.5
    floors = [c.optim.lr_final * c.optim.lr for c in (usual, small)]
    assert floors == pytest.approx([1e-6 if name == "finetune" else 0.0] * 2)


@pytest.mark.parametrize(
    "recipe", ["simclr/tiny.py", "clip/quickstart.py", "pretext/bow.py:tiny", "mae/tiny.py"]
)
def test_a_classifier_sees_what_its_tower_was_trained_on(recipe, tmp_path):
    before = load_config(f"{ROOT}/{recipe}", {})
    (tmp_path / "config.json").write_text(before.to_json())
    after = load_config(f"{ROOT}/classify/tiny.py:{tmp_path}", {})
    old, new = make_method(before.method), make_method(after.method)
    assert (new.image_mean, new.image_std) == (old.image_mean, old.image_std)
    made = jax.eval_shape(new.init, jax.random.key(0))[0]
    out = new.image_tower.width if before.method.image.name == "vit" else 16 * 8
    assert made["head"]["out"]["kernel"].shape == (out, 99)


def test_published_sizes_of_the_classifiers():
    """timm's counts of vit_{base,large}_patch16_224 and vit_huge_patch14_224 with 1000 classes,
    whose positions are parameters; MAE's are fixed.
    """
    published = {"ViT-B-16": 86_567_656, "ViT-L-16": 304_326_632, "ViT-H-14": 632_045_800}
    for size, wanted in published.items():
        method = make_method(load_config(f"{ROOT}/classify/finetune.py:{size}", {}).method)
        params = jax.eval_shape(method.init, jax.random.key(0))[0]
        tower = method.image_tower
        assert size_of(params) == wanted - (tower.grid**2 + 1) * tower.width
    with pytest.raises(UserError, match="MAE size: unknown 'ViT-B-61'; did you mean 'ViT-B-16'"):
        load_config(f"{ROOT}/classify/finetune.py:ViT-B-61", {})


def test_the_small_autoencoder_is_judged_by_a_finished_run(tmp_path):
    trained = load_config(f"{ROOT}/autoencoder/features.py", {})
    (tmp_path / "config.json").write_text(trained.to_json())
    config = load_config(f"{ROOT}/autoencoder/tiny.py:{tmp_path}", {})
    method = make_method(config.method)
    judge = method.parts()["features"].net
    assert (judge.depth, judge.width, judge.image_size) == (18, 16, 32)
    assert config.init_from.to_dict() == {"features": f"{tmp_path}:image"}
    assert method.net.factor == 4 and method.net.width == 4
    with pytest.raises(UserError, match="NOWHERE: no training workdir of an image tower"):
        load_config(f"{ROOT}/autoencoder/tiny.py:NOWHERE", {})


@pytest.mark.parametrize(
    "size, factor, width, critic",
    [
        ("kl-f4", 4, 3, (50_001, 0.5, 3)),
        ("kl-f32", 32, 64, (50_001, 0.5, 3)),
        ("vq-f4", 4, 3, (0, 0.75, 3)),
        ("vq-f8", 8, 4, (1, 0.6, 2)),
        ("vq-f16", 16, 8, (250_001, 0.75, 2)),
    ],
)
def test_autoencoders_as_published(size, factor, width, critic):
    """ldm.md 2.1 and 4: the critic's start and weight, and a rate of 4.5e-6 for every picture."""
    config = load_config(f"{ROOT}/autoencoder/published.py:{size}", {"batch_size": "10"})
    method = make_method(config.method)
    assert (method.net.factor, method.net.width) == (factor, width)
    assert (method.critic_start, method.critic_weight, method.critic["layers"]) == critic
    assert config.optim.lr == pytest.approx(4.5e-5) and config.method.perceptual.name == "lpips"
    assert (config.optim.b1, config.optim.b2, config.optim.weight_decay) == (0.5, 0.9, 0.0)
    assert (method.kl_weight, method.perceptual_weight, method.codebook_weight) == (1e-6, 1, 1)
