"""BLIP's files: what transformers computes of its three classes, and the names and the repeated
tensors of salesforce/BLIP."""

import json
import pathlib
import re
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vlp_jax.api import convert as converting
from vlp_jax.api import export
from vlp_jax.api.released import method_config, read_released
from vlp_jax.api.released_tokenizers import find_tokenizers
from vlp_jax.api.switches import described
from vlp_jax.api.weights import expected_shapes
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.pytree import unflatten
from vlp_jax.interop.detect import open_checkpoint
from vlp_jax.interop.family import families
from vlp_jax.interop.rules import to_ours
from vlp_jax.interop.weights_file import read_json
from vlp_jax.methods.base import make_method
from vlp_jax.models.archs import blip as archs

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "blip"
EXPECTED = dict(np.load(GOLDEN / "expected.npz"))
DEC = 28


def starting(first, count=None):
    """Texts that begin with an id."""
    ids = EXPECTED["text"].copy()
    ids[:, 0] = first
    return ids[:, :count]


def opened(path, arch=""):
    """(our config, our method, our arrays) of a file or folder; proven name by name."""
    found = open_checkpoint(str(path))
    config, _ = method_config(found, arch)
    method = make_method(config)
    arrays = to_ours(found.table, found.state, expected_shapes(method), "the file")
    return found.family.name, config, method, arrays


def test_answers_are_read_by_the_tokenizer_of_questions(tmp_path):
    shutil.copytree(GOLDEN / "answer", tmp_path, dirs_exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(DEC - 5))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    checkpoint, notes = open_checkpoint(str(tmp_path)), []
    method = make_method(method_config(checkpoint, "")[0])
    found = find_tokenizers(checkpoint, "", method, notes)
    assert {name: spec["name"] for name, spec in found.specs.items()} == {
        "text": "vocab.txt",
        "answer": "answer.txt",
    }
    assert not notes


def test_a_run_goes_out_with_the_tokenizer_of_its_answers(monkeypatch):
    config = {"ema_decay": 0, "step": 1, "method": {}}
    parts = dict(params={}, extra={}, config=config, preprocessing={})
    run = SimpleNamespace(**parts, tokenizer_spec={"name": "a"}, tokenizers={"answer": "b"})
    monkeypatch.setattr(converting, "load_workdir", lambda *_, **__: run)
    assert converting._run("w", "", "hf", "").manifest["tokenizers"] == {"answer": "b"}


@pytest.fixture(scope="module", params=["caption", "match", "answer"])
def golden(request):
    """(name, our config, our method, our arrays)."""
    name, *found = opened(GOLDEN / request.param)
    assert name == "hf_blip"
    return request.param, *found


def test_transformers_numbers(golden):
    """All functions of a class at once, in one program."""
    name, _, method, arrays = golden
    image, mask = {"image": EXPECTED["image"]}, EXPECTED["text_mask"]
    text = lambda first: {"text": starting(first), "text_mask": mask}  # noqa: E731
    asked = {"image_states": image}
    if name == "caption":
        asked["lm_logits"] = image | text(DEC)
    elif name == "match":
        asked |= {"match": image | text(DEC + 1), "embed_image": image, "embed_text": text(1)}
    else:
        answer = {"answer": starting(DEC, 4), "answer_mask": mask[:, :4]}
        asked["answer_logits"] = image | text(DEC + 1) | answer

    @jax.jit
    def run(v):
        functions = method.functions()
        return {name: functions[name](v, Inputs.of(batch)) for name, batch in asked.items()}

    found = run(Vars(unflatten(arrays), {}))
    if name == "match":
        found["cosines"] = found.pop("embed_image") @ found.pop("embed_text").T
        assert method.scale(arrays) == pytest.approx(1 / 0.07)
    for key, rows in found.items():
        wanted = EXPECTED[f"{name}.{key}"]
        real = mask[:, : wanted.shape[1]] if "logits" in key else ...
        np.testing.assert_allclose(rows[real], wanted[real], atol=1e-5, err_msg=key)


