"""BLIP-2's files: what transformers computes of its classes without a language model, and the way
back."""

import json
import pathlib
import re
import shutil
import types

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vlp_jax.api import export
from vlp_jax.api.released import method_config
from vlp_jax.api.weights import expected_shapes
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.pytree import flatten, unflatten
from vlp_jax.interop.detect import open_checkpoint
from vlp_jax.interop.families.lavis_blip2 import clip_sizes
from vlp_jax.interop.family import Beside, families
from vlp_jax.interop.rules import to_ours
from vlp_jax.interop.weights_file import read_json
from vlp_jax.methods.base import make_method
from vlp_jax.models.archs import blip2 as archs

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "blip2"
EXPECTED = dict(np.load(GOLDEN / "expected.npz"))
FAMILY = {"match": "hf_blip2", "joint": "hf_qformer", "queries": "hf_qformer"}


def opened(path):
    """(family, our config, our method, our arrays) of a folder; proven name by name."""
    found = open_checkpoint(str(path))
    config, _ = method_config(found, "")
    method = make_method(config)
    arrays = to_ours(found.table, found.state, expected_shapes(method), "the file")
    return found.family.name, config, method, arrays


@pytest.fixture(scope="module", params=FAMILY)
def golden(request):
    """(name, our config, our method, our arrays)."""
    name, *found = opened(GOLDEN / request.param)
    assert name == FAMILY[request.param]
    return request.param, *found


def test_transformers_numbers(golden):
    """All functions of a class at once, in one program."""
    name, _, method, arrays = golden
    image = {key: EXPECTED[key] for key in ("image", "text", "text_mask")}
    alone = {key: EXPECTED[key] for key in ("queries", "image_states")}
    alone["text"] = EXPECTED["embedded"]
    wanted = {
        key.split(".")[1]: rows for key, rows in EXPECTED.items() if key.startswith(f"{name}.")
    }

    @jax.jit
    def run(v):
        x = Inputs.of(image if name == "match" else alone)
        return {key: fn(v, x) for key, fn in method.functions().items() if key in wanted}

    found = run(Vars(unflatten(arrays), {}))
    if name == "match":
        cosines = np.einsum("iqe,je->iqj", found["embed_image"], found["embed_text"])
        found["cosines"] = cosines.max(1)
        assert method.scale(arrays) == pytest.approx(1 / 0.07)
    assert found.keys() == wanted.keys()
    for key, rows in found.items():
        np.testing.assert_allclose(rows, wanted[key], atol=1e-5, err_msg=key)


def test_the_way_back_is_what_transformers_saved(golden, tmp_path):
    name, config, method, arrays = golden
    pictures = {}
    if name == "match":
        pictures = {**families()["hf_blip2"].release, "image_size": method.image_tower.image_size}
    given = {"method": config, "preprocessing": pictures}
    export.write(str(tmp_path / "back"), "hf", arrays, given)
    ours, theirs = (load_file(f / "model.safetensors") for f in (tmp_path / "back", GOLDEN / name))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    said, wrote = (read_json(str(f / "config.json")) for f in (GOLDEN / name, tmp_path / "back"))
    assert wrote["architectures"] == said["architectures"]


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("match", {"architectures": ["Blip2Model"]}, "architectures 'Blip2Model' is not read"),
        (
            "match",
            {"qformer_config": {"use_qformer_text_input": False}},
            "only use_qformer_text_input=true is read",
        ),
        ("match", {"vision_config": {"qkv_bias": False}}, "only qkv_bias=true is read"),
        (
            "queries",
            {"cross_attention_frequency": 3},
            "cross_attention_frequency=3 does not divide num_hidden_layers=2",
        ),
        ("match", {"vision_config": {"hidden_size": 24}}, "wrong shape"),
        ("queries", {"encoder_hidden_size": 24}, "wrong shape"),
    ],
)
def test_what_is_not_read(name, changes, message, tmp_path):
    """An eye of another width than the Q-Former's weights is told by their shapes."""
    shutil.copytree(GOLDEN / name, tmp_path, dirs_exist_ok=True)
    said = json.loads((tmp_path / "config.json").read_text())
    for key, value in changes.items():
        said[key] = {**said[key], **value} if isinstance(value, dict) else value
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match=message):
        opened(tmp_path)


