"""The contract of evaluators: schema, embedding loop, text batches."""

import numpy as np
import pytest

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.evals.base import (
    embed_all,
    embed_some,
    embed_texts,
    make_evaluator,
    text_batches,
    unit_rows,
)


def identity(batch):
    return batch["rows"], batch["index"]


def batch(rows, index):
    return {"rows": np.asarray(rows, np.float32)[:, None], "index": np.asarray(index, np.int32)}


def test_rows_go_where_their_index_says_and_padding_is_dropped():
    batches = [batch([30, 10, 99], [2, 0, -1]), batch([20, 98, 97], [1, -1, -1])]
    np.testing.assert_array_equal(embed_all(identity, batches, 3), [[10], [20], [30]])


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([batch([1, 2], [0, 1])], r"1 of 3 rows were never embedded, first \[2\]"),
        ([batch([1, 2, 3, 4], [0, 1, 2, 3])], "row 3 of 3"),
        ([batch([1, np.nan, 3], [0, 1, 2])], r"1 of 3 embeddings are not finite, first \[1\]"),
        ([], "none of 3 rows"),
    ],
)
def test_missing_extra_and_non_finite_rows_stop_the_run(batches, message):
    with pytest.raises(RunError, match=message):
        embed_all(identity, batches, 3)


def test_embed_some_tells_which_rows_came():
    rows, seen = embed_some(identity, [batch([5, 7], [2, -1])], 3)
    assert seen.tolist() == [False, False, True]
    assert rows[:, 0].tolist() == [0, 0, 5]


def test_two_hosts_share_every_text_once(context):
    seen = []
    for process in (0, 1):
        host = context(batch_size=4, process_index=process, process_count=2)
        batches = list(text_batches([f"t{i}" for i in range(5)], host))
        assert [b["text"].shape[0] for b in batches] == [2, 2]
        for b in batches:
            seen += zip(b["index"].tolist(), map(chr, b["text"][:, 1]), strict=True)
    real = sorted(pair for pair in seen if pair[0] >= 0)
    assert real == [(i, str(i)) for i in range(5)]


def test_a_batch_that_the_hosts_cannot_share_is_refused(context):
    with pytest.raises(UserError, match="batch_size=5 cannot be shared by 2 processes"):
        context(batch_size=5, process_count=2)


def test_equal_texts_are_embedded_once_and_returned_each(context):
    rows_seen = []

    def first_letter(batch):
        rows_seen.append(int((batch["index"] >= 0).sum()))
        return batch["text"][:, :1].astype(np.float32), batch["index"]

    out = embed_texts(first_letter, ["b", "a", "b", "b"], context())
    assert out[:, 0].tolist() == [98, 97, 98, 98]
    assert sum(rows_seen) == 2


def test_unit_rows_and_a_zero_row():
    np.testing.assert_allclose(
        unit_rows(np.array([[3.0, 4.0], [0, 0]])), [[0.6, 0.8], [0, 0]], atol=1e-7
    )


@pytest.mark.parametrize(
    ("name", "cfg", "message"),
    [
        ("retreival", {}, "unknown evaluator 'retreival'; did you mean 'retrieval'"),
        ("samples", {}, "unknown evaluator 'samples'; valid: accuracy, caption"),
        ("retrieval", {"prefx": ""}, "retrieval.prefx: unknown key; did you mean 'prefix'"),
        ("retrieval", {"context": None}, "retrieval.context: unknown key"),
        ("retrieval", {"captions": "5"}, "retrieval.captions is '5', it must be of type int"),
        ("retrieval", {"captions": -1}, "retrieval.captions is -1"),
        ("retrieval", {"share_duplicates": 1}, "must be of type bool"),
        ("retrieval", {"how": 3}, "retrieval.how is 3, it must be of type Mapping"),
        ("zeroshot", {"templates": "imagenet_7"}, "unknown templates 'imagenet_7'; did you mean"),
        ("knn", {"temperature": 0}, "temperature > 0"),
        ("probe", {"val_fraction": 0.9}, "val_fraction <= 0.5"),
    ],
)
def test_a_wrong_config_is_refused_with_the_nearest_name(name, cfg, message, context):
    with pytest.raises(UserError, match=message):
        make_evaluator(name, cfg, context())


def test_config_values_reach_the_evaluator(context):
    knn = make_evaluator("knn", {"k": [1, 3], "temperature": 1, "label": "c"}, context())
    assert (knn.k, knn.temperature, knn.label) == ((1, 3), 1.0, "c")


def test_a_method_without_the_function_is_refused(context):
    with pytest.raises(UserError, match=r"needs 'embed_image'; the method offers .'features'."):
        make_evaluator("retrieval", {"path": "x"}, context())({"features": identity})
