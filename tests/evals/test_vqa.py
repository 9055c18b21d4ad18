"""The question evaluator: generated and ranked answers of functions whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Text
from vlp_jax.data.text import load_tokenizer
from vlp_jax.data.text.bytes import ByteTokenizer
from vlp_jax.evals.base import EvalContext, make_evaluator
from vlp_jax.evals.kits.answers import accuracy
from vlp_jax.evals.kits.wording import prompted
from vlp_jax.evals.vqa import likeliest
from vlp_jax.methods.base import make_method
from vlp_jax.parallel.mesh import make_mesh
from vlp_jax.report.gallery import draw_results
from vlp_jax.train.evaluate import make_evaluators, run_evaluators
from vlp_jax.train.functions import Embedder

TOKENIZER = ByteTokenizer(context_length=32)
CONTEXT = EvalContext(TOKENIZER, image_size=8, batch_size=2)
GREYS = [10, 10, 90, 200]
METAS = [
    {"question": "What colour?", "answers": ["red"] * 3 + ["blue"] * 7, "answer_type": "other"},
    {"question": "How many?", "answers": ["2"] * 10, "answer_type": "number"},
    {"question": "Is it?", "answers": ["yes"] * 2 + ["no"] * 8, "answer_type": "yes/no"},
    {"question": "What colour?", "answers": ["red"] * 9 + ["a Red"], "answer_type": "other"},
]
for meta in METAS:
    meta["question_type"] = meta["question"].split()[0].lower()
SAID = {"What colour?": "The red.", "How many?": "two", "Is it?": "yes"}


def asked(batch):
    """The prompts of a batch."""
    return [TOKENIZER.decode(row[real]) for row, real in zip(batch["prompt"], batch["prompt_mask"],
                                                             strict=True)]  # fmt: skip


def generate(batch):
    texts = [SAID.get(text.removeprefix("Q: "), "") for text in asked(batch)]
    ids = TOKENIZER(texts)
    length = (ids == TOKENIZER.eot_id).argmax(1)
    return {"ids": ids[:, None], "length": length[:, None]}, batch["index"]


def loglik(batch):
    """Likes candidates of the length that the grey says, then those of early letters."""
    rows, told = batch["answers"], batch["answers_mask"]
    assert told.shape == rows.shape and (rows[told] > 0).all() and not rows[~told].any()
    texts = [[TOKENIZER.decode(ids) for ids in row] for row in rows]
    grey = batch["image"][:, 0, 0, 0]
    wanted = np.select([grey == 10, grey == 90, grey == 250], [1, 2, 5], 4)
    length = np.asarray([[len(text) for text in row] for row in texts])
    letter = np.asarray([[ord(text[0]) for text in row] for row in texts])
    return -np.abs(length - wanted[:, None]) - letter / 1000, batch["index"]


def run(source, fns, **config):
    return make_evaluator("vqa", {"path": source, **config}, CONTEXT)(fns)


def test_answers_that_are_true_or_false_are_refused(memory_source):
    metas = [*METAS[:2], {**METAS[2], "answers": [True] * 10}, METAS[3]]
    with pytest.raises(UserError, match="'answers' of 'k2' is true or false; write yes or no"):
        run(memory_source(GREYS, None, metas), {"generate_answer": generate})


def test_generated_answers(memory_source, tmp_path):
    result = run(
        memory_source(GREYS, None, METAS),
        {"generate_answer": generate},
        prompt="Q: {question}",
        shown=1,
    )
    assert result.details["answers"] == ["The red.", "two", "yes", "The red."]
    # 3 of 10 say red; ten equal answers are compared as they are; 2 of 10; all of ten
    assert result.details["accuracy"].tolist() == pytest.approx([0.9, 0, 0.6, 1])
    assert result.metrics["accuracy"] == pytest.approx(0.625)
    assert result.metrics["accuracy_other"] == pytest.approx(0.95)
    assert result.metrics["accuracy_yes_no"] == pytest.approx(0.6)
    # most people say red, to any question
    assert result.metrics["chance_accuracy"] == pytest.approx((0.9 + 0 + 0 + 1) / 4)
    # of each type: red; 2; no. 8 of 10 say no
    assert result.metrics["chance_accuracy_other"] == pytest.approx(0.95)
    assert result.metrics["chance_accuracy_number"] == result.metrics["chance_accuracy_yes_no"] == 1
    assert result.metrics["constants"] == pytest.approx((2 * 0.95 + 1 + 1) / 4)
    what = {"question type": "what", "questions": 2}
    kinds = result.tables["question_type"]
    assert kinds[0] == {**what, "accuracy": pytest.approx(0.95), "chance": pytest.approx(0.95)}
    best, worst = (result.figures["answers"].groups[name][0] for name in ("best", "worst"))
    assert best["right"] == ["red (9)", "a Red"] and best["asked"] == "What colour?"
    assert worst["said"] == "two" and worst["right"] == ["2 (10)"]
    ((_, path),) = draw_results({"q": result}, str(tmp_path)).items()
    assert (np.asarray(Image.open(path).convert("L")).astype(int) == 200).sum() > 5000


@pytest.mark.parametrize("together", [0, 2, 4, 64])
def test_ranked_answers(memory_source, together):
    source = memory_source(GREYS, None, METAS)
    result = run(source, {"answer_loglik": loglik}, mode="rank", together=together)
    # candidates by frequency: red, 2, no, blue, yes, a Red
    assert result.details["answers"] == ["2", "2", "no", "blue"]
    assert result.metrics["accuracy"] == pytest.approx((0 + 1 + 1 + 0) / 4)
    assert result.protocol["candidates"] == 6
    late = memory_source([250, 10, 90, 250], None, METAS)  # the last candidate of all
    late = run(late, {"answer_loglik": loglik}, mode="rank", together=together)
    assert late.details["answers"] == ["a Red", "2", "no", "a Red"]
    few = run(source, {"answer_loglik": loglik}, mode="rank", together=together, most=2)
    assert few.details["answers"] == ["2", "2", "2", "red"]


def test_candidates_are_read_as_answers_were_learned():
    """By the tokenizer of answers, which leaves marks that that of questions takes away."""
    fields, seen = {"answers": Text(9, 259, mask=True, mark=1, tokenizer="answer")}, []
    asked = ByteTokenizer(context_length=32, clean="blip_question")
    answers = {"answer": ByteTokenizer(context_length=9)}
    context = EvalContext(asked, image_size=8, batch_size=2, tokenizers=answers)

    def watched(batch):
        seen.append(batch["answers"])
        return np.zeros(batch["answers"].shape[:2]), batch["index"]

    likeliest(watched, ["7:30", "no"], context, 0, fields)({"index": np.arange(2)})
    spelled = [[byte + 1 for byte in text] for text in (b"7:30", b"no")]
    assert seen[0].tolist() == [[[1, *spelled[0], 258], [1, *spelled[1], 258, 0, 0]]] * 2


def test_what_does_not_fit_is_told(memory_source, caplog):
    """A question's end is what an answer would go on from."""
    source = memory_source(GREYS, None, METAS)
    run(source, {"generate_answer": generate}, prompt="Q: {question}")
    assert "cut" not in caplog.text
    run(source, {"generate_answer": generate}, prompt="{question} In one word, please: Answer:")
    assert "prompt: 3 different texts cut at 32 tokens" in caplog.text