def test_the_way_back_is_what_transformers_saved(golden, tmp_path):
    name, config, method, arrays = golden
    pictures = {**families()["hf_blip"].release, "image_size": method.image_tower.image_size}
    export.write(
        str(tmp_path / "back"), "hf", arrays, {"method": config, "preprocessing": pictures}
    )
    ours, theirs = (load_file(f / "model.safetensors") for f in (tmp_path / "back", GOLDEN / name))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    said, wrote = (read_json(str(f / "config.json")) for f in (GOLDEN / name, tmp_path / "back"))
    assert wrote["architectures"] == said["architectures"]
    assert wrote["text_config"]["bos_token_id"] == DEC


# One layer of everything in salesforce/BLIP's words (blip.md 6): widths 8 and 6, MLPs of 32 and 24.
W, D, V, P = 8, 6, 11, 4


def pairs(name, out, into=None):
    """A linear layer, or a norm."""
    return {f"{name}.weight": (out,) if into is None else (out, into), f"{name}.bias": (out,)}


def vision():
    found = {"visual_encoder.cls_token": (1, 1, W), "visual_encoder.pos_embed": (1, 5, W)}
    found |= {"visual_encoder.patch_embed.proj.weight": (W, 3, P, P)}
    found |= {"visual_encoder.patch_embed.proj.bias": (W,), **pairs("visual_encoder.norm", W)}
    block = "visual_encoder.blocks.0"
    found |= pairs(f"{block}.norm1", W) | pairs(f"{block}.norm2", W)
    found |= pairs(f"{block}.attn.qkv", 3 * W, W) | pairs(f"{block}.attn.proj", W, W)
    return found | pairs(f"{block}.mlp.fc1", 4 * W, W) | pairs(f"{block}.mlp.fc2", W, 4 * W)


def bert(prefix, context=W):
    found = {f"{prefix}embeddings.position_ids": (1, 9)}
    found |= {f"{prefix}embeddings.word_embeddings.weight": (V, D)}
    found |= {f"{prefix}embeddings.position_embeddings.weight": (9, D)}
    found |= pairs(f"{prefix}embeddings.LayerNorm", D)
    layer = f"{prefix}encoder.layer.0"
    for kind, into in (("attention", D), ("crossattention", context)):
        found |= pairs(f"{layer}.{kind}.self.query", D, D)
        for name in ("key", "value"):
            found |= pairs(f"{layer}.{kind}.self.{name}", D, into)
        found |= pairs(f"{layer}.{kind}.output.dense", D, D)
        found |= pairs(f"{layer}.{kind}.output.LayerNorm", D)
    found |= pairs(f"{layer}.intermediate.dense", 4 * D, D)
    return found | pairs(f"{layer}.output.dense", D, 4 * D) | pairs(f"{layer}.output.LayerNorm", D)


def decoder(context=W):
    head = "text_decoder.cls.predictions"
    found = bert("text_decoder.bert.", context) | {f"{head}.bias": (V,)}
    found |= pairs(f"{head}.transform.dense", D, D) | pairs(f"{head}.transform.LayerNorm", D)
    return found | pairs(f"{head}.decoder", V, D)


HEADS = pairs("vision_proj", 5, W) | pairs("text_proj", 5, D) | pairs("itm_head", 2, D)
TEACHER = {"image_queue": (5, 16), "queue_ptr": (1,), "text_encoder_m.embeddings.x": (3,)}
TASKS = {
    "pretrain": vision() | bert("text_encoder.") | decoder() | HEADS | {"temp": ()} | TEACHER,
    "caption": vision() | decoder(),
    "retrieval": vision() | bert("text_encoder.") | HEADS | {"temp": ()} | {"idx_queue": (1, 4)},
    "answer": vision() | bert("text_encoder.") | decoder(D),
}


def drawn(task):
    """Random tensors; what the decoder repeats repeats."""
    rng = np.random.default_rng(0)
    state = {k: rng.normal(size=s).astype(np.float32) for k, s in sorted(TASKS[task].items())}
    tied = "text_decoder.cls.predictions.decoder"
    if f"{tied}.weight" in state:
        state[f"{tied}.bias"] = state["text_decoder.cls.predictions.bias"]
        words = "text_decoder.bert.embeddings.word_embeddings.weight"
        for name in state if task == "pretrain" else ():
            own = name.startswith("text_decoder.bert.") and ".attention." not in name
            if own:
                state[name] = state[name.replace("text_decoder.bert", "text_encoder")]
        state[f"{tied}.weight"] = state[words]
    return state


