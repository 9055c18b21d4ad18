"""Our tokenizers, written for transformers and open_clip, give our ids there."""

import io

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
open_clip = pytest.importorskip("open_clip", reason="live parity needs the `peers` extra")
transformers = pytest.importorskip("transformers", reason="live parity needs the `peers` extra")
sentencepiece = pytest.importorskip("sentencepiece")

from vlp_jax.api.export_tokenizer import tokenizer_files  # noqa: E402
from vlp_jax.data.text import load_tokenizer  # noqa: E402

WORDS = "a photo of the cat and dog riding waves on top naive cafe 0 1 2 3 ! , . _".split()  # noqa: SIM905
TEXTS = [
    "a photo of a cat",
    "  The Cat,  riding!  ",
    "cafe " * 30,
    "</s> a [PAD] dog",
    "dog_cat",
    "[CLS] hi [SEP] [MASK]",
    "",
]


@pytest.fixture(scope="module")
def spm(tmp_path_factory):
    """A SentencePiece model with T5's special ids."""
    model, rng = io.BytesIO(), np.random.default_rng(0)
    lines = (" ".join(rng.choice(WORDS, 6)) for _ in range(300))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, vocab_size=60, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return f"spm:{path}"


@pytest.fixture(scope="module")
def word_pieces(tmp_path_factory):
    """BERT's kind, whose file adds its special pieces."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *"[]<>/", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"), *WORDS, "hi"]
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(pieces)) + "\n")
    return str(folder)


@pytest.fixture(scope="module")
def word_json(tmp_path_factory):
    """A tokenizer.json of words whose post-processor adds nothing."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    vocabulary |= {word: i + 4 for i, word in enumerate(dict.fromkeys([*WORDS, "The", "Cat"]))}
    model = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path_factory.mktemp("json") / "tokenizer.json"
    model.save(str(path))
    return str(path)


def written(folder, spec, to, siglip):
    files, said, tokenizer = tokenizer_files(spec, to, siglip)
    for name, content in files.items():
        if isinstance(content, str):
            with open(content, "rb") as file:
                content = file.read()
        (folder / name).write_bytes(content)
    return said, tokenizer


CASES = [
    ("spm", {"clean": "canonicalize", "pad_id": 1}, "hf", True),
    ("spm", {"clean": "canonicalize", "pad_id": 1}, "open_clip", False),
    ("spm", {}, "hf", False),
    ("json", {}, "hf", False),
    ("json", {"clean": "lower", "pad_id": 3}, "hf", True),
    ("json", {"clean": "canonicalize"}, "open_clip", False),
    ("pieces", {"clean": "none"}, "hf", False),
    ("pieces", {"clean": "lower"}, "hf", False),
    ("bytes", {}, "hf", False),
    ("bytes", {"clean": "canonicalize"}, "hf", True),
]


@pytest.mark.parametrize("kind, options, to, siglip", CASES)
def test_ids_are_ours(kind, options, to, siglip, spm, word_json, word_pieces, tmp_path):
    name = {"spm": spm, "json": word_json, "pieces": word_pieces, "bytes": "bytes"}[kind]
    spec = {"name": name, "context_length": 16, "options": options}
    said, ours = written(tmp_path, spec, to, siglip)
    texts = [text for text in TEXTS if kind != "spm" or "</s>" not in text]
    if (kind, siglip) == ("spm", True):  # SiglipTokenizer drops the underscore, open_clip spaces it
        texts.remove("dog_cat")
    if to == "open_clip":
        kwargs = said.get("tokenizer_kwargs", {})
        found = open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=16, **kwargs)(texts)
    else:
        library = transformers.AutoTokenizer.from_pretrained(tmp_path)
        found = library(texts, padding="max_length", truncation=True, return_tensors="pt")
        assert ("attention_mask" in found) != siglip and library.model_max_length == 16
        found = found["input_ids"]
    np.testing.assert_array_equal(found.numpy(), ours(texts))
    if kind != "spm":  # and its file, read by us, is the same tokenizer
        again = load_tokenizer(str(tmp_path), context_length=16)
        np.testing.assert_array_equal(again(TEXTS[:3]), ours(TEXTS[:3]))
