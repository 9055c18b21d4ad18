"""The question evaluator: generated and ranked answers of functions whose answers are known."""

import numpy as np
import pytest
from PIL import Image

from vlp_jax.core.errors import UserError
from vlp_jax.data.text.bytes import ByteTokenizer
from vlp_jax.evals.base import EvalContext, make_evaluator
from vlp_jax.evals.kits.answers import accuracy
from vlp_jax.report.gallery import draw_results

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
    wanted = np.select([grey == 10, grey == 90], [1, 2], 4)
    length = np.asarray([[len(text) for text in row] for row in texts])
    letter = np.asarray([[ord(text[0]) for text in row] for row in texts])
    return -np.abs(length - wanted[:, None]) - letter / 1000, batch["index"]


def run(source, fns, **config):
    return make_evaluator("vqa", {"path": source, **config}, CONTEXT)(fns)


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
    kinds = result.tables["question_type"]
    assert kinds[0] == {"question type": "what", "questions": 2, "accuracy": pytest.approx(0.95)}
    best, worst = (result.figures["answers"].groups[name][0] for name in ("best", "worst"))
    assert best["right"] == ["red (9)", "a Red"] and best["asked"] == "What colour?"
    assert worst["said"] == "two" and worst["right"] == ["2 (10)"]
    ((_, path),) = draw_results({"q": result}, str(tmp_path)).items()
    assert (np.asarray(Image.open(path).convert("L")).astype(int) == 200).sum() > 5000


@pytest.mark.parametrize("together", [1, 2, 64])
def test_ranked_answers(memory_source, together):
    source = memory_source(GREYS, None, METAS)
    result = run(source, {"answer_loglik": loglik}, mode="rank", together=together)
    # candidates by frequency: red, 2, no, blue, yes, a Red
    assert result.details["answers"] == ["2", "2", "no", "blue"]
    assert result.metrics["accuracy"] == pytest.approx((0 + 1 + 1 + 0) / 4)
    assert result.protocol["candidates"] == 6
    few = run(source, {"answer_loglik": loglik}, mode="rank", together=together, most=2)
    assert few.details["answers"] == ["2", "2", "2", "red"]


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
    with pytest.raises(UserError, match="no sample has an answer under the JSON key 'said'"):
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
        ({"together": 0}, "vqa.together is 0"),
    ):
        with pytest.raises(UserError, match=message):
            make_evaluator("vqa", config, CONTEXT)
    source = memory_source(GREYS, None, METAS)
    made = make_evaluator("vqa", {"answers": "answer"}, CONTEXT)
    with pytest.raises(UserError, match=r"evals\.q\.answers='answer': .* did you mean 'answers'"):
        made.check({"path": source}, "evals.q")
    assert make_evaluator("vqa", {"mode": "rank"}, CONTEXT).requires == ("answer_loglik",)
