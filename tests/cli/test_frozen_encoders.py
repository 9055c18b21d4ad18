"""What frozen CLIP stands on converts, computes and goes back: DistilBERT, torchvision's ResNets,
WordPiece from a bare list.

tests/golden/make_encoder_golden.py made the files and what the libraries compute of them.
"""

import gzip
import json
import pathlib
import shutil
import zlib

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vlp_jax.api.model import load_model
from vlp_jax.cli import convert
from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.data.text import load_tokenizer

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "encoder"


def test_a_distilbert_computes_what_transformers_does_and_goes_back(tmp_path, capsys):
    shutil.copytree(GOLDEN / "distilbert", tmp_path / "hf")
    assert convert.main([str(tmp_path / "hf"), str(tmp_path / "ours")]) == 0
    assert "of a head are not read (vocab_" in capsys.readouterr().err
    model, golden = load_model(str(tmp_path / "ours")), dict(np.load(GOLDEN / "distilbert.npz"))
    tower, real = model.method.text_tower, golden["text_mask"]
    assert (tower.types, tower.pooler, tower.pool) == (0, False, "first")
    batch = {name: golden[name] for name in ("text", "text_mask")}
    run = jax.jit(lambda v, x: model.method.functions()["tokens"](v, x))
    tokens = run(Vars(model.params, model.extra), Inputs.of(batch))
    np.testing.assert_allclose(tokens[real], golden["tokens"][real], atol=1e-4)
    assert convert.main([str(tmp_path / "ours"), str(tmp_path / "back"), "--to=hf"]) == 0
    ours, theirs = (
        load_file(f / "model.safetensors") for f in (tmp_path / "back", tmp_path / "hf")
    )
    assert {f"distilbert.{name}" for name in ours} == {n for n in theirs if n[:5] == "disti"}
    for name, array in ours.items():
        assert array.tobytes() == theirs[f"distilbert.{name}"].tobytes(), name
    said = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (said["model_type"], said["architectures"]) == ("distilbert", ["DistilBertModel"])


def named_weights(shapes):
    """As make_encoder_golden.py has it."""
    found = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if len(shape) > 1:
            array = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) / 2)
        elif name.endswith(("running_var", "weight")):
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = rng.normal(size=shape) * 0.1
        found[name] = array.astype(np.float32)
    return found


def test_a_resnet_computes_what_torchvision_does_and_goes_back(tmp_path, capsys):
    golden = dict(np.load(GOLDEN / "resnet18.npz"))
    state = named_weights(json.loads(str(golden["shapes"])))
    save_file(state, tmp_path / "resnet18.safetensors")
    args = [str(tmp_path / "resnet18.safetensors"), str(tmp_path / "ours")]
    with pytest.raises(UserError, match="not those of a ResNet of depth 34"):
        convert.main([*args, "--arch=resnet34"])
    assert convert.main(args) == 0
    assert "2 tensors of a head are not read (fc.weight)" in capsys.readouterr().err
    model = load_model(str(tmp_path / "ours"))
    assert model.config["arch"] == "resnet18"
    assert (model.preprocessing["crop"], model.preprocessing["resample"]) == (
        "center_875",
        "bilinear",
    )
    images = np.random.default_rng(0).normal(size=(2, 65, 65, 3)).astype(np.float32)
    net = model.method.image_tower
    variables = {
        "params": model.params["image"],
        "batch_stats": model.extra["batch_stats"]["image"],
    }
    pooled, _ = jax.jit(net.apply)(variables, images)
    scale = golden["pooled"].std()
    np.testing.assert_allclose(pooled / scale, golden["pooled"] / scale, atol=1e-4)
    back = tmp_path / "back.safetensors"
    assert convert.main([str(tmp_path / "ours"), str(back), "--to=torchvision"]) == 0
    ours = load_file(back)
    counters = {name for name in ours if name.endswith("num_batches_tracked")}
    assert ours.keys() - counters == state.keys() - {"fc.weight", "fc.bias"}
    for name in ours.keys() - counters:
        assert ours[name].tobytes() == state[name].tobytes(), name
    assert all(ours[name] == 0 and ours[name].dtype == np.int64 for name in counters)


@pytest.mark.parametrize("lower", [True, False])
def test_a_bare_list_of_word_pieces_gives_transformers_ids(tmp_path, lower):
    with gzip.open(GOLDEN / "wordpiece" / "ids.json.gz", "rt", encoding="utf-8") as file:
        golden = json.load(file)
    shutil.copy(GOLDEN / "wordpiece" / "vocab.txt", tmp_path)
    if not lower:
        (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    tokenizer = load_tokenizer(str(tmp_path), 4096, clean="none")
    assert len(golden["texts"]) > 200
    for text, ids in zip(golden["texts"], golden[str(lower)], strict=True):
        assert [*tokenizer.prefix, *tokenizer.encode(text), *tokenizer.suffix] == ids, text
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"no vocabulary of BERT, it lacks \[UNK\]"):
        load_tokenizer(str(tmp_path / "vocab.txt"))


def test_a_folder_with_a_list_alone_converts_and_embeds(tmp_path):
    shutil.copytree(GOLDEN / "bert", tmp_path / "hf")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "dog", "##s"]
    (tmp_path / "hf" / "vocab.txt").write_text("\n".join(pieces) + "\n")
    assert convert.main([str(tmp_path / "hf"), str(tmp_path / "ours")]) == 0
    model = load_model(str(tmp_path / "ours"))
    assert model.tokenizer()(["A cats dog"])[0].tolist()[:7] == [2, 4, 5, 7, 6, 3, 0]
    assert model.embed_texts(["a cat", "dogs"]).shape == (2, 16)
    assert convert.main([str(tmp_path / "ours"), str(tmp_path / "back"), "--to=hf"]) == 0
    again = load_tokenizer(str(tmp_path / "back"), 12, clean="none")
    np.testing.assert_array_equal(again(["A cats dog"]), model.tokenizer()(["A cats dog"]))
