"""Recall against a plain loop over captions: several captions, shared texts, ties, hosts,
damage."""

import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.evals.base import make_evaluator
from vlp_jax.evals.kits.ranking import Ranked
from vlp_jax.evals.retrieval import (
    Pairs,
    _extremes,
    chance_recall,
    rank_captions,
    rank_pictures,
    strict_bounds,
)

CAPTIONS = [["a", "b"], ["b"], ["c", "a", "a"], ["d"], ["e", "e"]]


def slow_ranks(sims, captions, share):
    """sims: [images, distinct texts]. Ranks of pictures and of captions, from the definition."""
    flat = [(i, text) for i, texts in enumerate(captions) for text in texts]
    texts = list(dict.fromkeys(text for _, text in flat))
    s = np.array([[sims[i, texts.index(text)] for _, text in flat] for i in range(len(captions))])

    def belongs(i, j):
        owner, text = flat[j]
        return owner == i or (share and text in captions[i])

    def best_rank(scores, positives):
        best = max(scores[j] for j in positives)
        return 1 + sum(scores[j] >= best for j in range(len(scores)) if j not in positives)

    images, total = range(len(captions)), range(len(flat))
    i2t = [best_rank(s[i], {j for j in total if belongs(i, j)}) for i in images]
    t2i = [best_rank(s[:, j], {i for i in images if belongs(i, j)}) for j in total]
    return i2t, t2i


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_ranks_equal_the_definition(seed, share):
    rng = np.random.default_rng(seed)
    pairs = Pairs.from_captions(CAPTIONS)
    assert pairs.texts == ["a", "b", "c", "d", "e"]
    image = rng.integers(-1, 2, (5, 3)).astype(np.float32)
    text = rng.integers(-1, 2, (5, 3)).astype(np.float32)
    i2t, t2i = slow_ranks(image @ text.T, CAPTIONS, share)
    assert rank_captions(image, text, pairs, share).rank.tolist() == i2t
    assert rank_pictures(image, text, pairs, share).rank.tolist() == t2i


def test_a_caption_of_another_picture_is_a_tie_unless_shared():
    pairs = Pairs.from_captions([["x"], ["x"], ["y"]])
    image = np.eye(2, dtype=np.float32)[[0, 0, 1]]
    text = np.eye(2, dtype=np.float32)
    assert rank_captions(image, text, pairs, False).rank.tolist() == [2, 2, 1]
    assert rank_captions(image, text, pairs, True).rank.tolist() == [1, 1, 1]
    assert rank_pictures(image, text, pairs, False).rank.tolist() == [2, 2, 1]
    assert rank_pictures(image, text, pairs, True).rank.tolist() == [1, 1, 1]


@pytest.mark.parametrize("k", [1, 3, 9])
def test_chance_equals_a_simulation(k):
    rng = np.random.default_rng(0)
    positives, total, hits = np.array([1, 4]), 7, 0
    for p in positives:
        draws = rng.permuted(np.tile(np.arange(total), (20_000, 1)), axis=1)[:, :k]
        hits += np.mean((draws < p).any(axis=1)) / len(positives)
    assert chance_recall(positives, total, k) == pytest.approx(hits, abs=0.01)


def evaluate(source, context, fns, **cfg):
    return make_evaluator("retrieval", {"path": source, **cfg}, context)(fns)


def test_metrics_of_a_small_set(memory_source, context, directions, caplog):
    # pictures 0-2 find their text; picture 3 has the text of grey 50 and is found last of four
    source = memory_source([10, 50, 90, 130], [["g 10"], ["g 50"], ["g 90"], ["x 50"]])
    result = evaluate(source, context(), directions)
    sims = unit_rows(directions, [10, 50, 90, 130]) @ unit_rows(directions, [10, 50, 90, 50]).T
    i2t, t2i = slow_ranks(sims, [["w"], ["x"], ["y"], ["z"]], share=False)
    assert i2t[:3] == [1, 2, 1]  # 'x 50' ties with 'g 50'
    for way, ranks in (("i2t", np.array(i2t)), ("t2i", np.array(t2i))):
        for k in (1, 5, 10):
            assert result.metrics[f"{way}_r{k}"] == np.mean(ranks <= k)
        assert result.metrics[f"{way}_median_rank"] == np.median(ranks)
    six = [result.metrics[f"{way}_r{k}"] for way in ("i2t", "t2i") for k in (1, 5, 10)]
    assert result.metrics["r_mean"] == pytest.approx(np.mean(six))
    assert "among 4 pictures only" in caplog.text
    assert result.metrics["chance_i2t_r1"] == 0.25 and result.metrics["chance_t2i_r5"] == 1


