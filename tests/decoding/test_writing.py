"""Written texts against exhaustive search and counted draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trigram
from trigram import STOP, V, all_texts, log_softmax, model, start, table, total

from vlp_jax.core.errors import UserError
from vlp_jax.core.rng import example_keys
from vlp_jax.decoding.generate import generate
from vlp_jax.decoding.how import Writing
from vlp_jax.decoding.steps import warped

PROMPTS = [[0, 1], [2, 3, 4], [4, 0, 1, 1]]


def write(scores, prompts=PROMPTS, stop=(STOP,), seed=0, **how):
    keys = example_keys(jax.random.key(seed), len(prompts))
    fn = jax.jit(lambda begun, how: generate(model(scores), begun, how, stop, keys))
    found = fn(start(scores, prompts), Writing(**how))
    return jax.tree.map(np.asarray, found)


def texts(found, copy=0):
    rows = zip(found.ids[:, copy], found.length[:, copy], strict=True)
    assert all(not row[n:].any() for row, n in rows)
    rows = zip(found.ids[:, copy], found.length[:, copy], strict=True)
    return [row[:n].tolist() for row, n in rows]


def greedy(scores, prompt, most, least=0, penalty=None):
    words = list(prompt)
    while len(words) < len(prompt) + most:
        row = np.array(scores[words[-2], words[-1]])
        for word in set(words) if penalty else ():
            row[word] = row[word] * penalty if row[word] < 0 else row[word] / penalty
        if len(words) - len(prompt) < least:
            row[STOP] = -np.inf
        words.append(int(row.argmax()))
        if words[-1] == STOP:
            break
    return words[len(prompt) :]


@pytest.mark.parametrize(
    "how",
    [{"length_penalty": 2.0}, {"min_new": 3}, {"repetition_penalty": 2.5}],
    ids=str,
)
def test_greedy_takes_the_likeliest_token(how):
    scores = table(1)
    found = write(scores, max_new=7, **how)
    penalty = how.get("repetition_penalty")
    wanted = [greedy(scores, p, 7, how.get("min_new", 0), penalty) for p in PROMPTS]
    assert texts(found) == [w[:-1] if w[-1] == STOP else w for w in wanted]
    assert len({len(w) for w in wanted}) > 1, "texts of one length would prove little"
    for score, prompt, text in zip(found.score[:, 0], PROMPTS, wanted, strict=True):
        tokens = len(text) ** how.get("length_penalty", 1)
        assert score == pytest.approx(total(scores, prompt, text) / tokens, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_several_texts_of_a_row_begin_as_its_one(seed):
    """Of one token that is left to draw from, each is the greedy text; what its own prompt says,
    and no padding, was said."""
    scores, prompts = table(seed), [[2, 3], [4, 1, 2, 3], [0, 1, 3]]
    found = write(scores, prompts, max_new=7, repetition_penalty=4.0, top_k=1, returned=2)
    wanted = [greedy(scores, prompt, 7, penalty=4.0) for prompt in prompts]
    for copy in range(2):
        assert texts(found, copy) == [w[:-1] if w[-1] == STOP else w for w in wanted]


@pytest.mark.parametrize(
    ("penalty", "least", "again"), [(1.0, 0, 2.5), (0.0, 0, None), (2.0, 2, None)]
)
def test_enough_beams_find_the_best_texts_that_there_are(penalty, least, again):
    scores = table(1)
    how = dict(beams=125, returned=3, max_new=3, length_penalty=penalty, min_new=least)
    found = write(scores, repetition_penalty=again, **how)
    for row, prompt in enumerate(PROMPTS):
        sums = ((total(scores, prompt, t, again or 1), t) for t in all_texts(3, least))
        ranked = sorted(((s / len(t) ** penalty, t) for s, t in sums), reverse=True)[:3]
        for copy, (score, text) in enumerate(ranked):
            assert found.score[row, copy] == pytest.approx(score, rel=1e-5)
            assert texts(found, copy)[row] == [t for t in text if t != STOP]


def test_two_beams_see_more_than_one():
    """A first token that is not the likeliest, whose text is the likeliest in the end."""
    scores = np.full((V, V, V), -9, np.float32)
    scores[0, 1, 2], scores[0, 1, 3] = 0.4, 0.0
    scores[1, 2, :4] = 0.0
    scores[1, 3, STOP] = 9.0
    scores[2, :, STOP] = 9.0
    one, two = (write(scores, [[0, 1]], beams=n, max_new=4) for n in (1, 2))
    assert texts(one)[0][0] == 2 and texts(two)[0] == [3]
    assert two.score[0, 0] > one.score[0, 0]


def test_beams_go_on_where_all_that_is_likelier_ends():
    """Three ends stand before what goes on in the second beam, and in the end is the best."""
    scores = np.full((V, V, V), -20, np.float32)
    scores[0, 1, [2, 3]] = np.log(0.5)
    scores[1, 2, [4, STOP, 1]] = np.log([0.4, 0.3, 0.3])
    scores[1, 3, [0, STOP, 1]] = np.log([0.28, 0.36, 0.36])
    scores[3, 0, STOP] = 0
    found = write(scores, [[0, 1]], stop=(STOP, 1), beams=2, max_new=3)
    assert texts(found) == [[3, 0]]
    np.testing.assert_allclose(found.score[0, 0], np.log(0.14) / 3, rtol=1e-4)


def test_beams_that_stop_early_take_the_first_texts_that_ended():
    """Of the first row two have ended after two tokens, and a better one after three; the second
    row, which has none before the fourth, lets the search go on."""
    scores = np.full((V, V, V), -20, np.float32)
    scores[0, 1, [2, STOP, 3]] = np.log([0.4, 0.35, 0.25])
    scores[1, 2, [4, STOP]], scores[2, 4, STOP] = np.log([0.7, 0.3]), 0
    scores[3, 0, 0], scores[0, 0, [0, 4, STOP]] = 0, np.log([0.6, 0.39, 0.01])
    late, early = (
        write(scores, [[0, 1], [3, 0]], beams=2, returned=2, max_new=4, early_stopping=e)
        for e in (False, True)
    )
    assert texts(late)[0] == [2, 4] and texts(early)[0] == []
    np.testing.assert_allclose(early.score[0], np.log([0.35, 0.12]) / [1, 2], rtol=1e-4)
    assert texts(early)[1] == texts(late)[1] == [0, 0, 0, 0]


@pytest.mark.parametrize("how", [{"beams": 3}, {"temperature": 1.0}, {}], ids=str)
def test_a_row_is_the_same_whatever_the_batch(how):
    scores = table(2)
    whole = write(scores, max_new=6, **how)
    turned = write(scores, [PROMPTS[2], PROMPTS[0], PROMPTS[1]], max_new=6, **how)
    if "temperature" in how:  # its noise goes with its key, so the second row's text does not stay
        assert texts(turned) != [texts(whole)[i] for i in (2, 0, 1)]
        keys = example_keys(jax.random.key(0), 3)[1:2]
        how = Writing(max_new=6, **how)
        run = lambda begun: generate(model(scores), begun, how, (STOP,), keys)  # noqa: E731
        alone = jax.jit(run)(start(scores, PROMPTS[1:2]))
        np.testing.assert_array_equal(alone.ids[0], whole.ids[1])
        return
    np.testing.assert_array_equal(turned.ids, whole.ids[[2, 0, 1]])
    np.testing.assert_allclose(turned.score, whole.score[[2, 0, 1]], rtol=1e-6)


@pytest.mark.parametrize("how", [{"beams": 3}, {"temperature": 1.0}], ids=str)
def test_a_row_without_numbers_harms_no_other(how):
    scores = table(2)
    whole = write(scores, max_new=6, **how)
    scores[3, 4] = np.nan  # where the second prompt ends, and no other text comes
    broken = write(scores, max_new=6, **how)
    np.testing.assert_array_equal(broken.ids[[0, 2]], whole.ids[[0, 2]])
    np.testing.assert_array_equal(broken.score[[0, 2]], whole.score[[0, 2]])
    assert not np.isfinite(broken.score[1, 0])


def test_several_stop_ids_and_none():
    scores = table(4)
    several = write(scores, stop=(STOP, 1), max_new=6)
    assert not any(1 in text or STOP in text for text in texts(several))
    assert several.length.min() < 6
    beams = write(scores, stop=(STOP, 1), max_new=6, beams=3)
    assert not any(1 in text or STOP in text for text in texts(beams))
    assert (beams.score >= several.score - 1e-6).all() and (beams.score > several.score).any()
    endless = write(scores, stop=(), max_new=6)
    assert (endless.length == 6).all()
    assert (write(scores, stop=(), beams=2, max_new=5).length == 5).all()


def test_draws_are_as_frequent_as_likely_and_each_key_draws_its_own():
    scores, count = table(5, 1.0), 4000
    prompts = [[0, 1]] * count
    found = write(scores, prompts, stop=(), max_new=1, temperature=0.7)
    share = np.bincount(found.ids[:, 0, 0], minlength=V) / count
    wanted = np.exp(log_softmax(scores[0, 1] / 0.7))
    np.testing.assert_allclose(share, wanted, atol=0.03)
    gain = log_softmax(scores[0, 1])[found.ids[:, 0, 0]]
    np.testing.assert_allclose(found.score[:, 0], gain, rtol=1e-5)
    other = write(scores, prompts, stop=(), max_new=1, temperature=0.7, seed=1)
    assert (other.ids != found.ids).mean() > 0.3
    several = write(scores, prompts[:400], stop=(), max_new=2, temperature=1.0, returned=3)
    assert several.ids.shape == (400, 3, 2)
    assert (several.ids[:, 0] != several.ids[:, 1]).any(1).mean() > 0.3


def test_a_nucleus_is_the_fewest_tokens_that_hold_its_share():
    logits = jnp.log(jnp.array([[0.5, 0.05, 0.3, 0.15]]))
    left = lambda **how: np.isfinite(warped(logits, Writing(**how)))[0].tolist()  # noqa: E731
    assert left(top_p=0.45) == [True, False, False, False]
    assert left(top_p=0.79) == [True, False, True, False]
    assert left(top_p=0.9) == [True, False, True, True]
    assert left(top_p=1e-9) == [True, False, False, False]
    assert left(top_k=9) == [True] * 4
    assert left(top_k=3) == [True, False, True, True]
    assert left(top_k=3, top_p=0.6) == [True, False, True, False]
    assert left(temperature=2.0) == [True] * 4


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (dict(beams=0), "beams=0: must be at least 1"),
        (dict(max_new=0), "max_new=0: must be at least 1"),
        (dict(min_new=9, max_new=8), "min_new=9: must be from 0 to max_new=8"),
        (dict(top_k=-1), "top_k=-1: must be at least 0"),
        (dict(beams=2, top_p=0.9), "beams=2: draws nothing"),
        (dict(returned=2), "returned=2: needs as many beams, or temperature; beams=1"),
    ],
)
def test_numbers_that_do_not_go_together(how, message):
    with pytest.raises(UserError, match=message):
        Writing(**how)


def test_trigram_counts_what_it_says():
    assert trigram.total(table(), [0, 1], [2]) == pytest.approx(log_softmax(table()[0, 1])[2])
