"""Ids of 2,000 odd strings, equal to those of transformers and of sentencepiece: byte-level BPE,
BPE that falls back to bytes (LLaMA), Unigram (T5), with and without new words."""

import io
import pathlib
import random
import runpy

import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
transformers = pytest.importorskip("transformers", reason="live parity needs the `peers` extra")
sentencepiece = pytest.importorskip("sentencepiece")

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402

from vlp_jax.data.text import load_tokenizer  # noqa: E402

MAKER = pathlib.Path(__file__).parents[1] / "golden" / "make_tokenizer_golden.py"
NEW = ("<New>", "<two>")
EXTREMES = (
    "", " ", "  a", "a  ", " " * 300 + "a", "\t\n" * 40, "\n\n\n a", "\x00", "a\x00b\x00",
    "x" * 20_000, "é" * 3000, "😀" * 500, "\ud800", "a\udfffb", "\ud83d\ude00", "\u2581",
    "\u2581a \u2581\u2581b", "<0x41>", "<unk>", "<s> a </s>", "\r\n\r", "１２３ 12", "\u0e33\u0e33",
)  # fmt: skip
RANGES = (
    (0, 0x80), (0, 0x800), (0x300, 0x370), (0x590, 0x700), (0x2000, 0x2070), (0x4E00, 0x9FFF),
    (0xD800, 0xE000), (0xFF00, 0xFFEF), (0x1F300, 0x1FAFF), (0xE000, 0x10FFFF), (0, 0x20),
)  # fmt: skip
LLAMA = dict(
    model_type="bpe", byte_fallback=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
    normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
    allow_whitespace_only_pieces=True,
)  # fmt: skip
T5 = dict(model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


def drawn(rng):
    """Characters of all kinds, joiners and spaces between them."""
    found = ""
    for _ in range(rng.randrange(1, 30)):
        joint = rng.choice(["", "", " ", "  ", "\u200d", "\ufe0f"])
        found += joint + chr(rng.randrange(*rng.choice(RANGES)))
    return found


@pytest.fixture(scope="module")
def texts():
    rng = random.Random(0)
    odd = runpy.run_path(str(MAKER))["odd_strings"](1200, seed=7)
    return [*EXTREMES, *(drawn(rng) for _ in range(2000 - 1200 - len(EXTREMES))), *odd]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, texts):
    """{kind: a folder with its tokenizer.json, and of SentencePiece's its model}."""
    home = tmp_path_factory.mktemp("tokenizers")
    kept = ["".join(c for c in text if " " <= c < "\u0180")[:500] for text in texts[-1200:]]
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    letters = dict(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    how = trainers.BpeTrainer(vocab_size=600, special_tokens=["<|endoftext|>"], **letters)
    model.train_from_iterator(kept, how)
    (home / "bytes").mkdir()
    model.save(str(home / "bytes" / "tokenizer.json"))
    for kind, name, how, library in (
        ("llama", "tokenizer.model", LLAMA, transformers.LlamaTokenizer),
        ("t5", "spiece.model", T5, transformers.T5Tokenizer),
    ):
        written = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(kept), model_writer=written, vocab_size=1000,
            hard_vocab_limit=False, character_coverage=1.0, num_threads=1, minloglevel=2, **how,
        )  # fmt: skip
        (home / kind).mkdir()
        (home / kind / name).write_bytes(written.getvalue())
        library.from_pretrained(str(home / kind)).save_pretrained(str(home / kind))
    return home


def well_formed(text):
    """What the libraries take: they refuse half a surrogate pair."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def check(ours, theirs, texts):
    found = [(text, ours.encode(text), theirs(well_formed(text))) for text in texts]
    wrong = [(text[:60], one[:20], other[:20]) for text, one, other in found if one != other]
    assert not wrong, f"{len(wrong)} of {len(texts)} differ, first {wrong[0]!a}"


@pytest.mark.parametrize("new", [(), NEW], ids=["plain", "new_words"])
@pytest.mark.parametrize("kind", ["bytes", "llama", "t5"])
def test_ids_equal_transformers(kind, new, folders, texts):
    """New words stand anywhere, their ids follow the vocabulary's."""
    ours = load_tokenizer(str(folders / kind), 64, clean="none", new=new)
    library = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folders / kind / "tokenizer.json")
    )
    library.add_tokens([AddedToken(word, normalized=False) for word in new])
    assert ours.vocab_size == len(library)
    if new:
        rng, given = random.Random(1), texts
        texts = []
        for text in given:
            cut, word = rng.randrange(len(text) + 1), rng.choice(["", " ", *NEW]) + rng.choice(NEW)
            texts.append(text[:cut] + word + rng.choice(["", " "]) + text[cut:])
        assert ours.encode("<two>") == [ours.vocab_size - 1]
    check(ours, lambda text: library(text, add_special_tokens=False)["input_ids"], texts)


@pytest.mark.parametrize("kind, file", [("llama", "tokenizer.model"), ("t5", "spiece.model")])
def test_ids_equal_sentencepiece(kind, file, folders, texts):
    ours = load_tokenizer(f"spm:{folders / kind / file}", 64, clean="none")
    model = sentencepiece.SentencePieceProcessor(model_file=str(folders / kind / file))
    check(ours, model.encode, texts)
