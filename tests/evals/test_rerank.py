"""Reranked retrieval against its definition, in whatever chunks and on whatever hosts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_retrieval import slow_ranks

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Numbers, Text
from vlp_jax.data.text.bytes import ByteTokenizer
from vlp_jax.evals import retrieval
from vlp_jax.evals.base import EvalContext, make_evaluator
from vlp_jax.evals.kits import rerank
from vlp_jax.methods.base import Function, make_method
from vlp_jax.parallel.mesh import make_mesh
from vlp_jax.parallel.sharding import param_sharding
from vlp_jax.train.evaluate import eval_context, make_evaluators, run_evaluators
from vlp_jax.train.functions import Embedder

TOKENIZER = ByteTokenizer(context_length=8)
CONTEXT = EvalContext(TOKENIZER, image_size=8, batch_size=4)
GREYS = list(range(0, 240, 20))  # 12 pictures
CAPTIONS = [[f"a{i}", f"b{i % 7}"] for i in range(11)] + [["a0"]]
RNG = np.random.default_rng(0)
IMAGE, LOGIT = RNG.normal(size=(256, 6)).astype(np.float32), RNG.normal(size=(256, 128)) * 3
READS = {
    "image_states": {},
    "rematch": {"image_states": Numbers((2, 3)), "text": Text(8, 259, mask=True, mark=7)},
}
SEEN = []


def vector(text):
    return np.random.default_rng(list(text.encode())).normal(size=6).astype(np.float32)


def logit(grey, text):
    return np.float32(LOGIT[grey, sum(text.encode()) % 128])


def texts_of(batch):
    return [TOKENIZER.decode([TOKENIZER.sot_id, *row[1:]]) for row in batch["text"]]


def embed_image(batch):
    return IMAGE[batch["image"][:, 0, 0, 0]], batch["index"]


def embed_text(batch):
    return np.stack([vector(text) for text in texts_of(batch)]), batch["index"]


def image_states(batch):
    SEEN.append(len(batch["index"]))
    grey = batch["image"][:, 0, 0, 0].astype(np.float32)
    return np.broadcast_to(grey[:, None, None], (len(grey), 2, 3)), batch["index"]


def rematch(batch):
    assert batch["image_states"].shape == (4, 2, 3)
    assert (batch["text"][:, 0] == 7).all() and batch["text_mask"].sum() < 32
    grey = batch["image_states"][:, 1, 2].astype(int)
    hit = [logit(g, text) for g, text in zip(grey, texts_of(batch), strict=True)]
    return np.stack([np.full(len(hit), 9, np.float32), hit], axis=1), batch["index"]


FNS = dict(embed_image=embed_image, embed_text=embed_text, image_states=image_states,
           rematch=rematch)  # fmt: skip


def run(source, **config):
    made = make_evaluator("retrieval", {"path": source, **config}, CONTEXT)
    return dataclasses.replace(made, reads=READS)(FNS)


def definition(k, share):
    """Ranks of pictures and captions where all but the k nearest stand behind, by their cosine."""
    texts = list(dict.fromkeys(text for some in CAPTIONS for text in some))
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    cosine = unit(IMAGE[GREYS]) @ unit(np.stack([vector(t) for t in texts])).T
    full = cosine + np.array([[logit(g, t) for t in texts] for g in GREYS])
    ways = []
    for axis in (1, 0):
        order = np.argsort(-cosine, axis=axis, kind="stable")
        near = np.argsort(order, axis=axis) < k
        ways.append(slow_ranks(np.where(near, full, cosine - 100), CAPTIONS, share))
    return ways[0][0], ways[1][1]


def test_a_picture_may_have_several_vectors(memory_source):
    """Twice the same is the same; what is the nearer of two, tests/evals/test_ranking.py."""
    source = memory_source(GREYS, CAPTIONS)

    def twice(batch):
        rows, index = embed_image(batch)
        return np.stack([rows, rows], axis=1), index

    made = make_evaluator("retrieval", {"path": source, "rerank": 5}, CONTEXT)
    made = dataclasses.replace(made, reads=READS)
    plain, several = (made(FNS | {"embed_image": fn}) for fn in (embed_image, twice))
    assert several.details["image"].shape == (12, 2, 6)
    assert several.metrics == plain.metrics and plain.metrics["i2t_r1"] < 1
    space = several.figures["space"].image
    np.testing.assert_allclose(space, plain.figures["space"].image, atol=1e-6)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("k", [1, 5, 99])
def test_the_nearest_are_ranked_by_cosine_and_logit(memory_source, k, share, monkeypatch):
    monkeypatch.setattr(rerank, "STATES", 9 * 24)  # the states of nine pictures
    SEEN.clear()
    result = run(memory_source(GREYS, CAPTIONS), rerank=k, share_duplicates=share)
    assert SEEN == [4] * 3, "every picture once, eight and four of them at a time"
    plain = run(memory_source(GREYS, CAPTIONS), share_duplicates=share)
    for way, ranks in zip(("i2t", "t2i"), map(np.array, definition(k, share)), strict=True):
        for at in (1, 5, 10):
            assert result.metrics[f"rerank_{way}_r{at}"] == np.mean(ranks <= at)
        assert result.metrics[f"rerank_{way}_median_rank"] == np.median(ranks)
    assert plain.metrics == {n: v for n, v in result.metrics.items() if not n.startswith("rerank")}
    rows = {row["direction"]: row for row in result.tables["recall"]}
    wanted = result.metrics["rerank_t2i_r5"]
    assert rows["text to image, reranked"]["R@5"] == wanted
    table = [row["direction"] for row in result.tables["recall"]]
    chance = result.tables["recall"][table.index("text to image, reranked") + 1]
    assert chance["direction"] == "  chance" and chance["R@5"] == plain.metrics["chance_t2i_r5"]
    assert result.protocol["rerank"] == f"the nearest {k}" and plain.protocol["rerank"] == "none"
    assert "image_states" not in make_evaluator("retrieval", {}, CONTEXT).requires


def test_hosts_share_the_pairs():
    rows = np.arange(10, 16)
    arrays = {"text": (rows, np.array([5, 0, 0, 3, 2, 1, 4]))}
    hosts = [dataclasses.replace(CONTEXT, process_index=p, process_count=2) for p in (0, 1)]
    alone = list(rerank.pair_batches(arrays, 7, CONTEXT))
    split = zip(*(rerank.pair_batches(arrays, 7, host) for host in hosts), strict=True)
    for whole, parts in zip(alone, split, strict=True):
        for name in ("text", "index"):
            np.testing.assert_array_equal(whole[name], np.concatenate([p[name] for p in parts]))
    assert alone[1]["index"].tolist() == [4, 5, 6, -1]
    assert alone[0]["text"].tolist() == [15, 10, 10, 13]


def test_eight_devices_rerank_as_one_does(memory_source, monkeypatch):
    """A random BLIP whose weights lie in parts; a batch of 3 becomes one of 8."""
    image = dict(name="vit", image_size=8, patch_size=4, width=16, num_layers=1, head_width=8)
    image |= dict(pool="none", cls_token=True, pre_norm=False)
    text = dict(name="med", vocab_size=261, context_length=8, width=16, num_layers=1, num_heads=2)
    sizes = dict(text_length=8, embed_dim=8, queue=8, losses=("itc", "itm"))
    method = make_method(dict(name="blip", image=image, text=text | {"roles": "encoder"}, **sizes))
    v = jax.jit(method.fresh)(jax.random.key(0))
    params = jax.tree.map(
        lambda a: a + 0.2 * jnp.cos(jnp.arange(a.size).reshape(a.shape)), v.params
    )
    source, few, metrics = memory_source(GREYS, CAPTIONS), [], []
    monkeypatch.setattr(rerank, "STATES", 1)  # those of a batch at a time
    keep = lambda *args: few.append(rerank.rerank(*args)) or few[-1]  # noqa: E731
    monkeypatch.setattr(retrieval, "rerank", keep)
    for shape, count, rows in (({}, 1, 3), ({"data": 2, "fsdp": 4}, 8, 8)):
        mesh = make_mesh(shape, jax.devices()[:count])
        context = eval_context(TOKENIZER, {"image_size": 8}, 3, mesh, masked=True)
        assert context.batch_size == rows
        made = make_evaluators({"retrieval": {"path": source, "rerank": 5}}, context, method)
        laid = jax.device_put(params, param_sharding(params, mesh, "fsdp"))
        found = run_evaluators(made, Embedder(method, mesh).bind(laid, v.extra))
        metrics.append(found["retrieval"].metrics)
    for one, eight in zip(*few, strict=True):
        np.testing.assert_array_equal(eight.ids, one.ids)
        np.testing.assert_allclose(eight.score, one.score, atol=1e-5)
        assert np.ptp(one.score) > 0.1
    assert metrics[0] == metrics[1] and metrics[0]["rerank_r_mean"] != metrics[0]["r_mean"]


def test_a_method_that_sees_no_pairs_is_refused(memory_source):
    class TwoTowers:
        def functions(self):
            return {name: Function(None, {}) for name in ("embed_image", "embed_text")}

    config = {"mine": {"type": "retrieval", "path": memory_source(GREYS), "rerank": 3}}
    lacking = r"evals\.mine: needs \['image_states', 'rematch'\] but TwoTowers offers"
    with pytest.raises(UserError, match=lacking):
        make_evaluators(config, CONTEXT, TwoTowers())
    with pytest.raises(UserError, match=r"retrieval\.rerank is -1"):
        make_evaluator("retrieval", {"rerank": -1}, CONTEXT)