def unit_rows(fns, greys):
    image = np.zeros((len(greys), 1, 1, 1), np.uint8)
    image[:, 0, 0, 0] = greys
    rows, _ = fns["embed_image"]({"image": image, "index": None})
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_batches_and_hosts_do_not_change_the_metrics(memory_source, context, directions):
    greys = list(range(0, 220, 17))
    texts = [[f"t {g}", f"u {g + 1 if g % 2 else g}"] for g in greys]
    source = memory_source(greys, texts)
    whole = evaluate(source, context(batch_size=16), directions)
    for size in (1, 4, 5):
        assert evaluate(source, context(size), directions).metrics == whole.metrics
    hosts = [context(batch_size=4, process_index=p, process_count=2) for p in (0, 1)]
    assert evaluate(source, hosts[0], gathered(source, hosts, directions)).metrics == whole.metrics
    assert 0 < whole.metrics["t2i_r1"] < 1


def gathered(source, hosts, fns):
    """The functions as a two-host run offers them: rows of both hosts, whatever host asks."""
    from vlp_jax.core.fields import Picture
    from vlp_jax.data.evaluation import eval_batches
    from vlp_jax.data.fields.base import Setup, make_readers
    from vlp_jax.evals.base import text_batches

    def both(name):
        twins = {}

        def run(batch):
            if name not in twins:
                other = hosts[1]
                if name == "embed_image":
                    fields = {"image": Picture(other.image_size)}
                    place = {"process_index": 1, "process_count": 2, "batch_size": other.batch_size}
                    read = make_readers(fields, Setup({}, train=False))
                    twins[name] = eval_batches(source, read, **place)
                else:
                    texts = np.unique(
                        np.asarray([t for texts in source.texts for t in texts], dtype=object)
                    )
                    twins[name] = text_batches(list(texts), other)
            parts = [fns[name](batch), fns[name](next(twins[name]))]
            return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

        return run

    return {name: both(name) for name in ("embed_image", "embed_text")}


def test_prefix_first_captions_and_another_key(memory_source, context, directions):
    seen = []

    def spy(batch):
        texts = ["".join(map(chr, row)).rstrip("\0") for row in batch["text"]]
        seen.extend(text for text, i in zip(texts, batch["index"], strict=True) if i >= 0)
        return directions["embed_text"](batch)

    fns = directions | {"embed_text": spy}
    source = memory_source([1, 2], [["a 1", "b 1"], ["a 2"]], [{"es": "uno 1"}, {"es": ["dos 2"]}])
    evaluate(source, context(), fns, prefix="photo ", captions=1)
    assert sorted(seen) == ["photo a 1", "photo a 2"]
    seen.clear()
    evaluate(source, context(), fns, caption="es")
    assert sorted(seen) == ["dos 2", "uno 1"]
    with pytest.raises(UserError, match="sample 'k0' has no caption under the JSON key 'se'"):
        evaluate(source, context(), fns, caption="se")


def test_nulls_under_a_caption_key_leave_their_pictures(memory_source, context, directions):
    metas = [{"es": v} for v in ("grey 1", None, [], 7, ["grey 9", None, " "], {"a": 1}, "grey 4")]
    source = memory_source([1, 2, 3, 7, 9, 5, 4], metas=metas)
    result = evaluate(source, context(), directions, caption="es")
    assert result.details["kept"].tolist() == [0, 3, 4, 6]
    assert result.details["pairs"].texts == ["grey 1", "7", "grey 9", "grey 4"]
    assert result.protocol["damaged"] == 3
    with pytest.raises(UserError, match="none of the 2 samples has a caption"):
        nothing = memory_source([1, 2], metas=[{"es": None}] * 2)
        evaluate(nothing, context(), directions, caption="es")
    with pytest.raises(UserError, match="sample 'k1' has no caption under the JSON key 'es'"):
        lacking = memory_source([1, 2], metas=[{"es": "grey 1"}, {}])
        evaluate(lacking, context(), directions, caption="es")


def test_a_damaged_picture_leaves_with_its_captions(memory_source, context, directions):
    greys = list(range(101))
    rest = [g for g in greys if g != 40]
    damaged = evaluate(memory_source(greys, damaged={40}), context(), directions)
    assert damaged.metrics == evaluate(memory_source(rest), context(), directions).metrics
    assert damaged.protocol["damaged"] == 1
    assert damaged.details["kept"].tolist() == rest


