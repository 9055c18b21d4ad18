"""`generate`, `Model.generate` and `Model.match` on folders of transformers' three BLIP classes."""

import dataclasses
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import vlp_jax
from vlp_jax.__main__ import main
from vlp_jax.api.forward import reads, writes
from vlp_jax.api.prompts import check_prompts
from vlp_jax.api.writing import generate, number_of
from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Text
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.data.text import load_tokenizer
from vlp_jax.data.text.rows import text_rows

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "blip"
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "a", "an", "the", "cat", "dog", "is"]
WORDS += ["red", "blue", "of", "picture", "two"]
WORDS += [f"word{i}" for i in range(28 - len(WORDS))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A converted class by name, its vocabulary of our words, and five pictures beside it."""
    home = tmp_path_factory.mktemp("blip")
    (home / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (home / "pictures" / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("b.png", "a.jpg", "sub/c.png"):
        picture = Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8))
        picture.save(home / "pictures" / name)

    def made(kind):
        out = home / kind
        if not out.exists():
            words = f"--tokenizer={home / 'vocab.txt'}"
            assert main(["convert", str(GOLDEN / kind), str(out), words]) == 0
        return str(out)

    made.home, made.pictures = home, home / "pictures"
    return made


def lines(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def test_a_line_per_picture_in_the_order_of_their_paths(folder, tmp_path, capsys):
    out = str(tmp_path / "new" / "f.jsonl")
    call = ["generate", f"--checkpoint={folder('caption')}", f"--images={folder.pictures}"]
    assert main([*call, f"--out={out}", "--prompt=a picture of", "--max-new=3", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["images"] == 3 and report["out"] == out
    rows = lines(out)
    assert [row["image"] for row in rows] == ["a.jpg", "b.png", "sub/c.png"]
    for row in rows:
        assert list(row) == ["image", "prompt", "text", "score", "ids"]
        assert row["prompt"] == "a picture of" and len(row["ids"]) <= 3 and row["score"] < 0
        assert 2 not in row["ids"]
    model = vlp_jax.load(folder("caption"))
    again = model.generate([folder.pictures / r["image"] for r in rows], "a picture of", max_new=3)
    assert again == [row["text"] for row in rows]


def test_ids_are_the_likeliest_after_dec_and_the_prompt(folder):
    """Against the model's own logits, token by token; without a prompt after [DEC] alone."""
    model = vlp_jax.load(folder("caption"))
    picture = folder.pictures / "b.png"
    logits = model.method.functions()["lm_logits"]
    image = model.decode(picture)[None]
    for prompt, ids in (("", [28]), ("a dog", [28, 5, 9])):
        found = model.generate([picture], prompt, max_new=4, min_new=4)
        begun = list(ids)
        for _ in range(4):
            x = Inputs.of({"image": image, "text": np.int32([begun])})
            row = np.array(logits(Vars(model.params, model.extra), x))[0, -1]
            row[2] = -np.inf
            begun.append(int(row.argmax()))
        words = model.tokenizer().decode(begun[len(ids) :])
        assert found == [words]


def test_prompts_of_unequal_length_and_batches_change_nothing(folder, tmp_path):
    model = vlp_jax.load(folder("caption"))
    pictures = [folder.pictures / name for name in ("a.jpg", "b.png", "sub/c.png")]
    prompts = ["", "the red cat", "a"]
    together = model.generate(pictures, prompts, max_new=3, beams=2)
    alone = [
        model.generate([one], prompt, max_new=3, beams=2)[0]
        for one, prompt in zip(pictures, prompts, strict=True)
    ]
    assert together == alone
    (tmp_path / "p.txt").write_text("\n".join(prompts) + "\n")
    call = ["generate", f"--checkpoint={folder('caption')}", f"--images={folder.pictures}"]
    call += [f"--prompts={tmp_path / 'p.txt'}", "--max-new=3", "--beams=2"]
    assert main([*call, f"--out={tmp_path / 'f.jsonl'}"]) == 0
    assert [row["text"] for row in lines(tmp_path / "f.jsonl")] == together


def test_draws_follow_their_seed(folder):
    model = vlp_jax.load(folder("caption"))
    pictures = [folder.pictures / "a.jpg"] * 12
    how = dict(max_new=4, temperature=3.0)
    draw = lambda seed: model.generate(pictures, seed=seed, **how)  # noqa: E731
    first = draw(0)
    assert first == draw(0) != draw(1) and len(set(first)) > 3, "each picture draws for itself"


@pytest.mark.parametrize("how", [{"beams": 3}, {"temperature": 3.0}], ids=str)
def test_several_texts_of_a_picture(folder, tmp_path, how):
    """Of beams the best first, which is the one that stands alone; drawn ones differ; a line of
    each, by its number."""
    model, how = vlp_jax.load(folder("caption")), {"max_new": 4, **how}
    pictures = [folder.pictures / name for name in ("a.jpg", "b.png", "sub/c.png")]
    found = model.generate(pictures, "a", returned=3, **how)
    assert [len(set(texts)) for texts in found] == [3, 3, 3]
    made = generate(model, pictures, "a", returned=3, **how)
    if "beams" in how:
        assert [texts[0] for texts in found] == model.generate(pictures, "a", **how)
        assert all(a.score > b.score > c.score for a, b, c in made)
        two = model.generate(pictures, "a", returned=2, **how)
        assert two == [texts[:2] for texts in found]
    call = ["generate", f"--checkpoint={folder('caption')}", f"--images={folder.pictures}"]
    call += [f"--{key.replace('_', '-')}={value}" for key, value in how.items()]
    assert main([*call, "--returned=3", "--prompt=a", f"--out={tmp_path / 'f.jsonl'}"]) == 0
    rows = lines(tmp_path / "f.jsonl")
    assert list(rows[0]) == ["image", "prompt", "number", "text", "score", "ids"]
    assert [row["number"] for row in rows] == [0, 1, 2] * 3
    assert [row["image"] for row in rows[::3]] == ["a.jpg", "b.png", "sub/c.png"]
    assert [(row["text"], row["ids"]) for row in rows] == [
        (one.text, one.ids) for texts in made for one in texts
    ]


def test_no_two_seeds_are_one(folder):
    """Seeds far apart, of any size, and a picture's number is no seed."""
    seeds = 0, 1, 2047, 2048, -1, 10**40, 10**40 + 1
    numbers = {number_of(b"%d" % i, seed) for i in (0, 1, 2**20) for seed in seeds}
    assert len(numbers) == 21 and all(0 <= number < 2**31 for number in numbers)
    model, how = vlp_jax.load(folder("caption")), dict(max_new=4, temperature=3.0)
    pictures = [folder.pictures / "a.jpg"] * 12
    assert model.generate(pictures, seed=0, **how) != model.generate(pictures, seed=2048, **how)


def test_a_prompt_ends_with_its_line_alone(folder, tmp_path):
    """U+2028 and U+0085 are letters of a prompt, and a prompt may be empty."""
    said = ["a\u2028cat\x85", "", "the dog"]
    for text in ("\n".join(said), "\n".join(said) + "\n", "\r\n".join(said)):
        (tmp_path / "p.txt").write_bytes(text.encode())
        call = ["generate", f"--checkpoint={folder('caption')}", f"--images={folder.pictures}"]
        call += [f"--prompts={tmp_path / 'p.txt'}", "--max-new=3", f"--out={tmp_path / 'f.jsonl'}"]
        assert main(call) == 0
        rows = (tmp_path / "f.jsonl").read_text().split("\n")[:-1]
        assert [json.loads(row)["prompt"] for row in rows] == said


def test_what_is_read_is_not_written_over(folder, tmp_path, capsys):
    shutil.copytree(folder.pictures, tmp_path / "p")
    (tmp_path / "q.jsonl").write_text("a\nb\nc\n")
    (tmp_path / "link").symlink_to(tmp_path / "p" / "b.png")
    call = ["generate", f"--checkpoint={folder('caption')}", f"--images={tmp_path / 'p'}"]
    for out in ("q.jsonl", "p/sub/c.png", "link"):
        words = [f"--out={tmp_path / out}", f"--prompts={tmp_path / 'q.jsonl'}", "--max-new=2"]
        assert main([*call, *words]) == 2
        assert f"{out}: is read by this command" in capsys.readouterr().err
    assert (tmp_path / "q.jsonl").read_text() == "a\nb\nc\n"


def test_what_is_no_text_is_refused(folder):
    caption, judge = vlp_jax.load(folder("caption")), vlp_jax.load(folder("match"))
    picture = folder.pictures / "b.png"
    with pytest.raises(UserError, match=r"prompt\[1\]: must be a text, not NoneType"):
        caption.generate([picture] * 2, ["a", None])
    with pytest.raises(UserError, match=r"prompt\[0\]: .*U\+D800 is half of a character"):
        caption.generate([picture], "\ud800")
    with pytest.raises(UserError, match=r"texts\[0\]: must be a text, not int"):
        judge.match([picture], [3])
    with pytest.raises(UserError, match=r"texts\[1\]: .*U\+D800 is half of a character"):
        judge.match([picture] * 2, ["a", "\ud800"])


def test_questions_are_answered_and_pairs_are_matched(folder, tmp_path, capsys):
    pictures = [folder.pictures / "a.jpg", folder.pictures / "b.png"]
    answers = vlp_jax.load(folder("answer"))
    said = answers.generate(pictures, ["is the cat red", "is a dog blue"], max_new=3)
    assert len(said) == 2
    with pytest.raises(UserError, match="answers questions; give a prompt"):
        answers.generate(pictures, ["is the cat red", " "])
    call = ["generate", f"--checkpoint={folder('answer')}", f"--images={folder.pictures}"]
    assert main([*call, f"--out={tmp_path / 'f.jsonl'}"]) == 2
    assert "answers questions; give --prompt" in capsys.readouterr().err.splitlines()[-1]
    matching = vlp_jax.load(folder("match"))
    found = matching.match(pictures, ["a red cat", "two dog"])
    logits = matching.method.functions()["match"]
    text = np.int32([[29, 5, 11, 8, 2], [29, 15, 9, 2, 0]])
    batch = {"image": np.stack([matching.decode(p) for p in pictures]), "text": text}
    batch["text_mask"] = text > 0
    row = np.array(logits(Vars(matching.params, matching.extra), Inputs.of(batch)))
    np.testing.assert_allclose(found, 1 / (1 + np.exp(row[:, 0] - row[:, 1])), atol=1e-6)
    with pytest.raises(UserError, match="texts: must be a list, not 'ab'"):
        matching.match(pictures, "ab")  # two letters for two pictures
    with pytest.raises(UserError, match="writes no texts"):
        matching.generate(pictures)
    with pytest.raises(UserError, match="no head that matches"):
        answers.match(pictures, ["a", "a"])


def test_scores_are_the_models_own_logits_of_the_texts(folder):
    """A text after a prompt, and an answer to a question, teacher-forced."""
    pictures = [folder.pictures / "a.jpg", folder.pictures / "b.png"]
    texts, prompts, tails = ["red cat", "dog"], ["a", "the two"], [[11, 8, 2], [9, 2]]

    def wanted(model, name, read, begun, others):
        function, v = model.method.functions()[name], Vars(model.params, model.extra)
        logits = jax.jit(lambda x: function(v, x))
        for picture, start, more in zip(pictures, begun, others, strict=True):
            image = model.decode(picture)[None]
            for tail in tails:
                ids = [*start, *tail]
                x = {"image": image, read: np.int32([ids + [0] * (6 - len(ids))]), **more}
                row = np.array(logits(Inputs.of(x)))[0]
                log_p = row - np.log(np.exp(row).sum(-1, keepdims=True))
                yield sum(log_p[len(start) - 1 + i, word] for i, word in enumerate(tail))

    model = vlp_jax.load(folder("caption"))
    begun = [[28, 5], [28, 7, 15]]
    own = np.float32(list(wanted(model, "lm_logits", "text", begun, [{}, {}]))).reshape(2, 2)
    np.testing.assert_allclose(model.score(pictures, texts, prompts), own, atol=1e-5)
    model = vlp_jax.load(folder("answer"))
    asked = [{"text": np.int32([[29, 10, 5, 2]])}, {"text": np.int32([[29, 7, 9, 2]])}]
    own = list(wanted(model, "answer_logits", "answer", [[28], [28]], asked))
    found = model.score(pictures, texts, ["is a", "the dog"])
    np.testing.assert_allclose(found, np.float32(own).reshape(2, 2), atol=1e-5)
    assert model.score([], texts, []).shape == (0, 2)
    assert model.tokenizer("answer").context_length == model.method.answer_length
    kinds = reads(model.method.functions()["answer_loglik"])
    kinds |= writes(model.method, "answer_loglik", Vars(model.params, model.extra))
    most = model.method.answer_net.context_length
    assert str(kinds["answers"]) == f"int32[B, K, T], T at most {most}"
    assert kinds["answers_mask"].optional and "answers_weight" not in kinds
    assert str(kinds["out"]) == "float32[B, K]"
    with pytest.raises(UserError, match="answers questions; give a prompt"):
        model.score(pictures, texts)
    with pytest.raises(UserError, match="scores no texts"):
        vlp_jax.load(folder("match")).score(pictures, texts)


def test_texts_are_scored_as_far_as_prompt_and_text_have_places(folder):
    """After [DEC] and one word there are six of eight: five words and the end."""
    model, picture = vlp_jax.load(folder("caption")), [folder.pictures / "b.png"]
    text = "red cat is two dog"
    (found,) = model.score(picture * 2, [text, "cat"], ["a", ""])[:1]
    image, ids = model.decode(picture[0])[None], [28, 5, 11, 8, 10, 15, 9, 2]
    x = Inputs.of({"image": image, "text": np.int32([ids])})
    logits = model.method.functions()["lm_logits"](Vars(model.params, model.extra), x)
    log_p = np.float64(jax.nn.log_softmax(logits))[0]
    wanted = sum(log_p[at - 1, ids[at]] for at in range(2, 8))
    np.testing.assert_allclose(found[0], wanted, atol=1e-5)
    said = "texts: one of 6 tokens after 3 tokens is more than the model's 8 places"
    with pytest.raises(UserError, match=said):
        model.score(picture, [text], "a red")
    with pytest.raises(UserError, match="is too long; the model reads 8 tokens"):
        model.score(picture, ["cat"], "a red cat is two dog of the")


def test_a_question_has_its_own_places(folder):
    """As many as its encoder reads, however few the decoder of answers writes."""
    model = vlp_jax.load(folder("answer"))
    function = model.method.functions()["generate_answer"]
    few = dataclasses.replace(function, places=3)
    assert check_prompts(model, few, ["is the cat red"], 2) == model.method.text_length


def test_pictures_that_cannot_be_read_and_odd_names(folder, tmp_path, capsys):
    """A damaged one is named; a name that is no UTF-8 is read back from its line."""
    pictures, out = tmp_path / "p", tmp_path / "f.jsonl"
    pictures.mkdir()
    odd = os.fsdecode(b"\xff.png")
    shutil.copy(folder.pictures / "b.png", pictures / odd)
    call = ["generate", f"--checkpoint={folder('caption')}", f"--images={pictures}", "--max-new=2"]
    assert main([*call, f"--out={out}"]) == 0
    assert [row["image"] for row in lines(out)] == [odd]
    (pictures / "z.png").write_bytes(b"no picture")
    assert main([*call, f"--out={tmp_path / 'g.jsonl'}"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "z.png" in error and "(--skip-damaged leaves it out)" in error
    assert not (tmp_path / "g.jsonl").exists()


def test_a_damaged_picture_harms_no_other(folder, tmp_path, capsys):
    """The others draw what they drew, also those of its batch; alone it is an error."""
    pictures = tmp_path / "p"
    pictures.mkdir()
    for name in ("a.jpg", "b.png"):
        shutil.copy(folder.pictures / name, pictures / name)
    shutil.copy(folder.pictures / "b.png", pictures / "c.png")
    call = ["generate", f"--checkpoint={folder('caption')}", f"--images={pictures}"]
    call += ["--max-new=3", "--temperature=3", "--batch-size=2", f"--out={tmp_path / 'f.jsonl'}"]
    assert main(call) == 0
    whole = lines(tmp_path / "f.jsonl")
    (pictures / "b.png").write_bytes(b"no picture")
    assert main([*call, "--skip-damaged"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("f.jsonl, skipped: 1")
    assert lines(tmp_path / "f.jsonl") == [whole[0], whole[2]]
    for name in ("a.jpg", "c.png"):
        (pictures / name).write_bytes(b"")
    assert main([*call, "--skip-damaged"]) == 2
    assert "none of 3 pictures can be read" in capsys.readouterr().err


def test_a_text_ends_at_a_stop_word(folder):
    model, picture = vlp_jax.load(folder("caption")), [folder.pictures / "b.png"]
    ids = generate(model, picture, max_new=4, min_new=4)[0][0].ids
    words = [model.tokenizer().decode([i]) for i in ids]
    at = next(i for i, word in enumerate(words) if word and word not in words[:i] and i)
    assert generate(model, picture, max_new=4, stop=[words[at]])[0][0].ids == ids[:at]


EARLY = [  # before any checkpoint is opened
    (["--beams=0"], "--beams=0: must be at least 1"),
    (["--max-new=0"], "--max-new=0: must be at least 1"),
    (["--min-new=9", "--max-new=8"], "--min-new=9: must be from 0 to --max-new=8"),
    (["--top-p=0"], "--top-p=0.0 is out of range; it must be from 1e-06 to 1"),
    (["--top-p=1.5"], "--top-p=1.5 is out of range"),
    (["--temperature=0"], "--temperature=0.0 is out of range"),
    (["--temperature=-1"], "--temperature=-1.0 is out of range"),
    (["--temperature=nan"], "--temperature=nan is out of range"),
    (["--repetition-penalty=0"], "--repetition-penalty=0.0 is out of range"),
    (["--length-penalty=inf"], "--length-penalty=inf is out of range"),
    (["--top-k=-1"], "--top-k=-1: must be at least 0"),
    (["--beams=2", "--top-p=0.5"], "remove --temperature, --top-p, --top-k"),
    (["--returned=0"], "--returned=0: must be at least 1"),
    (["--returned=2"], "--returned=2: needs as many --beams, or --temperature; --beams=1"),
    (["--beams=2", "--returned=3"], "--returned=3: needs as many --beams"),
    (["--batch-size=0"], "--batch-size=0: must be at least 1"),
    (["--prompt=a", "--prompts=x"], "--prompt and --prompts: give one of them"),
    (["--prompts=three"], "--prompts=three: 2 lines for 3 pictures"),
    (["--prompts=nowhere"], "--prompts: "),
    (["--images=nowhere"], "--images: nowhere: no such file or folder"),
    (["--out=three/f.jsonl"], "--out="),
]
LATE = [
    (["--max-new=99"], "--max-new=99: after 1 token more than the model's 8 places"),
    (["--max-new=6", "--prompt=a picture"], "--max-new=6: after 3 tokens more than"),
    ([f"--prompt={'a red cat ' * 1000}"], "is too long; the model reads 8 tokens"),
    (["--stop=zebra"], "--stop='zebra': is no single token of the vocabulary"),
    (["--stop=a cat"], "--stop='a cat': is no single token"),
]


@pytest.mark.parametrize(("flags", "message"), EARLY + LATE)
def test_mistakes_are_one_line(folder, tmp_path, capsys, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("three").write_text("a\nb\n")
    made = folder("caption") if (flags, message) in LATE else "nothing"
    call = ["generate", f"--checkpoint={made}", f"--images={folder.pictures}", "--out=f.jsonl"]
    assert main([*call, *flags]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1].startswith("error: ") and message in told[-1], told
    assert len(told[-1]) < 200 and os.listdir() == ["three"]


def test_an_unknown_stop_word_is_told_before_weights_are_read(folder, tmp_path, capsys):
    made = shutil.copytree(folder("caption"), tmp_path / "made")
    for file in made.glob("weights*"):
        file.unlink()
    call = ["generate", f"--checkpoint={made}", f"--images={folder.pictures}", "--max-new=2"]
    call += [f"--out={tmp_path / 'f.jsonl'}", "--stop=cat"]
    assert main([*call, "--stop=zebra"]) == 2
    assert "--stop='zebra': is no single token" in capsys.readouterr().err.splitlines()[-1]
    assert main(call) == 2
    assert "weights" in capsys.readouterr().err.splitlines()[-1]


def test_prompt_and_new_tokens_may_fill_every_place(folder):
    """Three tokens are read in a bucket of four, for which there is no room."""
    model, picture = vlp_jax.load(folder("caption")), [folder.pictures / "b.png"]
    assert len(generate(model, picture, "a picture", max_new=5, min_new=5)[0][0].ids) == 5


def test_rows_as_a_field_wants_them(folder):
    folder("caption")
    words = load_tokenizer(str(folder.home / "vocab.txt"), 5)
    made = lambda **how: text_rows(  # noqa: E731
        words, Text(5, 30, mask=True, **how), "t", ["a cat", "a red cat is"]
    )
    assert made()["t"].tolist() == [[1, 5, 8, 2, 0], [1, 5, 11, 8, 2]]
    assert made(mark=29)["t"].tolist() == [[29, 5, 8, 2, 0], [29, 5, 11, 8, 2]]
    begun = made(mark=28, open=True)
    assert begun["t"].tolist() == [[28, 5, 8, 0, 0], [28, 5, 11, 8, 0]]
    assert begun["t_mask"].sum(1).tolist() == [3, 4]
    behind = made(bare=True)
    assert behind["t"].tolist() == [[5, 8, 2, 0, 0], [5, 11, 8, 2, 0]]
    assert behind["t_mask"].sum(1).tolist() == [3, 4]
    assert text_rows(words, Text(5, 30), "t", ["a"]).keys() == {"t"}


def test_texts_that_go_on_and_texts_that_are_scored(folder):
    """One goes on without the tokenizer's start; the other has a first id, which does not count."""
    words = load_tokenizer(str(folder.home / "vocab.txt"), 5)
    bare = text_rows(words, Text(5, 30, mask=True, bare=True), "t", ["a cat", "a a a a a"])
    assert bare["t"].tolist() == [[5, 8, 2, 0, 0], [5, 5, 5, 2, 0]]
    assert bare["t_mask"].sum(1).tolist() == [3, 4]
    scored = Text(5, 30, mask=True, start=True)
    same = text_rows(words, scored, "t", ["a cat"])
    assert same["t"].tolist() == [[1, 5, 8, 2, 0]]
    words.prefix = ()
    made = text_rows(words, scored, "t", ["a cat"])
    assert made["t"].tolist() == [[0, 5, 8, 2, 0, 0]] and made["t_mask"].sum() == 4
