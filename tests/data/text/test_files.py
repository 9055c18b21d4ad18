"""Tokenizers from files: tokenizer.json (with and without a post-processor) and SentencePiece."""

import json
import pickle

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from vlp_jax.core.errors import UserError
from vlp_jax.data.text import check_vocab, load_tokenizer

WORDS = ["<pad>", "[CLS]", "[SEP]", "<unk>", "a", "dog", "cat", "b"]


def _word_level(specials=(), words=WORDS):
    model = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    built = tokenizers.Tokenizer(model)
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    built.add_special_tokens(list(specials))
    return built


@pytest.fixture
def bert_like(tmp_path):
    built = _word_level()
    built.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    built.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_hf_edges_come_from_the_post_processor(bert_like):
    tokenizer = load_tokenizer(str(bert_like / "tokenizer.json"), 6)
    assert tokenizer(["a dog", "a dog cat dog cat dog"]).tolist() == [
        [1, 4, 5, 2, 0, 0],
        [1, 4, 5, 6, 5, 2],
    ]
    assert (tokenizer.sot_id, tokenizer.eot_id, tokenizer.pad_id, tokenizer.vocab_size) == (
        1,
        2,
        0,
        8,
    )
    assert tokenizer.decode(tokenizer(["a dog"])[0]) == "a dog"


def test_hf_end_may_be_a_token_of_any_name(tmp_path):
    built = _word_level()
    built.post_processor = processors.TemplateProcessing(
        "$A cat b", special_tokens=[("cat", 6), ("b", 7)]
    )
    built.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(str(tmp_path), 5)
    assert tokenizer(["dog", "a a a a"]).tolist() == [[5, 6, 7, 0, 0], [4, 4, 4, 6, 7]]
    assert tokenizer.eot_id == 7 and tokenizer.sot_id == -1


def test_hf_folder_is_the_same_and_pickles(bert_like):
    one, other = (
        load_tokenizer(str(bert_like), 6),
        load_tokenizer(str(bert_like / "tokenizer.json"), 6),
    )
    assert one.fingerprint == other.fingerprint == pickle.loads(pickle.dumps(one)).fingerprint


def test_hf_without_post_processor_gets_the_end_by_name(tmp_path):
    _word_level(["</s>"]).save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(str(tmp_path), 4)
    assert tokenizer(["a dog"]).tolist() == [
        [4, 5, 8, 0]
    ]  # the added token has the id after the vocabulary
    assert tokenizer.sot_id == -1 and tokenizer.vocab_size == 9
    with pytest.raises(UserError, match="ids up to 8, but the model's vocab_size is 8"):
        check_vocab(tokenizer, 8)


