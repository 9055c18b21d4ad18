"""The embedded emoji set: what is in it, disjoint concepts, the same bytes when rebuilt."""

import collections
import io
import json
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.data import prepare_emoji
from vlp_jax.data.emoji_records import TONES, concept_of, merge_concepts, split_of
from vlp_jax.data.open import open_source

COUNTS = {"train": 3033, "val": 367, "test": 386}
STYLES = ("noto", "twemoji")
FIELDS = {
    "label": str, "label_es": str, "keywords": list, "keywords_es": list, "category": str,
    "subcategory": str, "emoji": str, "hexcode": str, "base": str, "skin_tone": str,
    "captions": list, "concept": str, "split": str, "style": str,
}  # fmt: skip
FOLDER = pathlib.Path(prepare_emoji.FOLDER)


@pytest.fixture(scope="module")
def shards():
    """(style, split) -> list of (member, bytes; None for pictures)."""
    found = {}
    for style in STYLES:
        for split in COUNTS:
            with tarfile.open(FOLDER / f"{style}-{split}-0000.tar") as tar:
                found[style, split] = [
                    (m, None if m.name.endswith(".png") else tar.extractfile(m).read()) for m in tar
                ]
    return found


@pytest.fixture(scope="module")
def metas(shards):
    """(style, split) -> key -> metadata."""
    return {
        place: {
            m.name.removesuffix(".json"): json.loads(data)
            for m, data in members
            if m.name.endswith(".json")
        }
        for place, members in shards.items()
    }


def _all(metas):
    return [(place, key, meta) for place, group in metas.items() for key, meta in group.items()]


def test_counts_and_equal_keys_in_both_styles(metas):
    assert {place: len(group) for place, group in metas.items()} == {
        (s, k): n for s in STYLES for k, n in COUNTS.items()
    }
    for split in COUNTS:
        assert metas["noto", split].keys() == metas["twemoji", split].keys()


def test_splits_share_no_concept(metas):
    splits, bases = collections.defaultdict(set), collections.defaultdict(set)
    for (_, split), _, meta in _all(metas):
        splits[meta["concept"]].add(split)
        bases[meta["base"]].add(split)
    assert len(splits) == 1682
    assert max(map(len, splits.values())) == 1 and max(map(len, bases.values())) == 1
    tenths = collections.Counter(split for (split,) in splits.values())
    assert all(0.08 < tenths[split] / 1682 < 0.12 for split in ("val", "test"))


def test_split_and_style_are_recorded_in_every_sample(metas):
    for (style, split), _, meta in _all(metas):
        assert (meta["style"], meta["split"]) == (style, split) and split_of(
            meta["concept"]
        ) == split


def test_fields_are_complete(metas):
    tones = {"none", *TONES}
    for _, key, meta in _all(metas):
        assert {name: type(value) for name, value in meta.items()} == FIELDS
        assert all(meta[name] for name in FIELDS if name not in ("keywords", "keywords_es"))
        assert meta["captions"][0] == meta["label"] and len(set(meta["captions"])) == len(
            meta["captions"]
        )
        assert key == "-".join(f"{ord(c):04x}" for c in meta["emoji"] if c != "\ufe0f")
        assert key == meta["hexcode"].replace("-FE0F", "").lower()
        assert set(meta["skin_tone"].split(" + ")) <= tones
        assert (meta["skin_tone"] == "none") == (meta["base"] == meta["hexcode"])


def test_names_differ_and_categories_are_all_in_train(metas):
    train, test = metas["noto", "train"].values(), metas["noto", "test"].values()
    labels = [meta["label"] for split in COUNTS for meta in metas["noto", split].values()]
    assert len(set(labels)) == len(labels)
    assert (
        len({m["category"] for m in train}) == 10 and len({m["subcategory"] for m in train}) == 99
    )
    assert len({m["category"] for m in test}) >= 9 and len({m["subcategory"] for m in test}) >= 70