@pytest.fixture
def tiny(monkeypatch):
    """--arch=tiny."""
    image = archs.blip_towers("base")["image"] | dict(
        image_size=12, patch_size=P, num_layers=1, width=W, head_width=4
    )
    text = dict(name="med", vocab_size=V, width=D, num_layers=1, num_heads=2, context_length=9)
    sizes = {"embed_dim": 5, "text_length": 5, "image": image, "text": text}
    monkeypatch.setitem(archs.ARCHS, "tiny", sizes)


def read(tmp_path, state):
    """(our config, our method, our arrays) of these tensors."""
    save_file(state, tmp_path / "in.safetensors")
    name, *found = opened(tmp_path / "in.safetensors", "tiny")
    assert name == "blip"
    return found


@pytest.mark.parametrize("task", TASKS)
def test_the_official_files_of_every_task(task, tiny, tmp_path):
    state = drawn(task)
    config, _, arrays = read(tmp_path, state)
    assert config["image"]["image_size"] == 8, "by its positions"
    roles = {"pretrain": "both", "caption": "decoder"}.get(task, "encoder")
    assert config["text"]["roles"] == roles
    assert config["name"] == ("blip_vqa" if task == "answer" else "blip")
    if task == "answer":
        part, bert = "answer", "text_decoder.bert"
    else:
        part, bert = "text", "text_decoder.bert" if task == "caption" else "text_encoder"
    layer = f"{bert}.encoder.layer.0"
    cross = arrays[f"{part}/blocks/cross_attn/key_value/kernel"]  # [1, D', H, 2, K]
    for i, name in enumerate(("key", "value")):
        wanted = state[f"{layer}.crossattention.self.{name}.weight"].T
        np.testing.assert_array_equal(cross[0, :, :, i].reshape(wanted.shape), wanted)
    if roles != "encoder" or task == "answer":
        own = state["text_decoder.bert.encoder.layer.0.attention.self.query.weight"].T
        found = arrays[f"{part}/blocks/decode_attn/qkv/kernel"][0, :, :, 0].reshape(D, D)
        np.testing.assert_array_equal(found, own)
        norm = state["text_decoder.bert.encoder.layer.0.attention.output.LayerNorm.bias"]
        np.testing.assert_array_equal(arrays[f"{part}/blocks/decode_norm1/bias"][0], norm)
    if roles != "decoder":
        own = state["text_encoder.encoder.layer.0.attention.self.query.weight"].T
        found = arrays["text/blocks/attn/qkv/kernel"][0, :, :, 0].reshape(D, D)
        np.testing.assert_array_equal(found, own)
    if "temp" in state:
        assert arrays["temperature"] == state["temp"]


@pytest.mark.parametrize("task", TASKS)
def test_the_way_back_to_the_official_names(task, tiny, tmp_path):
    """But for the teacher, its queues and the numbers of places."""
    state = drawn(task)
    config, _, arrays = read(tmp_path, state)
    manifest = {"method": config, "preprocessing": families()["blip"].release | {"image_size": 8}}
    notes = export.write(str(tmp_path / "out.safetensors"), "blip", arrays, manifest)
    found = load_file(tmp_path / "out.safetensors")
    left = {n for n in state if "queue" in n or "_m." in n or "position_ids" in n}
    assert found.keys() == state.keys() - left
    assert all(found[name].tobytes() == state[name].tobytes() for name in found)
    assert any("copy_params" in note for note in notes) == (task in ("pretrain", "retrieval"))


def test_what_the_official_code_does_not_build(tiny, tmp_path):
    config, _, arrays = read(tmp_path, drawn("caption"))
    config["image"]["cls_token"] = False
    manifest = {"method": config, "preprocessing": families()["blip"].release | {"image_size": 8}}
    with pytest.raises(UserError, match=r"salesforce/BLIP builds True, not .*cls_token=False"):
        export.write(str(tmp_path / "out"), "blip", arrays, manifest)
    assert not (tmp_path / "out").exists()