def test_best_and_worst_are_the_extremes(memory_source, context, directions):
    source = memory_source([10, 50, 90, 130, 7], [["g 10"], ["g 50"], ["g 90"], ["x 50"], ["g 8"]])
    result = evaluate(source, context(), directions, shown=1)
    i2t = rank_captions(
        result.details["image"], result.details["text"], result.details["pairs"], False
    )
    worst, best = result.figures["i2t"].groups["worst"][0], result.figures["i2t"].groups["best"][0]
    assert worst["rank"] == i2t.rank.max() and best["rank"] == i2t.rank.min() == 1
    assert best["hits"][0] and best["found"][0] in best["right"]
    assert result.figures["t2i"].groups["best"][0]["hits"] == [
        i in result.figures["t2i"].groups["best"][0]["right"]
        for i in result.figures["t2i"].groups["best"][0]["found"]
    ]


def test_the_most_that_strict_recall_can_be():
    """12 pictures of one text, one of them with a text of its own too, and one other picture."""
    captions = [["a"]] * 11 + [["a", "b", "b"], ["c"]]
    bounds = strict_bounds(Pairs.from_captions(captions))
    assert bounds["i2t_r1"] == bounds["i2t_r10"] == pytest.approx(2 / 13)
    assert bounds["t2i_r1"] == pytest.approx((12 * 1 / 12 + 3) / 15)
    assert bounds["t2i_r5"] == pytest.approx((12 * 5 / 12 + 3) / 15)
    few = strict_bounds(Pairs.from_captions([["a"], ["a"], ["b"]]))
    assert few["i2t_r1"] == pytest.approx(1 / 3) and few["t2i_r1"] == pytest.approx(2 / 3)
    assert few["i2t_r5"] == few["t2i_r5"] == 1


def test_bounds_are_reached_by_the_best_model_and_by_no_other():
    captions = [["a"], ["a"], ["b"], ["c", "a"], ["d"]]
    pairs = Pairs.from_captions(captions)
    assert pairs.strangers.tolist() == [2, 2, 0, 0, 2, 0]
    text = np.eye(4, dtype=np.float32)
    image = np.array([[1, 0, 0, 0], [0.9, 0, 0, 0], [0, 1, 0, 0], [0.1, 0, 1, 0], [0, 0, 0, 1]])
    i2t, t2i = (
        way(image.astype("f"), text, pairs, False) for way in (rank_captions, rank_pictures)
    )
    bounds = strict_bounds(pairs)
    assert np.mean(i2t.rank <= 1) == bounds["i2t_r1"] == pytest.approx(3 / 5)
    assert np.mean(t2i.rank <= 1) == bounds["t2i_r1"] == pytest.approx(4 / 6)


def test_equal_captions_bring_both_protocols(memory_source, context, directions):
    source = memory_source([10, 50, 90, 50], [["g 10"], ["g 50"], ["g 90"], ["g 50"]])
    strict = evaluate(source, context(), directions)
    shared = evaluate(source, context(), directions, share_duplicates=True)
    assert strict.metrics["i2t_r1"] == 0.5 and strict.metrics["shared_i2t_r1"] == 1
    assert (
        strict.metrics["strict_max_i2t_r1"] == 0.5 and strict.metrics["strict_max_t2i_r1"] == 0.75
    )
    for key in ("i2t_r1", "t2i_r5", "r_mean", "t2i_median_rank"):
        assert shared.metrics[key] == strict.metrics[f"shared_{key}"]
        assert strict.metrics[key] == shared.metrics[f"strict_{key}"]
    assert not any("chance" in key for key in strict.metrics if key.startswith("shared_"))
    for result in (strict, shared):
        told = result.protocol["equal captions"]
        assert told == "2 of 4 pictures have a caption of another"
    rows = {row["direction"]: row["R@1"] for row in strict.tables["recall"]}
    assert rows["image to text, any equal caption"] == 1
    assert rows["image to text, own pairs at most"] == 0.5
    assert "image to text, own pairs only" in {r["direction"] for r in shared.tables["recall"]}
    alone = evaluate(memory_source([10, 50], [["g 10", "g 10"], ["g 50"]]), context(), directions)
    assert alone.protocol["equal captions"] == "" and len(alone.tables["recall"]) == 4
    assert not any(key.startswith(("strict", "shared")) for key in alone.metrics)


def test_of_equal_ranks_the_larger_margin_is_the_better_one():
    margin = np.array([0.1, 0.5, -0.2, -0.9, 0.3])
    ranked = Ranked(np.array([1, 1, 3, 3, 1]), margin, None, None)
    found = _extremes(ranked, 5, lambda row: int(row))
    assert found["best"] == [1, 4, 0, 2, 3] and found["worst"] == [3, 2, 0, 4, 1]