def test_candidates_of_a_file(memory_source, tmp_path):
    path = tmp_path / "answers.txt"
    path.write_text("no\n\nyes\nno\n7\n")
    source = memory_source(GREYS, None, METAS)
    result = run(source, {"answer_loglik": loglik}, mode="rank", candidates=str(path))
    assert result.details["answers"] == ["7", "7", "no", "yes"]
    path.write_text("\n")
    with pytest.raises(UserError, match="holds no answers"):
        run(source, {"answer_loglik": loglik}, mode="rank", candidates=str(path))


def test_one_answer_alone_and_samples_without(memory_source):
    metas = [{"question": "What colour?", "answer": answer} for answer in ("Red", "blue", None, 7)]
    result = run(memory_source(GREYS, None, metas), {"generate_answer": generate}, answers="answer")
    assert result.details["accuracy"].tolist() == [1, 0, 0]
    assert result.details["kept"].tolist() == [0, 1, 3]
    assert result.protocol["rule"] == "one answer, normalised"
    with pytest.raises(
        UserError,
        match="no sample has question and answer under the JSON keys 'question' and 'said'",
    ):
        run(memory_source(GREYS, None, metas), {"generate_answer": generate}, answers="said")


def test_hosts_and_order_do_not_matter(memory_source):
    """Each row has the prompt of its own sample, whatever batch it comes in."""
    order = [3, 1, 0, 2]
    metas, greys = [METAS[i] for i in order], [GREYS[i] for i in order]
    result = run(memory_source(greys, None, metas), {"generate_answer": generate})
    want = [accuracy(SAID[m["question"]], m["answers"]) for m in metas]
    assert result.details["accuracy"].tolist() == pytest.approx(want)


