"""One network alone: a BERT and a ViT as transformers saves them convert, load, embed and go back.

tests/golden/make_encoder_golden.py made the files and what transformers computes of them.
"""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from vlp_jax.api.model import load_model
from vlp_jax.cli import convert, embed
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.pytree import flatten
from vlp_jax.interop.folder import read_folder
from vlp_jax.methods.base import make_method

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "encoder"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "dog", "house"]


def tokenizer(folder):
    """A word-level tokenizer.json with BERT's frame."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    known = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    frame = [("[CLS]", 2), ("[SEP]", 3)]
    known.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, frame)
    known.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The golden BERT with a tokenizer beside it, converted."""
    folder = tmp_path_factory.mktemp("bert")
    shutil.copytree(GOLDEN / "bert", folder / "hf")
    tokenizer(folder / "hf")
    assert convert.main([str(folder / "hf"), str(folder / "ours")]) == 0
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """The golden ViT, in bfloat16, converted."""
    folder = tmp_path_factory.mktemp("vit")
    assert convert.main([str(GOLDEN / "vit"), str(folder / "ours")]) == 0
    return folder


@pytest.fixture(scope="module")
def loaded_vit(vit):
    """It, opened."""
    return load_model(str(vit / "ours"))


@pytest.fixture(scope="module")
def loaded_bert(bert):
    """It, opened."""
    return load_model(str(bert / "ours"))


def outputs(model, arrays):
    """{function: its array} of the functions that a golden file holds, and features."""
    functions = model.method.functions()
    names = [name for name in functions if name in arrays or name == "features"]
    inputs = {k: a for k, a in arrays.items() if k in ("image", "text", "text_mask")}

    def run(v, x):
        return {name: functions[name](v, x) for name in names}

    found = jax.jit(run)(Vars(model.params, model.extra), Inputs.of(inputs))
    return jax.tree.map(np.asarray, found)


def test_a_bert_computes_what_transformers_does(loaded_bert):
    golden, model = dict(np.load(GOLDEN / "bert.npz")), loaded_bert
    found, real = outputs(model, golden), golden["text_mask"]
    np.testing.assert_allclose(found["tokens"][real], golden["tokens"][real], atol=1e-4)
    np.testing.assert_allclose(found["pooler"], golden["pooler"], atol=1e-4)
    np.testing.assert_array_equal(found["features"], found["tokens"][:, 0])
    assert model.config["parts"]["text"]["net"]["name"] == "bert"
    assert model.config["parts"]["text"]["parameters"] == sum(
        array.size for array in load_file(GOLDEN / "bert" / "model.safetensors").values()
    )


def test_a_bert_embeds_texts_and_no_padding(bert, loaded_bert, pictures):
    args = [f"--checkpoint={bert / 'ours'}", f"--out={bert / 'e.npz'}"]
    assert embed.main([*args, "--texts=a cat,a dog house"]) == 0
    rows = np.load(bert / "e.npz")
    ids = np.int32([[2, 4, 6, 7, 3]])  # nothing to hide, so no mask
    state = outputs(loaded_bert, {"text": ids})["features"][0]
    np.testing.assert_allclose(rows["text"][1], state / np.linalg.norm(state), atol=1e-6)
    assert set(rows) == {"text", "texts"} and rows["text"].shape == (2, 16)
    with pytest.raises(UserError, match=r"--images: .* 'encoder', without an image tower"):
        embed.main([*args, f"--images={pictures}"])


def test_a_token_beyond_the_table_is_none(tmp_path, capsys):
    """A processor adds <image> to the tokenizer of a network that has no row for it."""
    from tokenizers import Tokenizer

    shutil.copytree(GOLDEN / "bert", tmp_path / "hf")
    tokenizer(tmp_path / "hf")
    file = tmp_path / "hf" / "tokenizer.json"
    known = Tokenizer.from_file(str(file))
    count = json.loads((tmp_path / "hf" / "config.json").read_text())["vocab_size"]
    known.add_tokens([f"word{i}" for i in range(len(WORDS), count)])
    known.add_special_tokens(["<image>"])
    known.save(str(file))
    assert convert.main([str(tmp_path / "hf"), str(tmp_path / "ours")]) == 0
    assert f"'<image>' unknown, beyond the network's {count} words" in capsys.readouterr().err
    ids = load_model(str(tmp_path / "ours")).text_arrays()(["a <image> cat"])["text"]
    assert ids.max() < count


