"""R15: no damage of a tar is silent: seven kinds are counted and named, the rest survives."""

import io
import os
import pickle
import shutil
import tarfile

import pytest
from generated import headers, sample, tar_bytes

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.core.fields import Picture
from vlp_jax.data import index as index_module
from vlp_jax.data.check import check
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.open import open_source
from vlp_jax.data.pipeline import TrainPipeline
from vlp_jax.data.source import check_captions
from vlp_jax.data.tar import TarSource

COUNT = 20


@pytest.fixture
def whole(tmp_path):
    data = tar_bytes([m for i in range(COUNT) for m in sample(i)])
    path = tmp_path / "shard.tar"
    path.write_bytes(data)
    return path, bytearray(data)


def damaged(kind: str, data: bytearray) -> tuple[bytes, str, set[int]]:
    """Damaged bytes, the reason that must be counted, and the samples that are lost."""
    at = headers(bytes(data))
    start, size = at["s0012.png"]
    if kind == "cut at a member boundary":
        return data[:start], "no_end_blocks", set(range(12, COUNT))
    if kind == "cut in a header":
        return data[: start + 200], "cut_header", set(range(12, COUNT))
    if kind == "cut in the data":
        return data[: start + 512 + size // 2], "cut_data", set(range(12, COUNT))
    if kind == "bad header":
        data[start + 3] ^= 0x10
        return data, "bad_header", {12}
    if kind == "zeroed header":
        data[start : start + 512] = bytes(512)
        return data, "zeroed_header", {12}
    if kind == "no end blocks":
        last, size = at[f"s{COUNT - 1:04d}.json"]
        return data[: last + 512 + -(-size // 512) * 512], "no_end_blocks", set()
    members = [m for i in [*range(COUNT), 12] for m in sample(i)]
    return tar_bytes(members), "duplicate_key", set()


KINDS = (
    "cut at a member boundary",
    "cut in a header",
    "cut in the data",
    "bad header",
    "zeroed header",
    "no end blocks",
    "duplicate key",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("indexed", [False, True])
def test_damage_is_counted_and_named(whole, kind, indexed):
    path, data = whole
    if indexed:
        TarSource(str(path))
    bad, reason, lost = damaged(kind, data)
    path.write_bytes(bad)
    if indexed and kind in ("bad header", "zeroed header"):
        pytest.skip("the index needs no headers: see the next test")
    source = TarSource(str(path))
    keys = [source[i]["key"] for i in range(len(source))]
    assert keys == [f"s{i:04d}" for i in range(COUNT) if i not in lost]
    assert reason in {d.reason for d in source.damage}
    assert all(str(path) in d.where for d in source.damage)
    first = next(d for d in source.damage if d.reason == reason)
    assert "s0012" in first.where or "s0011" in first.where or "s0019" in first.where
    if indexed and kind.startswith("cut"):
        missing = {d.where.rsplit(": ")[-1] for d in source.damage if d.reason == "missing"}
        assert {f"'s{i:04d}'" for i in lost if i != 12} <= missing


@pytest.mark.parametrize("kind", ["bad header", "zeroed header"])
def test_with_an_index_lost_headers_cost_nothing_but_are_reported(whole, kind):
    path, data = whole
    TarSource(str(path))
    bad, reason, _ = damaged(kind, data)
    path.write_bytes(bad)
    source = TarSource(str(path))
    assert [source[i]["key"] for i in range(len(source))] == [f"s{i:04d}" for i in range(COUNT)]
    assert reason in {d.reason for d in check(source)}


@pytest.mark.parametrize("kind", KINDS)
def test_training_stops_above_the_budget(whole, kind):
    path, data = whole
    bad, reason, _ = damaged(kind, data)
    path.write_bytes(bad)
    with pytest.raises(RunError, match=rf"damage_budget=0.*{reason}.*shard.tar"):
        pipeline(path, damage_budget=0.0)
    pipeline(path, damage_budget=0.5)


def pipeline(path, **config):
    config = {"path": str(path), "threads": 1, **config}
    return TrainPipeline(config, {"image": Picture(8)}, batch_size=4, seed=0)


def test_content_flipped_after_indexing_is_found_on_read(whole):
    """A disk that rots keeps the times."""
    path, data = whole
    TarSource(str(path))
    start, _ = headers(bytes(data))["s0007.png"]
    data[start + 512 + 60] ^= 1
    time = path.stat().st_mtime_ns
    path.write_bytes(data)
    os.utime(path, ns=(time, time))
    source = TarSource(str(path))
    with pytest.raises(DamagedSample, match=r"shard.tar: 's0007': checksum"):
        source[7]
    assert source[8]["key"] == "s0008"


def test_a_replaced_tar_is_indexed_again(whole):
    path, _ = whole
    TarSource(str(path))
    path.write_bytes(tar_bytes([m for i in range(50, 53) for m in sample(i)]))
    source = TarSource(str(path))
    assert [source[i]["key"] for i in range(len(source))] == ["s0050", "s0051", "s0052"]
    assert not source.damage


def test_what_is_changed_in_place_is_noticed(tmp_path, monkeypatch):
    """A caption of the same size between the pieces that the probe looks at: not damage, but other
    data; a tar that is only touched is the same, and both are walked once."""
    path = tmp_path / "x.tar"
    data = tar_bytes([m for i in range(COUNT) for m in sample(i)])
    path.write_bytes(data)
    before = TarSource(str(path)).fingerprint
    os.utime(path, ns=(2**62, 2**62))  # a clock that is ahead
    assert TarSource(str(path)).fingerprint == before
    start, size = headers(data)["s0005.txt"]
    at = start + 512
    assert all((at - len(data) * i // 16) % len(data) >= 512 for i in range(16))
    assert at + size < len(data) - 16384
    path.write_bytes(data[:at] + b"NUMBER 5" + data[at + 8 :])
    os.utime(path, ns=(2**62 + 1, 2**62 + 1))
    source = TarSource(str(path))
    assert source[5]["text"][0] == "NUMBER 5" and source[5]["image"] and not source.damage
    assert source.fingerprint != before
    monkeypatch.setattr(index_module, "build", lambda file: pytest.fail("was walked again"))
    assert TarSource(str(path)).fingerprint == source.fingerprint


def test_a_spoiled_index_is_rebuilt(whole):
    path, _ = whole
    TarSource(str(path))
    stored = path.with_suffix(".index")
    good = stored.read_bytes()
    for bad in (b"", good[:100], b"\x80\x04" + good, good[: len(good) // 2]):
        stored.write_bytes(bad)
        assert len(TarSource(str(path))) == COUNT
        assert stored.read_bytes() == good


def test_index_holds_what_it_promises(whole):
    path, data = whole
    TarSource(str(path))
    index = index_module.load(str(path.with_suffix(".index")), str(path))
    at = headers(bytes(data))
    assert index.keys[3] == "s0003"
    assert index.offset[3].tolist()[:2] == [at["s0003.png"][0] + 512, at["s0003.txt"][0] + 512]
    assert index.length[3, 1] == len("number 3")
    assert index.tokens.tolist() == [2] * COUNT


def test_index_goes_to_the_cache_where_the_folder_is_read_only(whole, tmp_path, monkeypatch):
    path, _ = whole
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real = index_module.save

    def save(index, place, shard):
        if place == str(path.with_suffix(".index")):
            raise PermissionError(place)
        real(index, place, shard)

    monkeypatch.setattr(index_module, "save", save)
    assert len(TarSource(str(path))) == COUNT
    monkeypatch.setattr(index_module, "build", lambda file: pytest.fail("was indexed twice"))
    assert len(TarSource(str(path))) == COUNT
    assert os.listdir(tmp_path / "cache" / "vlp_jax" / "index")


def test_long_names_and_pax_headers_are_read(tmp_path):
    key = "folder/" + "k" * 150
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / f"{form}.tar", "w", format=form) as tar:
            for name, data in (("é" + key + ".png", b"p"), ("é" + key + ".txt", b"t")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        source = TarSource(str(tmp_path / f"{form}.tar"))
        assert source[0]["key"] == "é" + key and source[0]["text"] == ["t"]
        assert not source.damage


def test_incomplete_samples_are_counted(tmp_path):
    members = sample(0) + sample(1)[1:] + sample(2)[:1] + sample(3)
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    source = TarSource(str(tmp_path / "x.tar"))
    assert [(d.reason, d.where.rsplit(": ")[-1]) for d in source.damage] == [
        ("no_image", "'s0001'"),
        ("no_caption", "'s0002'"),
    ]
    assert len(source) == 2


def test_the_source_survives_pickling(shards):
    source = TarSource(shards)
    twin = pickle.loads(pickle.dumps(source))
    assert twin[17] == source[17] and len(pickle.dumps(source)) < 4000
    assert twin.fingerprint == source.fingerprint


def test_an_index_that_changes_under_a_worker_stops_it(shards, tmp_path):
    twin = pickle.dumps(TarSource(shards))
    (tmp_path / "x-001.tar").write_bytes(tar_bytes(sample(1)))
    TarSource(shards)
    for _ in range(2):
        with pytest.raises(RunError, match=r"x-001\.index: index changed or vanished while it was"):
            pickle.loads(twin)[17]
        (tmp_path / "x-001.index").unlink(missing_ok=True)


def test_fingerprint_follows_content_not_place(shards, tmp_path):
    first = TarSource(shards).fingerprint
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert open_source(str(tmp_path / "copy")).fingerprint == first
    (tmp_path / "copy" / "x-002.tar").unlink()
    assert open_source(str(tmp_path / "copy")).fingerprint != first


def test_remote_shards_are_read_through_fsspec(whole):
    import fsspec

    path, data = whole
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/a.tar", bytes(data))
    source = TarSource("memory://bucket/a.tar")
    assert source[5]["image"] == TarSource(str(path))[5]["image"]


def test_empty_and_missing_shards_are_user_errors(tmp_path):
    (tmp_path / "e.tar").write_bytes(tar_bytes([]))
    with pytest.raises(UserError, match=r"no samples in .*e.tar"):
        TarSource(str(tmp_path / "e.tar"))
    with pytest.raises(UserError, match=r"no such shard: .*none.tar"):
        TarSource(str(tmp_path / "none.tar"))


def test_pictures_alone_are_samples_without_captions(tmp_path):
    (tmp_path / "p.tar").write_bytes(tar_bytes([sample(0)[0]]))
    source = TarSource(str(tmp_path / "p.tar"))
    assert len(source) == 1 and not source.damage and source[0]["text"] == []
    assert not list(check(source))
    with pytest.raises(UserError, match="no captions in 'here'"):
        check_captions(source, "here")