def test_known_samples(metas):
    groups = {key: meta for group in metas.values() for key, meta in group.items()}
    dog, spain, wave = groups["1f436"], groups["1f1ea-1f1f8"], groups["1f44b-1f3fd"]
    assert (dog["label"], dog["label_es"], dog["category"]) == (
        "dog face",
        "cara de perro",
        "animals & nature",
    )
    assert (dog["subcategory"], spain["subcategory"]) == ("animal mammal", "country flag")
    assert (wave["skin_tone"], wave["base"], wave["label"]) == (
        "medium",
        "1F44B",
        "waving hand: medium skin tone",
    )
    assert "hello" in wave["keywords"] and "saludo" in wave["keywords_es"]
    assert spain["concept"] == groups["1f1ea-1f1e6"]["concept"]  # Ceuta & Melilla: the same picture


def test_tars_are_native_reproducible_and_of_the_stated_size(shards):
    for members in shards.values():
        keys, suffixes = zip(*(m.name.split(".") for m, _ in members), strict=True)
        assert list(keys) == sorted(keys) and suffixes == ("json", "png", "txt") * (len(keys) // 3)
        assert {(m.mtime, m.uid, m.gid, m.mode) for m, _ in members} == {(0, 0, 0, 0o644)}
        labels = {m.name[:-4]: data.decode() for m, data in members if m.name.endswith(".txt")}
        assert all(
            labels[m.name[:-5]] == json.loads(d)["label"]
            for m, d in members
            if m.name.endswith(".json")
        )
    pictures = sum(m.size for members in shards.values() for m, data in members if data is None)
    assert pictures < 23.5e6
    assert sum(path.stat().st_size for path in FOLDER.glob("*.tar")) < 46.5e6


@pytest.mark.parametrize("style", STYLES)
def test_pictures_are_64x64_without_alpha_and_not_blank(style):
    source = open_source(f"builtin:emoji/{style}-test")
    assert len(source) == COUNTS["test"]
    for i in range(0, len(source), 5):
        picture = Image.open(io.BytesIO(source[i]["image"]))
        assert (
            picture.size == (64, 64)
            and picture.mode in ("RGB", "P", "L")
            and "transparency" not in picture.info
        )
        assert np.asarray(picture.convert("RGB")).std() > 1


def test_source_gives_the_label_first():
    example = open_source("builtin:emoji/twemoji-val")[0]
    assert example["text"][0] == example["meta"]["label"] and example["meta"]["style"] == "twemoji"
    assert example["text"] == example["meta"]["captions"]


def test_licences_and_attribution_are_beside_it():
    readme = (FOLDER / "README.md").read_text()
    for words in (
        "Apache-2.0",
        "CC-BY-4.0",
        "Copyright Google",
        "Copyright Twitter",
        "Cal Henderson",
        "Miles Johnson",
    ):
        assert words in readme
    for name in ("emojibase-MIT", "emoji-datasource-MIT", "unicode-cldr-Unicode-3.0"):
        assert f"LICENSES/{name}.txt" in readme
        assert "ermission" in (FOLDER / "LICENSES" / f"{name}.txt").read_text()
    for package in prepare_emoji.PACKAGES:
        assert f"{package.name} {package.version}" in readme


@pytest.mark.parametrize(
    ("base", "concept"),
    [
        ("1F3C3-200D-2640-FE0F-200D-27A1-FE0F", "1F3C3"),  # woman running facing right
        ("1F468-200D-1F680", "1F9D1-200D-1F680"),  # man astronaut
        ("1F469-1F3FD", "1F9D1"),
        ("1F468-200D-1F469-200D-1F466", "1F46A"),  # family
        ("1F469-200D-2764-FE0F-200D-1F48B-200D-1F468", "1F48F"),  # kiss
        ("1F46D", "1F9D1-200D-1F91D-200D-1F9D1"),  # women holding hands
        ("1F3FB", "1F3FB"),  # a skin tone by itself
        ("1F436", "1F436"),
    ],
)
def test_concept_has_no_tone_gender_or_direction(base, concept):
    assert concept_of(base) == concept


def test_equal_pictures_join_concepts_transitively():
    concepts = {key: key.upper() for key in "abcde"}
    joined = merge_concepts(concepts, [["c", "d"], ["b", "c"]])
    assert joined == {"a": "A", "b": "B", "c": "B", "d": "B", "e": "E"}


def _tarball(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo("package/" + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return str(path)


def _png(colour):
    out = io.BytesIO()
    Image.new("RGBA", (64, 64), colour).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def tarballs(tmp_path):
    """Three packages with a heart, a hand in two tones, one emoji drawn in one style only."""
    base = {"group": 0, "subgroup": 1, "tags": ["x", "y"]}
    hand = {"label": "hand", "hexcode": "1F44B", "emoji": "👋", **base}
    hand["skins"] = [{"label": "hand: dark", "hexcode": "1F44B-1F3FF", "emoji": "👋🏿", "tone": 5}]
    data = [{"label": "heart", "hexcode": "2764-FE0F", "emoji": "❤️", **base}, hand]
    data += [
        {"label": "new", "hexcode": "1FAEA", "emoji": "🫪", **base},
        {"label": "A", "hexcode": "1F1E6"},
    ]
    names = {
        "en/messages.json": {"groups": [{"order": 0, "message": "things"}]},
        "meta/groups.json": {"subgroups": {"1": "old-things"}},
        "en/data.json": data,
        "es/data.json": data,
    }
    files = {
        "2764-fe0f.png": _png((255, 0, 0, 128)),
        "1f44b.png": _png("gold"),
        "1f44b-1f3ff.png": _png("brown"),
    }
    noto = {f"img/google/64/{n}": d for n, d in files.items()}
    noto["img/google/64/1faea.png"] = _png("red")
    return [
        _tarball(tmp_path / "g.tgz", noto),
        _tarball(tmp_path / "t.tgz", {f"img/twitter/64/{n}": d for n, d in files.items()}),
        _tarball(tmp_path / "b.tgz", {n: json.dumps(value).encode() for n, value in names.items()}),
    ]  # fmt: skip


def test_main_builds_the_same_bytes_twice(tarballs, tmp_path, monkeypatch):
    paths = dict(zip(prepare_emoji.PACKAGES, tarballs, strict=True))
    monkeypatch.setattr(prepare_emoji, "fetch", lambda package, folder: paths[package])
    reports = [prepare_emoji.main(str(tmp_path / name)) for name in ("one", "two")]
    assert reports[0] == reports[1] and sum(reports[0]["shards"].values()) == 2 * 3
    assert reports[0]["categories"] == {"things": 3} and reports[0]["concepts"] == 2
    for path in (tmp_path / "one").glob("*.*"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert len(list((tmp_path / "one").glob("*.index"))) == 6
    assert (tmp_path / "one" / "README.md").exists() and (tmp_path / "one" / "LICENSES").is_dir()


def test_collect_keeps_what_both_styles_draw_over_white(tarballs):
    metas, pictures = prepare_emoji.collect(tarballs)
    assert list(metas) == ["1f44b", "1f44b-1f3ff", "2764"]
    assert metas["1f44b-1f3ff"]["captions"] == ["hand: dark", "x, y, dark skin tone"]
    assert metas["1f44b-1f3ff"]["concept"] == metas["1f44b"]["concept"] == "1F44B"
    assert metas["2764"]["subcategory"] == "old things"
    assert pictures["noto"]["2764"][0, 0].tolist() == [
        255,
        127,
        127,
    ]  # half-transparent red on white


def test_download_errors_are_one_line(tmp_path, monkeypatch):
    package = prepare_emoji.PACKAGES[0]
    monkeypatch.setattr(prepare_emoji.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="needs the npm client"):
        prepare_emoji.fetch(package, str(tmp_path))
    (tmp_path / f"{package.name}-{package.version}.tgz").write_bytes(b"other")
    with pytest.raises(
        RunError, match=r"emoji-datasource-google@16.0.0: sha256 .* instead of fb5fd131"
    ):
        prepare_emoji.fetch(package, str(tmp_path))


def test_failing_npm_is_named(tmp_path, monkeypatch):
    script = tmp_path / "npm"
    script.write_text("#!/bin/sh\necho 'npm error network' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(prepare_emoji.shutil, "which", lambda name: str(script))
    with pytest.raises(
        RunError, match=r"npm pack emoji-datasource-google@16.0.0 failed: npm error network"
    ):
        prepare_emoji.fetch(prepare_emoji.PACKAGES[0], str(tmp_path))