def test_a_vit_stays_in_half_precision_and_computes_what_transformers_does(loaded_vit):
    golden, model = dict(np.load(GOLDEN / "vit.npz")), loaded_vit
    found = outputs(model, golden)
    np.testing.assert_allclose(found["tokens"], golden["tokens"], atol=1e-4)
    np.testing.assert_allclose(found["pooler"], golden["pooler"], atol=1e-4)
    np.testing.assert_allclose(found["features"], golden["tokens"][:, 0], atol=1e-4)
    assert {str(leaf.dtype) for leaf in flatten(model.params).values()} == {"bfloat16"}
    assert model.config["parts"]["image"]["dtypes"] == ["bfloat16"]
    assert model.preprocessing["mean"] == [0.5] * 3 and model.preprocessing["crop"] == "squash"
    assert model.preprocessing["resample"] == "bilinear"  # ViTImageProcessor's, not SigLIP's


def test_back_to_transformers_bit_for_bit(vit, bert):
    for folder, source in ((vit, GOLDEN / "vit"), (bert, bert / "hf")):
        assert convert.main([str(folder / "ours"), str(folder / "back"), "--to=hf"]) == 0
        ours, theirs = (load_file(f / "model.safetensors") for f in (folder / "back", source))
        assert ours.keys() == theirs.keys()
        for name, array in theirs.items():
            assert ours[name].tobytes() == array.tobytes() and ours[name].dtype == array.dtype
        said, was = (json.loads((f / "config.json").read_text()) for f in (folder / "back", source))
        assert all(said[key] == was[key] for key in said.keys() & was.keys())


def test_a_dtype_that_is_asked_for(vit, loaded_vit):
    assert convert.main([str(GOLDEN / "vit"), str(vit / "wide"), "--dtype=float32"]) == 0
    arrays, manifest = read_folder(str(vit / "wide"))
    assert {str(array.dtype) for array in arrays.values()} == {"float32"}
    assert manifest["golden"] == loaded_vit.config["golden"]  # computed in float32 either way
    back = [str(vit / "wide"), str(vit / "half"), "--to=hf", "--dtype=bfloat16"]
    assert convert.main(back) == 0
    ours, theirs = (load_file(f / "model.safetensors") for f in (vit / "half", GOLDEN / "vit"))
    assert all(ours[name].tobytes() == array.tobytes() for name, array in theirs.items())
    with pytest.raises(UserError, match="--dtype: unknown 'bf16'"):
        convert.main([str(GOLDEN / "vit"), str(vit / "none"), "--dtype=bf16"])


def test_folders_from_before_parts_were_said_open(vit):
    old = shutil.copytree(vit / "ours", vit / "old")
    manifest = json.loads((old / "vlp_jax.json").read_text())
    del manifest["parts"]
    (old / "vlp_jax.json").write_text(json.dumps(manifest))
    assert load_model(str(old)).method.side == "image"


def test_a_network_alone_does_not_train():
    image = dict(name="vit", image_size=16, patch_size=8, width=8, num_layers=1, head_width=4)
    with pytest.raises(UserError, match=r"method\.name=encoder: a network alone has no loss"):
        make_method({"name": "encoder", "image": image}).encode(None, None)
    for config in ({}, {"image": image, "text": {"name": "bert"}}):
        with pytest.raises(UserError, match="encoder is one network"):
            make_method({"name": "encoder", **config})


def test_heads_are_left_and_other_models_are_told(bert, tmp_path, capsys):
    from safetensors.numpy import save_file

    state = load_file(GOLDEN / "bert" / "model.safetensors")
    state = {f"bert.{k}": a for k, a in state.items() if not k.startswith("pooler")}
    save_file(
        state | {"cls.predictions.bias": np.zeros(60, np.float32)}, tmp_path / "model.safetensors"
    )
    shutil.copy(GOLDEN / "bert" / "config.json", tmp_path / "config.json")
    (tmp_path / "1_Pooling").mkdir()
    pooling = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    assert convert.main([str(tmp_path), str(tmp_path / "ours")]) == 0
    assert "1 tensors of a head are not read (cls.predictions.bias)" in capsys.readouterr().err
    model = load_model(str(tmp_path / "ours"))
    assert (model.method.text_tower.pool, model.method.text_tower.pooler) == ("mean", False)
    golden = dict(np.load(GOLDEN / "bert.npz"))
    weights = golden["text_mask"][..., None] / golden["text_mask"].sum(1)[:, None, None]
    mean = (golden["tokens"] * weights).sum(1)
    np.testing.assert_allclose(outputs(model, golden)["features"], mean, atol=1e-4)
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    with pytest.raises(UserError, match=r"--arch: missing.* is of a 'roberta', not of these"):
        convert.main([str(tmp_path), str(tmp_path / "no")])