def test_what_is_refused(memory_source):
    for config, message in (
        ({"mode": "rnak"}, "vqa.mode='rnak' is unknown; did you mean 'rank'"),
        ({"prompt": "Answer:"}, "has no {question}"),
        ({"together": -1}, "vqa.together is -1"),
    ):
        with pytest.raises(UserError, match=message):
            make_evaluator("vqa", config, CONTEXT)
    source = memory_source(GREYS, None, METAS)
    made = make_evaluator("vqa", {"answers": "answer"}, CONTEXT)
    with pytest.raises(UserError, match=r"evals\.q\.answers='answer': .* did you mean 'answers'"):
        made.check({"path": source}, "evals.q")
    long = make_evaluator("vqa", {"prompt": "a " * 99 + "{question}"}, CONTEXT)
    with pytest.raises(UserError, match=r"evals\.q\.prompt: 'a a .*' is too long; the model reads"):
        long.check({"path": source}, "evals.q")
    assert make_evaluator("vqa", {"mode": "rank"}, CONTEXT).requires == ("answer_loglik",)


@pytest.fixture(scope="module")
def answerer(tmp_path_factory):
    """(A random BLIP that answers, its bound functions, a context with its tokenizer.)"""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "2", "no", "yes", "a"]
    words += ["what", "colour", "how", "many", "is", "it", "?", "##s"]
    path = tmp_path_factory.mktemp("words") / "vocab.txt"
    path.write_text("\n".join(words) + "\n")
    image = dict(name="vit", image_size=8, patch_size=4, width=16, num_layers=1, head_width=8)
    image |= dict(pool="none", cls_token=True, pre_norm=False)
    text = dict(name="med", vocab_size=22, context_length=16, width=16, num_layers=1, num_heads=2)
    texts = {"text": text | {"roles": "encoder"}, "answer": text | {"roles": "decoder"}}
    method = make_method(dict(name="blip_vqa", image=image, text_length=8, end_id=3) | texts)
    v = jax.jit(method.fresh)(jax.random.key(0))
    v.params["answer"]["head"]["bias"] += 2 * jnp.sin(jnp.arange(22.0))
    bound = Embedder(method, make_mesh({"data": 1}, jax.devices()[:1])).bind(*v)
    tokenizer = load_tokenizer(str(path), 8)
    return method, bound, EvalContext(tokenizer, image_size=8, batch_size=3, masked=True)


SHORT = {"max_new": 3, "beams": 2}


def blip(answerer, source, seen=None, **config):
    """The evaluator's result, with the batches that its function was given in `seen`."""
    method, bound, context = answerer

    def watched(name):
        def call(batch, how=None):
            seen.append(batch)
            return bound[name](batch, how)

        return bound[name] if seen is None else call

    made = make_evaluators({"vqa": {"path": source, **config}}, context, method)
    return run_evaluators(made, {name: watched(name) for name in bound})["vqa"]


def test_a_method_is_asked_by_the_text_that_it_reads(answerer, memory_source):
    """BLIP reads [ENC] question [SEP] as `text`, and no prompt; its answers begin with [DEC]."""
    source, seen = memory_source(GREYS, None, METAS), []
    written = blip(answerer, source, seen, how=SHORT)
    enc, dec, sep = 21, 20, 3
    assert seen[0]["text"][1].tolist() == [enc, 13, 14, 17, sep, 0, 0, 0]
    assert seen[0]["text_mask"].sum(1).tolist() == [5, 5, 5] and "prompt" not in seen[0]
    assert len(set(written.details["answers"])) > 1 or written.details["answers"][0]
    seen.clear()
    ranked = blip(answerer, source, seen, mode="rank", how={"first": 4})
    assert seen[0]["answers"].shape == (3, 6, 4) and "prompt" not in seen[0]
    assert seen[0]["answers"][0, :2].tolist() == [[dec, 5, sep, 0], [dec, 7, sep, 0]]
    assert seen[0]["answers_mask"][0].sum(1).tolist() == [3, 3, 3, 3, 3, 4]
    rows, _ = answerer[1]["answer_loglik"](seen[0])
    candidates = ["red", "2", "no", "blue", "yes", "a Red"]
    likeliest = [candidates[i] for i in rows.argmax(1)]
    assert ranked.details["answers"][:3] == likeliest
    assert ranked.protocol["options"] == {"first": 4}


def test_questions_and_functions_that_cannot_be_asked(answerer, memory_source):
    metas = [{**METAS[0], "question": None}, *METAS[1:3], {**METAS[3], "answers": None}]
    result = blip(answerer, memory_source(GREYS, None, metas), how=SHORT)
    assert result.details["kept"].tolist() == [1, 2]
    with pytest.raises(UserError, match=r"evals\.vqa\.how\.frist: unknown .* 'first'"):
        blip(answerer, memory_source(GREYS, None, METAS), mode="rank", how={"frist": 3})
    with pytest.raises(UserError, match=r"reads \['image'\] cannot be asked"):
        prompted(generate, "x", CONTEXT, {"image": None})