DAMAGE = {  # one tensor is missing, or another one
    "visual_encoder.pos_embed": ("pretrain", "wrong"),
    "text_encoder.embeddings.word_embeddings.weight": ("retrieval", "missing"),
    "text_decoder.cls.predictions.bias": ("answer", "missing"),
    "itm_head.weight": ("retrieval", "missing"),
    "visual_encoder.blocks.0.attn.qkv.weight": ("caption", "wrong"),
    "cls_head.2.weight": ("pair", "missing"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_tensor_that_does_not_fit_is_told_by_its_name(name, tiny, tmp_path, monkeypatch):
    task, kind = DAMAGE[name]
    state = pair_of_pictures() if task == "pair" else drawn(task)
    if task == "pair":
        deep = {**archs.ARCHS["tiny"], "text": archs.ARCHS["tiny"]["text"] | {"num_layers": 3}}
        monkeypatch.setitem(archs.ARCHS, "tiny", deep)
    taken = state.pop(name)
    state |= {name: taken.reshape(-1)} if kind == "wrong" else {}
    with pytest.raises(UserError) as caught:
        read(tmp_path, state)
    head, *lines = str(caught.value).splitlines()
    assert head.startswith("the file: 1 of ") and head.endswith("nothing was loaded")
    assert len(lines) == 1 and lines[0].startswith(f"  {kind}") and f" {name} [" in lines[0]


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.9999])
def test_an_official_file_that_is_cut_short(share, tiny, tmp_path, archive, ops):
    state, items = drawn("caption"), {}
    for i, (name, array) in enumerate(state.items()):
        strides = [s // 4 for s in array.strides]
        items[name] = ops["tensor"](str(i), "FloatStorage", array.size, array.shape, strides)
    body = b"}(" + ops["text"]("model") + ops["state_dict"](items) + b"u"
    path = pathlib.Path(archive(body, {str(i): a.tobytes() for i, a in enumerate(state.values())}))
    if share == 0.5:
        assert opened(path, "tiny")[0] == "blip"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"^\S+\.pt: a zip archive that is cut short or damaged$"):
        opened(path, "tiny")


def test_questions_are_not_cleaned_as_captions_are(tiny, tmp_path):
    """pre_question deletes the marks that pre_caption turns into spaces (blip.md 2.6)."""
    for task, clean in {"answer": "blip_question", "caption": "blip"}.items():
        save_file(drawn(task), tmp_path / f"{task}.safetensors")
        found = read_released(str(tmp_path / f"{task}.safetensors"), "tiny")
        assert found.manifest["tokenizer"]["options"] == {"clean": clean}
        answers = found.manifest.get("tokenizers", {}).values()
        assert [spec["options"] for spec in answers] == [{}] * (task == "answer"), "as they are"


@pytest.mark.parametrize(
    "name",
    ["bert.encoder.layer.0.crossattention.self.key.weight", "cls.predictions.decoder.weight"],
)
def test_what_should_repeat_and_does_not_is_refused(name, tiny, tmp_path):
    state = drawn("pretrain")
    state[f"text_decoder.{name}"] = state[f"text_decoder.{name}"] + 1
    with pytest.raises(
        UserError, match=f"text_decoder.{re.escape(name)} must be text_.* once more"
    ):
        read(tmp_path, state)


def pair_of_pictures():
    """The tensors of three layers, of which the last two merge (nlvr_encoder.py)."""
    rng, text = np.random.default_rng(0), bert("text_encoder.")
    one = {name: shape for name, shape in text.items() if ".layer.0." in name}
    found = vision() | {n: shape for n, shape in text.items() if n not in one}
    for layer in range(3):
        for name, shape in one.items():
            twins = [name]
            for word in ("crossattention.self.", "crossattention.output.dense."):
                if word in name:
                    twins = [name.replace(word, f"{word[:-1]}{i}.") for i in range(2)]
            found |= {twin.replace(".layer.0.", f".layer.{layer}."): shape for twin in twins}
        merge = f"text_encoder.encoder.layer.{layer}.crossattention.output.merge_layer"
        found |= pairs(merge, D, 2 * D) if layer else {}
    found |= pairs("cls_head.0", D, D) | pairs("cls_head.2", 2, D)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in found.items()}


