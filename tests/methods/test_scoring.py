"""Texts that are scored over a prefix which is read once, against the model's own logits."""

import jax
import numpy as np
import pytest
from test_blip import method as captioner
from test_blip_vqa import method as answerer

from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.decoding import scoring

B, K, L, V, PAD = 3, 5, 5, 30, 0


def texts(rng, made, count=K):
    """Texts of 2 to L ids from [DEC] on."""
    ids = rng.integers(3, V - 2, (B, count, L)).astype(np.int32)
    ids[..., 0] = made.marks["decode"]
    mask = np.arange(L) < rng.integers(2, L + 1, (B, count))[..., None]
    return np.where(mask, ids, PAD).astype(np.int32), mask


def direct(run, read, batch, prompts, ids, mask, smoothing=0.0):
    """float64[B, K]: every text by itself behind its prompt, teacher-forced; run: logits of the
    field `read`."""
    out = np.zeros(mask.shape[:2])
    for k in range(mask.shape[1]):
        rows = [[*p, *ids[b, k, 1:][mask[b, k, 1:]]] for b, p in enumerate(prompts)]
        whole = np.zeros((B, max(map(len, prompts)) + L - 1), np.int32)
        for row, text in zip(whole, rows, strict=True):
            row[: len(text)] = text
        real = np.arange(whole.shape[1]) < np.array([len(r) for r in rows])[:, None]
        x = Inputs.of({**batch, read: whole, f"{read}_mask": real})
        log_p = np.asarray(jax.nn.log_softmax(run(x).astype(np.float32)), np.float64)
        for b, (text, prompt) in enumerate(zip(rows, prompts, strict=True)):
            for at in range(len(prompt), len(text)):
                gain = log_p[b, at - 1]
                out[b, k] += (1 - smoothing) * gain[text[at]] + smoothing * gain.mean()
    return out


def test_captions_after_prompts_of_unequal_length(monkeypatch):
    """Five texts of every row in three calls, the last of them not full."""
    made, rng = captioner(text_length=8), np.random.default_rng(0)
    v = Vars(*jax.jit(made.fresh)(jax.random.key(1)))
    ids, mask = texts(rng, made)
    monkeypatch.setattr(scoring, "LOGITS", 2 * B * (L - 2) * V)
    prompts = [[made.marks["decode"], *range(4, 4 + n)] for n in (2, 0, 1)]
    wide = np.zeros((B, 3), np.int32)
    for row, prompt in zip(wide, prompts, strict=True):
        row[: len(prompt)] = prompt
    image = {"image": rng.integers(0, 256, (B, 16, 16, 3), np.uint8)}
    batch = {**image, "prompt": wide, "prompt_mask": wide > 0, "texts": ids, "texts_mask": mask}
    found = jax.jit(lambda x: made.functions()["loglik"](v, x))(Inputs.of(batch))
    logits = jax.jit(lambda x: made.functions()["lm_logits"](v, x))
    wanted = direct(logits, "text", image, prompts, ids, mask)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_answers_are_ranked_by_first_tokens_then_whole():
    """The question's states once; those behind the likeliest first ids alone are scored."""
    made, rng = answerer(), np.random.default_rng(1)
    v = Vars(*jax.jit(made.fresh)(jax.random.key(2)))
    ids, mask = texts(rng, made)
    asked = {
        "image": rng.integers(0, 256, (B, 16, 16, 3), np.uint8),
        "text": np.int32([[V - 1, 5, 6, 7], [V - 1, 8, 2, 0], [V - 1, 9, 4, 2]]),
        "text_mask": np.arange(4) < np.array([[4], [3], [4]]),
    }
    batch = Inputs.of({**asked, "answers": ids, "answers_mask": mask})
    function = made.functions()["answer_loglik"]
    run = jax.jit(lambda x, how: function(v, x, how))
    prompts = [[made.marks["decode"]]] * B
    how = function.options({"label_smoothing": 0.1})
    logits = jax.jit(lambda x: made.functions()["answer_logits"](v, x))
    how_far = logits, "answer", asked, prompts
    wanted = direct(*how_far, ids, mask, 0.1)
    np.testing.assert_allclose(run(batch, how), wanted, atol=1e-5)
    some = np.asarray(run(batch, function.options({"first": 2})))
    whole = direct(*how_far, ids, mask)
    begun = direct(*how_far, ids, mask & (np.arange(L) < 2))
    for row in range(B):
        likely = np.argsort(-begun[row], kind="stable")[:2]
        np.testing.assert_allclose(some[row, likely], whole[row, likely], atol=1e-5)
        assert (np.delete(some[row], likely) == -1e9).all()
    with pytest.raises(UserError, match="first=-1: must be at least 0"):
        function.options({"first": -1})
