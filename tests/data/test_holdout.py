"""What is held out is a matter of the pictures: not of names, order, container or what is added."""

import numpy as np
import pytest
from generated import encode, tar_bytes

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Picture
from vlp_jax.data import content, subset
from vlp_jax.data.content import contents
from vlp_jax.data.holdout import Holdout, training_part
from vlp_jax.data.labels import class_list
from vlp_jax.data.mixture import open_mixture, open_pool
from vlp_jax.data.open import open_source
from vlp_jax.data.pipeline import TrainPipeline
from vlp_jax.data.subset import Subset, stratified, thinned

COUNT = 60


def picture(number):
    return encode(np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8))


def folder(root, names):
    """{name: number of the picture} as files with captions."""
    root.mkdir()
    for name, number in names.items():
        (root / f"{name}.png").write_bytes(picture(number))
        (root / f"{name}.txt").write_text(f"n {number}")
    return str(root)


def numbers(source):
    return sorted(int(source.metadata(i)["text"][0].split()[1]) for i in range(len(source)))


def parts(path, fraction=0.2):
    source = open_pool(path)
    rule = Holdout.of(source, fraction)
    return [rule.part(source, held) for held in (True, False)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    root = tmp_path_factory.mktemp("plain") / "x"
    return folder(root, {f"{i:03d}": i for i in range(COUNT)})


def test_names_order_and_container_do_not_matter(plain, tmp_path):
    held, left = map(numbers, parts(plain))
    assert sorted(held + left) == list(range(COUNT)) and 4 <= len(held) <= 20
    other = folder(tmp_path / "y", {f"{(i * 7) % COUNT:03d}x": i for i in range(COUNT)})
    assert numbers(parts(other)[0]) == held
    order = np.random.default_rng(0).permutation(COUNT).tolist()
    members = [
        (f"k{n}.{e}", d) for n in order for e, d in (("png", picture(n)), ("txt", b"n %d" % n))
    ]
    (tmp_path / "z.tar").write_bytes(tar_bytes(members))
    tar = open_source(str(tmp_path / "z.tar"))
    assert numbers(parts(str(tmp_path / "z.tar"))[0]) == held
    assert sorted(contents(tar).tolist()) == sorted(contents(open_source(plain)).tolist())
    assert contents(tar, np.array([3, 1])).tolist() == contents(tar)[[3, 1]].tolist()


def test_copies_stay_together_and_what_is_added_moves_nothing(plain, tmp_path):
    held = numbers(parts(plain)[0])
    names = {f"{i:03d}": i for i in range(COUNT)} | {f"copy{i}": i for i in range(COUNT)}
    more = folder(tmp_path / "y", names | {f"new{i}": i for i in range(100, 130)})
    again = numbers(parts(more)[0])
    assert [n for n in again if n < 100] == sorted(held * 2)


def test_few_pictures_and_none_that_can_be_read(tmp_path):
    two = folder(tmp_path / "two", {"a": 1, "b": 2, "c": 2})
    for fraction in (0.01, 0.9):
        held, left = parts(two, fraction)
        assert len(held) and len(left) and set(numbers(held)).isdisjoint(numbers(left))
    same = folder(tmp_path / "same", {"a": 1, "b": 1})
    with pytest.raises(UserError, match=r"data\.holdout=0\.1: 1 different pictures are too few"):
        open_mixture(same, (), 0, "global", 0.1)
    source = open_source(two)
    (tmp_path / "two" / "a.png").unlink()
    assert contents(source)[0] == 0 and (contents(source)[1:] > 0).all()
    (tmp_path / "two" / "c.png").write_bytes(picture(3))
    assert 0 in Holdout.of(source, 0.9).part(source, held=False).rows  # a loss is training's


def test_training_reads_the_rest_and_a_mixture_keeps_its_shares(plain, tmp_path):
    held, left = map(numbers, parts(plain, 0.3))
    sizes = dict(fields={"image": Picture(8)}, batch_size=8, seed=0)
    stream = TrainPipeline({"path": plain, "holdout": 0.3, "threads": 1}, **sizes)
    assert stream.num_examples == len(left) and numbers(stream.source) == left
    seen = stream.order.index(np.arange(2 * len(left)))
    assert np.bincount(seen).tolist() == [2] * len(left)
    whole = TrainPipeline({"path": plain, "threads": 1}, **sizes)
    other = TrainPipeline({"path": plain, "holdout": 0.2, "threads": 1}, **sizes)
    assert len({p.fingerprint for p in (stream, whole, other)}) == 3
    second = folder(tmp_path / "y", {f"b{i}": i for i in range(200, 210)})
    source, order = open_mixture(f"{plain},{second}", (3, 1), 0, "global", 0.3)
    at = order.index(np.arange(4096))
    assert at.min() == 0 and at.max() == len(source) - 1
    mine = np.array([source.metadata(i)["meta"]["source"] for i in range(len(source))])
    assert np.bincount(mine[at]).tolist() == [3072, 1024]
    assert [n for n in numbers(source) if n < 100] == left
    lone = folder(tmp_path / "lone", {"a": held[0]})
    with pytest.raises(UserError, match=r"holdout=0\.3: nothing is left of '.*lone'"):
        open_mixture(f"{plain},{lone}", (1, 1), 0, "global", 0.3)
    assert training_part(open_source(plain), 0.0).fingerprint == whole.fingerprint


def test_a_part_numbers_the_classes_of_the_whole(tmp_path):
    for name in ("ant", "bee", "cat"):
        folder(tmp_path / name, {"0": ord(name[0])})
        (tmp_path / name / "0.txt").unlink()
    source = open_source(str(tmp_path))
    some = Subset(Subset(source, [0, 2]), [1])
    assert class_list(some, "class", "x") == ("ant", "bee", "cat")
    assert some.classes == ["ant", "bee", "cat"] and some[0]["meta"]["class"] == "cat"


def test_checksums_of_large_sets_are_kept(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(content, "_KEPT", COUNT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = contents(open_source(plain))
    monkeypatch.setattr(content, "_read", None)
    assert contents(open_source(plain)).tolist() == found.tolist()
    with pytest.raises(TypeError):
        contents(open_source(plain), np.arange(COUNT)[::-1])  # other rows, other file


def test_of_a_huge_set_some_positions_are_looked_at(plain, monkeypatch):
    monkeypatch.setattr(subset, "LOOKED_AT", 20)
    source = open_source(plain)
    some, again = thinned(source, 10), thinned(source, 10)
    assert some.rows.tolist() == again.rows.tolist() and some.rows.max() > 20
    assert len(thinned(source, 30)) == 30


def test_shares_are_right_on_average_and_rounded_at_random():
    """4 of 40 samples in 20 pairs: which pairs, the labels decide; every sample has one chance."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 2)
    chosen = np.zeros(20)
    for _ in range(300):
        names = rng.integers(0, 2**31, 20)[labels]
        picked = stratified(names.tolist(), rng.integers(1, 2**63, 40, np.uint64), 4)
        assert len(set(labels[picked])) == 4  # never both of a pair
        chosen[labels[picked]] += 1
    assert chosen.min() > 30 and chosen.max() < 95
    content = np.arange(1, 9, dtype=np.uint64)
    assert np.bincount(stratified(["a"] * 6 + ["b"] * 2, content, 4) >= 6).tolist() == [3, 1]
