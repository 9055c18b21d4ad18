"""`data ...`: one JSON object last, exit codes, and damage named."""

import itertools
import json
import os
import subprocess
import sys

import pytest
from generated import fill, sample, tar_bytes

from vlp_jax.cli.data import main
from vlp_jax.core.errors import UserError
from vlp_jax.report.console import show


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
    assert capsys.readouterr().out == "30 samples, 0 damaged of 7 allowed: passed\n"
    rows = [("dropped", {"checksum": 2, "bad_json": 1}), ("damaged", {}), ("images", 7)]
    show("bench", ("what", "value"), rows)
    out = capsys.readouterr().out
    assert "checksum 2  bad_json 1" in out and "{" not in out and "7" in out


def test_check_finds_bits_that_flipped_after_indexing(shards, tmp_path, capsys):
    main(["index", shards])
    path = tmp_path / "x-001.tar"
    data = bytearray(path.read_bytes())
    at = data.find(b"number 14")
    data[at] ^= 2
    was = path.stat().st_mtime_ns  # what rots is not written
    path.write_bytes(bytes(data))
    os.utime(path, ns=(was, was))
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
    assert report["kilobytes"]["median"] == 0.1
    assert main(["stats", shards]) == 0
    assert "PNG 30" in capsys.readouterr().out


def test_stats_count_what_cannot_be_read(tmp_path, capsys):
    for name, data in [m for i in range(8) for m in sample(i)]:
        (tmp_path / name).write_bytes(data)
    for i, data in enumerate((b"", b"<html>", sample(0)[0][1][:40], b"II*\0" + bytes(90))):
        (tmp_path / f"s{i:04d}.png").write_bytes(data)
    (tmp_path / "s0004.json").write_bytes(b"[")
    (tmp_path / "notes.md").write_bytes(b"x")
    _, report, _ = run(capsys, "stats", str(tmp_path))
    assert (report["samples"], report["looked_at"], report["unreadable"]) == (8, 8, 5)
    assert report["formats"] == {"PNG": 3}
    line = f"{tmp_path}: 8 pictures with captions in texts of their names; left out: .md 1"
    assert report["notes"] == [line]


def test_check_shows_what_was_left_out(tmp_path, capsys):
    for name, data in [m for i in range(3) for m in sample(i)]:
        (tmp_path / name).write_bytes(data)
    (tmp_path / ".hidden.png").write_bytes(b"x")
    (tmp_path / "s0003.png").symlink_to("nowhere")
    line = f"{tmp_path}: 3 pictures with captions in texts of their names; left out: hidden 1"
    code, report, _ = run(capsys, "check", str(tmp_path), "--budget=0.5")
    assert code == 0 and report["notes"] == [line]
    assert report["damage"] == [{"where": f"{tmp_path}/s0003.png", "reason": "missing_file"}]
    assert main(["check", str(tmp_path), "--budget=0.5"]) == 0
    assert line in capsys.readouterr().out.splitlines()


def test_names_of_any_bytes_are_shown(tmp_path):
    """On a terminal that refuses what it cannot show, as UTF-8 ones do in most languages."""
    root = os.path.join(os.fsencode(tmp_path), b"odd\xff")
    os.makedirs(root)
    for name, data in ((b"a\xfe\n.png", b"junk"), (b"a\xfe\n.txt", b"a"), (b"b.tar", b"x" * 2000)):
        place = os.path.join(root, b"tars", name) if name == b"b.tar" else os.path.join(root, name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as file:
            file.write(data)
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}

    def lines(path, *flags):
        command = [sys.executable, "-m", "vlp_jax", "data", "check", path, *flags]
        out = subprocess.run(command, capture_output=True, env=strict, check=False)
        assert out.returncode == 1, out.stderr
        return out.stdout.decode(), out.stderr.decode()

    shown = rf"{tmp_path}/odd\udcff"
    out, _ = lines(root)
    assert f"unreadable_picture\t{shown}" + r"/a\udcfe\n.png" in out.splitlines()
    assert json.loads(lines(root, "--json")[0])["damage"][0]["where"] == shown + r"/a\udcfe\n.png"
    _, error = lines(os.path.join(root, b"tars"))
    assert error.startswith("error: no sample left in ") and error.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [("stats", "--limit=-1"), ("stats", "--limit=0"), ("check", "--threads=0"),
     ("check", "--limit=-1"), ("check", "--budget=-1"), ("check", "--budget=nan"),
     ("bench", "--threads=0"), ("bench", "--workers=-1")],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(words, shards):
    with pytest.raises(UserError, match=rf"^{words[1]}(\.0)? must be at least [01]$"):
        main([words[0], shards, words[1]])