def test_texts_end_and_start_as_the_language_model_has_them(tmp_path):
    """OPT's with a line, which its tokenizer does not say; a T5's SentencePiece has no start."""
    line, opt = 50118, dict(model_type="opt", vocab_size=50272)
    flan = {"model_type": "t5", "feed_forward_proj": "gated-gelu"}
    hf, lavis = (families()[f"{name}_blip2_lm"].tokenizer_options for name in ("hf", "lavis"))
    (tmp_path / "lm").mkdir()
    named = Beside(str(tmp_path / "lm"), {"eos_token": "</s>"})
    for file, text, wanted in (
        ("tokenizer.json", opt | {"eos_token_id": line}, {"end_id": line}),
        ("tokenizer.model", {"model_type": "llama"}, {"start": True}),
        ("spiece.model", flan, {}),
    ):
        (tmp_path / "lm" / "config.json").write_text(json.dumps(text))
        wanted = {"clean": "none", **wanted}
        assert hf(Beside(config={"text_config": text}), file, 50272, "") == wanted
        assert lavis(named, file, 50272, "") == wanted
    queries = Beside(str(tmp_path), {"eos_token": "[SEP]"})  # of words of their own
    assert (
        hf(queries, "vocab.txt", 9, "") == lavis(queries, "vocab.txt", 9, "") == {"clean": "none"}
    )


def test_a_width_of_the_eye_that_is_not_the_eyes():
    """transformers builds a Q-Former by the eye's own, whatever its config says."""
    config = {"vision_config": {"hidden_size": 16}, "qformer_config": {"encoder_hidden_size": 24}}
    notes = families()["hf_blip2"].complete({}, {}, Beside(config=config))
    said = "qformer_config.encoder_hidden_size=24 is not read: vision_config.hidden_size=16 stands"
    assert sum(said in note for note in notes) == 1
    config["qformer_config"]["encoder_hidden_size"] = 16
    assert len(families()["hf_blip2"].complete({}, {}, Beside(config=config))) == len(notes) - 1


def test_a_head_of_words_has_no_class():
    _, config, *_ = opened(GOLDEN / "match")
    with pytest.raises(UserError, match="--to=hf: Blip2ForImageTextRetrieval is losses="):
        families()["hf_blip2"].config_json({**config, "losses": ("itc", "itm", "itg")}, None)


# salesforce/LAVIS's words for those of transformers (blip2.md 6).
_EYE, _ASKED = r"vision_model\.encoder\.layers\.(\d+)\.", r"qformer\.encoder\.layer\.(\d+)\.(\w+)\."
WORDS = (
    (r"vision_model\.embeddings\.class_embedding", "visual_encoder.cls_token"),
    (r"vision_model\.embeddings\.position_embedding", "visual_encoder.pos_embed"),
    (r"vision_model\.embeddings\.patch_embedding", "visual_encoder.patch_embed.proj"),
    (r"vision_model\.post_layernorm", "ln_vision"),
    (rf"{_EYE}self_attn\.projection", r"visual_encoder.blocks.\1.attn.proj"),
    (rf"{_EYE}self_attn\.qkv", r"visual_encoder.blocks.\1.attn.qkv"),
    (rf"{_EYE}layer_norm(\d)", r"visual_encoder.blocks.\1.norm\2"),
    (rf"{_EYE}mlp", r"visual_encoder.blocks.\1.mlp"),
    (r"^embeddings\.", "Qformer.bert.embeddings."),
    (r"^qformer\.layernorm", "Qformer.bert.embeddings.LayerNorm"),
    (rf"^{_ASKED}attention\.", r"Qformer.bert.encoder.layer.\1.\2.self."),
    (r"^qformer\.encoder", "Qformer.bert.encoder"),
    (r"^vision_projection", "vision_proj"),
    (r"^text_projection", "text_proj"),
)


def lavis():
    """Tensors of `match` as LAVIS calls them, with its head of words and its temperature."""
    found = {}
    for name, array in load_file(GOLDEN / "match" / "model.safetensors").items():
        for pattern, words in WORDS:
            name = re.sub(pattern, words, name)
        if name.endswith("attn.qkv.bias"):
            query, key, value = np.split(array, 3)
            assert not key.any()
            stem = name.removesuffix("qkv.bias")
            found |= {f"{stem}q_bias": query, f"{stem}v_bias": value}
        else:
            found[name] = array
    rng, width, size = np.random.default_rng(0), 12, 30
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    head = "Qformer.cls.predictions"
    found |= {f"{head}.transform.dense.weight": draw(width, width)}
    ends = ("dense.bias", "LayerNorm.weight", "LayerNorm.bias")
    found |= {f"{head}.transform.{end}": draw(width) for end in ends}
    found[f"{head}.bias"] = found[f"{head}.decoder.bias"] = draw(size)
    found[f"{head}.decoder.weight"] = found["Qformer.bert.embeddings.word_embeddings.weight"]
    return found | {"temp": np.float32([0.05]).reshape(())}


@pytest.fixture
def sizes(monkeypatch):
    """The size of `match` under --arch=tiny."""
    config = opened(GOLDEN / "match")[1]
    parts = {part: dict(config[part]) for part in ("image", "qformer")}
    parts["qformer"]["texts"] = "write"
    monkeypatch.setitem(archs.ARCHS, "tiny", {**parts, "embed_dim": 10})


