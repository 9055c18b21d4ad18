"""`data ...`: one JSON object last, exit codes, and damage named."""

import json
import os
import subprocess
import sys
from argparse import Namespace

import pytest
from generated import sample, tar_bytes

from vlp_jax.cli.data import main, show
from vlp_jax.core.errors import UserError


def run(capsys, *argv) -> tuple[int, dict, str]:
    code = main([*argv, "--json"])
    out = capsys.readouterr().out
    return code, json.loads(out.splitlines()[-1]), out


def test_index_writes_indices_and_counts(shards, tmp_path, capsys):
    code, report, _ = run(capsys, "index", shards)
    assert code == 0 and report["samples"] == 30 and report["damaged"] == {}
    assert [s["samples"] for s in report["shards"]] == [10, 10, 10]
    assert all(os.path.exists(s["index"]) for s in report["shards"])
    assert sorted(p.name for p in tmp_path.glob("*.index")) == [f"x-00{i}.index" for i in range(3)]
    with pytest.raises(UserError, match="no tar source"):
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "a.png").write_bytes(b"x")
        (tmp_path / "d" / "a.txt").write_bytes(b"x")
        main(["index", str(tmp_path / "d")])


def test_check_names_shard_key_and_reason(tmp_path, capsys):
    members = [m for i in range(50) for m in sample(i)]
    bad = {"s0003.png": b"<html>", "s0007.json": b"{", "s0011.png": b""}
    path = tmp_path / "c.tar"
    path.write_bytes(tar_bytes([(n, bad.get(n, d)) for n, d in members]))
    code, report, _ = run(capsys, "check", str(path))
    assert code == 0 and report["passed"] and report["damaged"] == 3
    assert report["damage"] == [
        {"where": f"{path}: 's0003'", "reason": "unreadable_picture"},
        {"where": f"{path}: 's0007'", "reason": "bad_json"},
        {"where": f"{path}: 's0011'", "reason": "empty_file"},
    ]
    code, report, _ = run(capsys, "check", str(path), "--budget", "0")
    assert code == 1 and not report["passed"]
    assert main(["check", str(path), "--budget", "0"]) == 1
    out = capsys.readouterr().out
    assert f"bad_json\t{path}: 's0007'" in out and "FAILED" in out


def test_a_sound_set_has_no_table_of_damage_and_tables_hold_words(shards, capsys):
    assert main(["check", shards]) == 0
    assert capsys.readouterr().out == "30 samples, 0 damaged: passed\n"
    rows = [("dropped", {"checksum": 2, "bad_json": 1}), ("damaged", {}), ("images", 7)]
    show(Namespace(json=False), "bench", ("what", "value"), rows)
    out = capsys.readouterr().out
    assert "checksum 2  bad_json 1" in out and "{" not in out and "7" in out


def test_check_finds_bits_that_flipped_after_indexing(shards, tmp_path, capsys):
    main(["index", shards])
    path = tmp_path / "x-001.tar"
    data = bytearray(path.read_bytes())
    at = data.find(b"number 14")
    data[at] ^= 2
    path.write_bytes(bytes(data))
    capsys.readouterr()
    code, report, _ = run(capsys, "check", shards, "--budget", "0")
    assert code == 1
    assert report["damage"] == [{"where": f"{path}: 's0014'", "reason": "checksum"}]


def test_stats_tell_sizes_lengths_and_keys(shards, capsys):
    _, report, _ = run(capsys, "stats", shards)
    assert report["samples"] == report["looked_at"] == 30
    assert report["width"]["median"] == 10 and report["height"]["max"] == 12
    assert report["formats"] == {"PNG": 30} and report["captions_per_sample"]["mean"] == 2
    assert report["words"]["max"] == 2 and report["meta_keys"]["label"] == 30
    assert main(["stats", shards]) == 0
    assert "PNG 30" in capsys.readouterr().out


def test_convert_and_bench(shards, tmp_path, capsys):
    out = str(tmp_path / "out")
    _, report, _ = run(capsys, "convert", shards, out, "--per-shard", "12")
    assert report["samples"] == 30 and len(report["shards"]) == 3
    options = ["--batch-size", "4", "--image-size", "8", "--seconds", "0.1", "--threads", "1"]
    _, report, _ = run(capsys, "bench", out, *options)
    assert report["images"] >= 4
    rate = report["images"] / report["seconds"]
    assert report["images_per_second"] == pytest.approx(rate, rel=0.02)


@pytest.mark.parametrize("argv", [["--help"], ["check", "--help"]])
def test_help_imports_nothing_heavy(argv):
    out = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vlp_jax", "data", *argv],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage" in out.stdout
    for heavy in ("numpy", "jax", "PIL", "rich", "grain"):
        assert f"| {heavy}\n" not in out.stderr.replace(" ", "").replace("|", "| ")