def test_the_file_of_two_pictures(tiny, tmp_path, monkeypatch):
    deep = {**archs.ARCHS["tiny"], "text": archs.ARCHS["tiny"]["text"] | {"num_layers": 3}}
    monkeypatch.setitem(archs.ARCHS, "tiny", deep)
    state = pair_of_pictures()
    config, _, arrays = read(tmp_path, state)
    assert (config["name"], config["text"]["merge_from"]) == ("blip_nlvr", 1)
    other = "text_encoder.encoder.layer.2.crossattention"
    for i, ours in enumerate(("cross_attn", "second_cross_attn")):
        found = arrays[f"text/blocks/{ours}/query/kernel"][2].reshape(D, D)
        np.testing.assert_array_equal(found, state[f"{other}.self{i}.query.weight"].T)
        out = arrays[f"text/blocks/{ours}/out/kernel"][2].reshape(D, D)
        np.testing.assert_array_equal(out, state[f"{other}.output.dense{i}.weight"].T)
    wanted = state[f"{other}.output.merge_layer.weight"].T
    np.testing.assert_array_equal(arrays["text/merge/kernel"][1], wanted)
    np.testing.assert_array_equal(arrays["judge/out/bias"], state["cls_head.2.bias"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["BlipForConditionalGeneration", "X"]}, r"architectures \['Blip.*'X'\]"),
        ({"architectures": "BlipModel"}, "architectures 'BlipModel' is not read"),
        ({"text_config": {"sep_token_id": 30}}, "sep_token_id=30: must be an id below vocab_size"),
        ({"text_config": {"sep_token_id": None}}, "text_config: sep_token_id is None"),
        (
            {"architectures": ["BlipForQuestionAnswering"], "text_config": {"hidden_size": 24}},
            r"vision_config.hidden_size=\d+ and text_config.hidden_size=24 must be equal",
        ),
    ],
)
def test_configs_that_say_something_else(tmp_path, change, message):
    said = read_json(str(GOLDEN / "caption" / "config.json"))
    for key, value in change.items():
        said[key] = {**said[key], **value} if isinstance(value, dict) else value
    shutil.copytree(GOLDEN / "caption", tmp_path / "hf")
    (tmp_path / "hf" / "config.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match=message):
        opened(tmp_path / "hf")


def test_pixels_that_fill_no_patch(tmp_path):
    """transformers' convolution leaves them out; of our own recipes it is refused."""
    said = read_json(str(GOLDEN / "caption" / "config.json"))
    said["vision_config"]["image_size"] = 21
    shutil.copytree(GOLDEN / "caption", tmp_path / "hf")
    (tmp_path / "hf" / "config.json").write_text(json.dumps(said))
    _, config, method, arrays = opened(tmp_path / "hf")
    v = Vars(unflatten(arrays), {})
    image = np.random.default_rng(0).integers(0, 256, (2, 21, 21, 3)).astype(np.uint8)
    seen = method.functions()["image_states"](v, Inputs.of({"image": image}))
    whole = make_method({**config, "image": {**config["image"], "image_size": 16, "margin": False}})
    cut = whole.functions()["image_states"](v, Inputs.of({"image": image[:, :16, :16]}))
    np.testing.assert_allclose(seen, cut, atol=1e-6)
    with pytest.raises(UserError, match="image_size 21x21 is not a multiple of patch_size 8"):
        make_method({**config, "image": {**config["image"], "margin": False}}).parts()


def test_no_class_of_transformers_is_encoder_and_decoder(tiny, tmp_path):
    _, method, _ = read(tmp_path, drawn("pretrain"))
    family, said = families()["hf_blip"], described(method)
    with pytest.raises(
        UserError, match=r"none holds roles='both' with losses=\('itc', 'itm', 'lm'\)"
    ):
        family.configs(said, family.release, None)