@pytest.mark.parametrize("apart", [False, True], ids=["whole", "eye-apart"])
def test_lavis_files(apart, sizes, tmp_path):
    """The same weights give the same arrays; an eye in a file of its own has one layer more."""
    state = lavis()
    if apart:
        eye = {n: a for n, a in state.items() if n.startswith("visual_encoder.")}
        state = {n: a for n, a in state.items() if n not in eye}
        eye = {name.removeprefix("visual_encoder."): array for name, array in eye.items()}
        last = {n.replace("blocks.0.", "blocks.1."): 9 * a for n, a in eye.items() if "blocks" in n}
        eye |= last
        eye |= {"norm.weight": np.ones(16, np.float32), "head.weight": np.ones((3, 16), np.float32)}
    save_file(state, tmp_path / "blip2_pretrained.safetensors")
    path = str(tmp_path / "blip2_pretrained.safetensors")
    if apart:
        with pytest.raises(UserError, match=r"holds no frozen eye; put LAVIS's eva_vit_g\.pth"):
            open_checkpoint(path)
        save_file(eye, tmp_path / "eva_vit_g.safetensors")
    found = open_checkpoint(path)
    assert found.family.name == "lavis_blip2"
    config, _ = method_config(found, "tiny")
    method = make_method(config)
    arrays = to_ours(found.table, found.state, expected_shapes(method), "the file")
    theirs = opened(GOLDEN / "match")[3]
    for path, array in theirs.items():
        if path != "temperature":
            np.testing.assert_array_equal(arrays[path], array, err_msg=path)
    assert float(arrays["temperature"]) == np.float32(0.05)
    assert method.losses == ("itc", "itm", "itg") and method.image_norm_eps == 1e-5


def clip_eye(width=16, patches=5):
    """LAVIS's ViT-L in small, as CLIP names it, with a layer that nothing reads."""
    rng = np.random.default_rng(1)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    found = {"conv1.weight": draw(width, 3, 4, 4), "class_embedding": draw(width)}
    found |= {"positional_embedding": draw(patches, width), "proj": draw(width, 3)}
    for layer in ("transformer.resblocks.0", "transformer.resblocks.1"):
        for name, rows in (("attn.in_proj_", 3), ("attn.out_proj.", 1), ("mlp.c_fc.", 4)):
            found[f"{layer}.{name}weight"] = draw(rows * width, width)
            found[f"{layer}.{name}bias"] = draw(rows * width)
        found[f"{layer}.mlp.c_proj.weight"] = draw(width, 4 * width)
        found[f"{layer}.mlp.c_proj.bias"] = draw(width)
        found |= {f"{layer}.ln_{n}.{end}": draw(width) for n in "12" for end in ("weight", "bias")}
    ends = ("weight", "bias")
    return found | {f"ln_{at}.{end}": draw(width) for at in ("pre", "post") for end in ends}


def test_lavis_file_behind_a_vit_l(sizes, tmp_path, monkeypatch):
    """Of two eyes beside the file that of the width it was trained with, without its last layer."""
    monkeypatch.setattr("vlp_jax.interop.families.lavis_blip2._CLIP_LAYERS", 1)
    tiny, eye = archs.ARCHS["tiny"], clip_eye()
    tiny["image"] |= dict(pre_norm=True, conv_bias=False, patch_size=4, mlp_ratio=4.0, head_width=8)
    state = {n: a for n, a in lavis().items() if not n.startswith("visual_encoder.")}
    save_file(state, tmp_path / "blip2_pretrained_vitL.safetensors")
    save_file({"cls_token": np.zeros((1, 1, 24), np.float32)}, tmp_path / "eva_vit_g.safetensors")
    save_file(eye, tmp_path / "clip_vit_L.safetensors")
    found = open_checkpoint(str(tmp_path / "blip2_pretrained_vitL.safetensors"))
    config, _ = method_config(found, "tiny")
    assert config["image"]["image_size"] == 8
    method = make_method(config)
    arrays = to_ours(found.table, found.state, expected_shapes(method), "the file")
    block = "transformer.resblocks.0"
    for ours, theirs in {
        "cls_token": eye["class_embedding"],
        "pos_embed": eye["positional_embedding"],
        "norm_pre/scale": eye["ln_pre.weight"],
        "blocks/norm1/scale": eye[f"{block}.ln_1.weight"][None],
        "blocks/mlp/fc2/kernel": eye[f"{block}.mlp.c_proj.weight"].T[None],
    }.items():
        np.testing.assert_array_equal(arrays[f"image/{ours}"], theirs, err_msg=ours)