def captioned(folder, texts):
    for number, text in enumerate(texts):
        (folder / f"{number:02d}.png").write_bytes(dict(sample(number))[f"s{number:04d}.png"])
        data = text if isinstance(text, bytes) else text.encode()
        (folder / f"{number:02d}.txt").write_bytes(data)


def test_stats_show_captions_as_the_tokenizer_reads_them(tmp_path, capsys):
    strange = ["A tabby-cat &amp; dog", "stra\u00dfe\u200b\nx", "word " * 100, b"caf\xe9 x", "two"]
    captioned(tmp_path, strange)
    _, report, _ = run(capsys, "stats", str(tmp_path))
    shown = report["captions"]
    assert [c["tokens"] for c in shown] == [8, 8, 77, 3]
    assert shown[0]["pieces"] == ["a", "tabby", "-", "cat", "&", "dog"]
    assert shown[0]["caption"] == strange[0] and not shown[0]["cut"]
    assert shown[1]["caption"] == "straße\\u200b\\nx", "what cannot be seen is shown"
    assert shown[1]["pieces"] == ["stra", "<127>", "<253>", "e", "\\u200b", "x"]
    assert shown[2]["pieces"] == ["word"] * 75 and shown[2]["cut"]
    assert report["unreadable"] == 1
    _, report, _ = run(capsys, "stats", str(tmp_path), "--tokenizer", "bytes")
    assert report["captions"][3]["pieces"] == ["t", "w", "o"]
    assert main(["stats", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "a|tabby|-|cat|&|dog" in out and "77, cut" in out and "…" in out
    for path in tmp_path.glob("*.txt"):
        path.unlink()
    _, report, _ = run(capsys, "stats", str(tmp_path))
    assert report["words"] == {} and report["captions"] == []
    assert main(["stats", str(tmp_path)]) == 0 and "pieces" not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"data\.tokenizer='clap' is unknown; did you mean 'clip'"):
        main(["stats", str(tmp_path), "--tokenizer", "clap"])


def test_stats_show_ten_captions_from_all_over(shards, capsys):
    _, report, _ = run(capsys, "stats", shards)
    found = [int(c["caption"].split()[1]) for c in report["captions"]]
    assert found == sorted(set(found)) and len(found) == 10
    assert {i // 10 for i in found} == {0, 1, 2}
    assert len({b - a for a, b in itertools.pairwise(found)}) > 2  # no stride
    _, again, _ = run(capsys, "stats", shards)
    assert again["captions"] == report["captions"]


def test_check_counts_bad_and_tells_lost_characters(tmp_path, capsys):
    captioned(tmp_path, ["caf\ufffd", b"caf\xe9 x", "a dog", "\ufffd", "b", "c", "d", "e"])
    code, report, _ = run(capsys, "check", str(tmp_path), "--budget", "0.2")
    assert code == 0 and report["damaged"] == 1 and report["reasons"] == {"bad_text": 1}
    assert [os.path.basename(d["where"]) for d in report["noted"]] == ["00.png", "03.png"]
    assert {d["reason"] for d in report["noted"]} == {"lost_character"}
    assert "01.png" in report["damage"][0]["where"]
    assert main(["check", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "lost_character (kept)" in out and f"lost_character\t{tmp_path}" in out


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


def test_a_missing_caption_is_not_called_damage(tmp_path, capsys):
    fill(tmp_path, "a.png", "a.txt", "b.png")
    assert main(["check", str(tmp_path)]) == 1
    assert "1 damaged or incomplete of" in capsys.readouterr().out
    (tmp_path / "b.txt").write_text("b")
    assert main(["check", str(tmp_path)]) == 0
    assert "0 damaged of" in capsys.readouterr().out