def test_hf_config_beside_names_end_and_padding(tmp_path):
    _word_level(["</s>", "<done>"]).save(str(tmp_path / "tokenizer.json"))
    config = {"eos_token": {"content": "<done>"}, "pad_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(str(tmp_path), 4)(["dog"]).tolist() == [[5, 9, 8, 8]]
    assert load_tokenizer(str(tmp_path), 4, pad_id=3)(["dog"]).tolist() == [[5, 9, 3, 3]]


def test_hf_own_truncation_and_padding_are_ignored(tmp_path):
    built = _word_level(["</s>"])
    built.enable_truncation(1)
    built.enable_padding(length=50)
    built.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(str(tmp_path), 5)(["a dog cat"]).tolist() == [[4, 5, 6, 8, 0]]


def test_hf_end_of_a_language_model_is_an_id(tmp_path):
    """Its config says it, and no post-processor adds it."""
    _word_level(words=["a", "<unk>", "stop"]).save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(str(tmp_path / "tokenizer.json"), 5, end_id=2)
    assert tokenizer(["a a"])[0].tolist() == [0, 0, 2, 0, 0] and tokenizer.eot_id == 2
    assert pickle.loads(pickle.dumps(tokenizer)).fingerprint == tokenizer.fingerprint
    with pytest.raises(UserError, match="end_id=7 lies outside"):
        load_tokenizer(str(tmp_path / "tokenizer.json"), 5, end_id=7)


def test_hf_tokens_beyond_a_network_are_unknown(tmp_path):
    """A processor adds <image> to a tokenizer whose texts never hold it."""
    built = _word_level(words=["a", "<unk>", "stop"])
    built.add_special_tokens(["<image>"])
    built.save(str(tmp_path / "tokenizer.json"))
    path = str(tmp_path / "tokenizer.json")
    whole = load_tokenizer(path, 5, end_id=2)
    assert whole.vocab_size == 4 and whole(["a <image>"])[0, 1] == 3
    assert whole.beyond(3) == ["<image>"] and whole.beyond(4) == whole.beyond(2) == []
    less = load_tokenizer(path, 5, end_id=2, below=3)
    assert less.vocab_size == 3 and less(["a <image>"])[0].max() < 3


def test_hf_bad_files_are_one_line(tmp_path):
    _word_level(words=["a", "<unk>"]).save(str(tmp_path / "no_end.json"))
    (tmp_path / "bad.json").write_text("{]")
    (tmp_path / "t5.model").write_bytes(b"x")
    for name, message in (
        ("no_end.json", "has no end token"),
        ("bad.json", "is no tokenizer.json"),
        ("t5.model", "write 'spm:"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            load_tokenizer(str(tmp_path / name))
        assert "\n" not in str(caught.value) and name in str(caught.value)


@pytest.fixture(scope="module")
def spm_file(tmp_path_factory):
    sentencepiece = pytest.importorskip("sentencepiece", reason="extra: pip install sentencepiece")
    folder = tmp_path_factory.mktemp("spm")
    lines = [
        f"a photo of a {c} {a}" for c in ("red", "green", "blue") for a in ("dog", "cat", "bird")
    ] * 4
    (folder / "corpus.txt").write_text("\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "tiny"), vocab_size=40,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        hard_vocab_limit=False, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return folder / "tiny.model"


def test_spm_rows_end_with_the_end_and_have_no_start(spm_file):
    tokenizer = load_tokenizer(f"spm:{spm_file}", 32)
    rows = tokenizer(["a photo of a red dog", "a photo of a red dog " * 500])
    assert (rows[:, 0] > 2).all() and rows[1, -1] == tokenizer.eot_id == 1
    ends = (rows[0] == 1).argmax()
    assert (rows[0, ends + 1 :] == 0).all() and rows.max() < tokenizer.vocab_size
    assert tokenizer.sot_id == -1 and tokenizer.decode(rows[0]) == "a photo of a red dog"


def test_half_a_surrogate_pair_is_a_character_that_is_unknown(spm_file, bert_like):
    """JSON may hold one; the libraries refuse it."""
    for name in (f"spm:{spm_file}", str(bert_like)):
        tokenizer = load_tokenizer(name, 16, clean="none")
        for text in ("a \ud83d dog", "\udc00"):
            whole = text.replace("\ud83d", "\ufffd").replace("\udc00", "\ufffd")
            assert tokenizer.encode(text) == tokenizer.encode(whole)


def test_spm_padding_can_be_the_end_as_in_siglip(spm_file):
    tokenizer = load_tokenizer(f"spm:{spm_file}", 32, pad_id=1, clean="canonicalize")
    row = tokenizer(["A photo of a red DOG!"])[0]
    assert row[-1] == 1 and tokenizer.decode(row) == "a photo of a red dog"
    assert pickle.loads(pickle.dumps(tokenizer)).fingerprint == tokenizer.fingerprint


def test_spm_bad_file_is_one_line(spm_file, tmp_path):
    (tmp_path / "bad.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match="is no SentencePiece model"):
        load_tokenizer(f"spm:{tmp_path / 'bad.model'}")
    with pytest.raises(UserError, match="pad_id=4000 lies outside"):
        load_tokenizer(f"spm:{spm_file}", pad_id=4000)


def test_spm_begins_with_its_start_where_asked(spm_file, tmp_path):
    with pytest.raises(UserError, match="has no start token"):
        load_tokenizer(f"spm:{spm_file}", 32, start=True)
    sentencepiece = pytest.importorskip("sentencepiece")
    corpus, stem = spm_file.parent / "corpus.txt", tmp_path / "llama"
    ids = dict(unk_id=0, bos_id=1, eos_id=2, pad_id=-1, vocab_size=40, num_threads=1)
    how = dict(hard_vocab_limit=False, minloglevel=2, **ids)
    sentencepiece.SentencePieceTrainer.train(input=str(corpus), model_prefix=str(stem), **how)
    tokenizer = load_tokenizer(f"spm:{stem}.model", 32, start=True, clean="none")
    row = tokenizer(["a photo of a red dog"])[0]
    plain = sentencepiece.SentencePieceProcessor(model_file=f"{stem}.model")
    assert row[: row.argmin()].tolist() == [1, *plain.encode("a photo of a red dog"), 2]
    assert tokenizer.decode(row) == "a photo of a red dog"


def test_spm_without_the_library_says_what_to_install(spm_file, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    with pytest.raises(UserError, match="pip install sentencepiece"):
        load_tokenizer(f"spm:{spm_file}")