def test_sizes_of_lavis_vit_l_are_those_of_its_arch():
    shapes = {"visual_encoder.conv1.weight": (1024, 3, 14, 14)}
    for layer in range(23):
        shapes[f"visual_encoder.transformer.resblocks.{layer}.ln_1.weight"] = (1024,)
    state = {name: types.SimpleNamespace(shape=shape) for name, shape in shapes.items()}
    wanted = archs.blip2_vision("L") | {"mlp_ratio": 4.0}
    assert clip_sizes(state).items() <= wanted.items()


def test_a_head_that_is_not_the_words_again(sizes, tmp_path):
    state = lavis()
    state["Qformer.cls.predictions.decoder.weight"] = (
        2 * state["Qformer.cls.predictions.decoder.weight"]
    )
    save_file(state, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match=r"decoder\.weight must be .* once more, and differs"):
        method_config(open_checkpoint(str(tmp_path / "b.safetensors")), "tiny")


LMS = {
    "opt": dict(name="decoder_lm", vocab_size=20, context_length=24, width=8, num_layers=1,
                num_heads=2, hidden=16, positions="learned", position_offset=2, norm="layer",
                norm_eps=1e-5, gated=False, activation="relu", tied=True,
                **dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias"), True)),
    "llama": dict(name="decoder_lm", vocab_size=20, context_length=24, width=8, num_layers=1,
                  num_heads=2, hidden=16),
}  # fmt: skip


@pytest.mark.parametrize("kind, proj", [("opt", "opt_proj"), ("llama", "llm_proj")])
def test_lavis_files_before_a_language_model(kind, proj, tmp_path, monkeypatch):
    """A second stage, whose Q-Former has no words, and an InstructBLIP; the language model is its
    own folder's."""
    reads, width = kind == "llama", 8
    lm = {"name": "language_model", "lm": LMS[kind], "end_ids": (2,), "start_id": 1}
    words = jax.jit(make_method(lm).fresh)(jax.random.key(0)).params
    words = {path: np.asarray(leaf) for path, leaf in flatten(words).items()}
    head = r"Qformer\.cls|itm_head|temp$|(vision|text)_proj"
    if not reads:
        head += r"|.*embeddings\.(word|position)_|.*layer\.\d+\.(intermediate|output)\."
    state = {name: array for name, array in lavis().items() if not re.match(head, name)}
    state |= {f"{proj}.weight": np.ones((width, 12), np.float32), f"{proj}.bias": np.ones(width)}
    state[f"{proj}.bias"] = state[f"{proj}.bias"].astype(np.float32)
    save_file(state, tmp_path / "second.safetensors")
    path = str(tmp_path / "second.safetensors")
    with pytest.raises(UserError, match=r"holds no frozen language model; put its folder"):
        open_checkpoint(path)
    manifest = {"method": lm, "preprocessing": {}, "tokenizer": {"name": ""}}
    export.write(str(tmp_path / "lm"), "hf", words, manifest)
    config = opened(GOLDEN / "match")[1]
    sizes = {part: dict(config[part]) for part in ("image", "qformer")}

    for read, size in (("eye", sizes["image"]), ("qformer", (sizes["qformer"], {}))):
        told = f"vlp_jax.interop.families.lavis_blip2_lm.read_{read}"
        monkeypatch.setattr(told, lambda config, where, size=size: size)
    name, found, method, arrays = opened(path)
    assert name == "lavis_blip2_lm" and method.instructed == reads and method.start_id == 1
    assert found["image_norm_eps"] == 1e-5 and method.end_ids == (2,)
    theirs = opened(GOLDEN / "match")[3]
    for part, leaf in arrays.items():
        wanted = words[part] if part.startswith("lm/") else theirs.get(part, 1)
        np.testing.assert_array_equal(leaf, wanted, err_msg=part)
    assert {p for p in arrays if not p.startswith("proj/")} <= {*theirs, *words}
    said = json.loads((tmp_path / "lm" / "config.json").read_text()) | {"eos_token_id": None}
    (tmp_path / "lm" / "config.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match=r"lm/config\.json: names no eos_token_id"):
        opened(path)
    (tmp_path / "lm" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(UserError, match="model_type 'gpt2' is not read"):
        opened(path)


def test_a_decoders_tokenizer_ends_no_prompt():
    """An encoder's does, and that of what queries read."""
    family = families()["hf_instructblip"]
    methods = {name: {"lm": {"name": name}} for name in ("decoder_lm", "t5")}
    for name, method in methods.items():
        assert family.ends_texts(method, "text") == (name == "t5")
        assert family.ends_texts(method, "qformer")
    assert not families()["hf_llama"].ends_texts(methods["decoder_lm"], "text")
    assert families()["hf_t5"].ends_texts(methods["t5"], "text")
