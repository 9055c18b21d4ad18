"""`data prepare emoji_scenes`: what the tars say is true of their pictures."""

import contextlib
import dataclasses
import glob
import io
import itertools
import json
import os
import shlex
import tarfile
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from vlp_jax.cli.data import main as data_main
from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Picture, Text
from vlp_jax.data import prepare_emoji_scenes
from vlp_jax.data.export import write_tar
from vlp_jax.data.fields.base import Setup, make_readers, read_row, stack
from vlp_jax.data.open import open_source
from vlp_jax.data.scenes import layout, samples, things
from vlp_jax.data.scenes.changes import TINTS, changed
from vlp_jax.data.scenes.draw import draw
from vlp_jax.data.scenes.flood import edges, reached
from vlp_jax.data.scenes.options import Options
from vlp_jax.data.scenes.questions import ANSWERS
from vlp_jax.data.scenes.readme import command, readme
from vlp_jax.data.scenes.words import unknown, vocabulary
from vlp_jax.data.text import load_tokenizer

LONGEST = 32  # pieces of a text
SIZES = {"train": 60, "val": 20, "test": 40, "noisy": 50, "vqa_train": 180, "vqa_test": 90}
NUMBERS = ("no", "one", "two", "three")
WAYS = {"left of": (1, -1), "right of": (1, 1), **dict.fromkeys(("above", "over"), (0, -1))}
WAYS |= dict.fromkeys(("below", "under"), (0, 1))
PLURALS = {kind.plural: kind.name for kind in things.roster("small")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("scenes") / "out"
    flags = [f"--{name.replace('_', '-')}={size}" for name, size in SIZES.items()]
    command = ["prepare", "emoji_scenes", f"--out={out}", "--processes=1", "--per-shard=45"]
    assert data_main([*command, *flags, "--json"]) == 0
    return str(out)


@pytest.fixture(scope="module")
def splits(folder):
    """{split: examples}."""
    found = {}
    for split in samples.SPLITS:
        source = open_source(os.path.join(folder, f"emoji_scenes-{split}-*.tar"))
        found[split] = [source[i] for i in range(len(source))]
        assert len(source) == SIZES[split.replace("-", "_")]
    return found


def _scenes(splits):
    return [one for split in ("train", "val", "test") for one in splits[split]]


def _map(example, name):
    return np.asarray(Image.open(io.BytesIO(example["members"][name])))


def _counts(meta):
    return Counter(one["name"] for one in meta["objects"])


def _asked(splits):
    """(question record, objects) of all scenes."""
    return [
        (q, one["meta"]["objects"]) for one in _scenes(splits) for q in one["meta"]["questions"]
    ]


def test_the_readme_is_of_the_scenes_and_keeps_the_licences(folder, monkeypatch):
    with open(os.path.join(folder, "README.md")) as file:
        told = file.read()
    assert (
        "| noisy | 50 | " in told
        and "of which 40% have" in told
        and "No objects have\nother" in told
    )
    assert "| vqa-train | 180 |" in told and "1 to 3 objects of 24 kinds" in told
    names = {name.rpartition("-")[0] for name in os.listdir(folder) if name.endswith(".tar")}
    assert names == {f"emoji_scenes-{split}" for split in samples.SPLITS if f"`{split}`" in told}
    for name in ("vocab.txt", "classes.txt", "sheet.png", "EMOJI.md", "LICENSES"):
        assert os.path.exists(os.path.join(folder, name)) and name in told
    with tarfile.open(os.path.join(folder, "emoji_scenes-train-0000.tar")) as tar:
        suffixes = {name.partition(".")[2] for name in tar.getnames()}
    assert len(suffixes) == 6 and all(f"`KEY.{suffix}`" in told for suffix in suffixes)
    (line,) = (line for line in told.splitlines() if " prepare emoji_scenes " in line)
    asked = []
    keep = lambda out, options, told: asked.append(options)  # noqa: E731
    monkeypatch.setattr(prepare_emoji_scenes, "main", keep)
    with contextlib.suppress(TypeError):  # there is nothing to draw
        data_main(shlex.split(line)[4:])
    assert asked == [Options(**SIZES, per_shard=45)]
    twice = Options(objects="all", train=1, changes=0.5, wrong=0.25, processes=3)
    assert command(twice).endswith(
        "emoji_scenes --objects=all --train=1 --wrong=0.25 --changes=0.5 --out=DIR"
    )
    told = readme(twice)
    assert "50% of the objects of `train`" in told and "seg.png" not in told and "25%" in told
    assert "scenes in Noto's style" in told and "(`test`, `vqa-test`)" in told
    told = readme(Options(kinds=3, tints=0.6, styles="both", wrong=0.0))
    assert "of 3 kinds" in told and "60% of the kinds in a scene are drawn, and told" in told
    assert "| test | 500 | scenes in either style," in told and "(`test`" not in told


def test_every_tar_is_told_once_it_is_there(tmp_path):
    none, told = dict.fromkeys(SIZES, 0), []

    def tell(count):
        told.append((count, len(list(tmp_path.glob("*.tar")))))

    prepare_emoji_scenes.main(
        str(tmp_path), Options(**none | {"train": 3, "val": 1}, per_shard=2, processes=1), tell
    )
    assert told == [(2, 1), (1, 2), (1, 3)]


def test_boxes_hold_the_masks_and_barely_overlap(splits):
    for example in _scenes(splits):
        numbers, kinds = _map(example, "instance.png"), _map(example, "seg.png")
        assert numbers.shape == kinds.shape == (96, 96) and numbers.dtype == np.uint8
        objects = example["meta"]["objects"]
        assert set(np.unique(numbers)) == {*range(len(objects) + 1)}
        covered = np.zeros((96, 96), int)
        for number, one in enumerate(objects, 1):
            ys, xs = np.nonzero(numbers == number)
            top, left, height, width = one["box"]
            assert top <= ys.min() and ys.max() < top + height
            assert left <= xs.min() and xs.max() < left + width
            assert min(top, left) >= 2 and max(top + height, left + width) <= 94
            assert one["area"] == len(ys) and set(kinds[numbers == number]) == {one["class"]}
            if len(objects) == 1:
                assert (height, width) == (np.ptp(ys) + 1, np.ptp(xs) + 1)
            covered[top : top + height, left : left + width] += 1
        smallest = min(one["box"][2] * one["box"][3] for one in objects)
        assert (covered > 1).sum() <= 0.05 * 3 * smallest
        assert not kinds[numbers == 0].any()


def test_the_picture_is_white_where_no_object_is_and_edges_surround_them(splits):
    for example in _scenes(splits)[::5]:
        pixels = np.asarray(Image.open(io.BytesIO(example["image"])).convert("RGB"))
        numbers, edge = _map(example, "instance.png"), _map(example, "edge.png")
        assert set(np.unique(edge)) <= {0, 255}
        near = np.pad(numbers > 0, 2)
        near = np.stack([near[y : y + 96, x : x + 96] for y in range(5) for x in range(5)]).any(0)
        assert (pixels[~near] == 255).all()
        for number in range(1, numbers.max() + 1):
            assert (edge[numbers == number] > 0).sum() > 20


def test_counts_in_captions_and_objects_are_true(splits):
    for example in _scenes(splits):
        counts = _counts(example["meta"])
        assert all(one["count"] == counts[one["name"]] for one in example["meta"]["objects"])
        assert len(example["text"]) >= 3 and example["text"] == example["meta"]["captions"]
        for text in example["text"]:
            assert _told(text) == counts, text


def _told(text):
    """{name: count} that a caption speaks of: 'a dog', 'two dogs'; 'the dog' is known already."""
    words, found = text.split(), Counter()
    for before, word in itertools.pairwise(words):
        name = PLURALS.get(word, word)
        if name in PLURALS.values() and before != "the":
            found[name] = NUMBERS.index(before) if word in PLURALS else {"a": 1, "an": 1}[before]
    return found


def _centres(objects, name):
    return [
        (one["box"][0] + one["box"][2] / 2, one["box"][1] + one["box"][3] / 2)
        for one in objects
        if one["name"] == name
    ]


def _way(text):
    return next((way for way in WAYS if f" {way} " in f" {text} "), None)


def _true(objects, way, subject, to):
    """Whether a relation of all of one kind to all of another is true (1), false (-1) or moot."""
    axis, sign = WAYS[way]
    ahead = [sign * (a[axis] - b[axis]) for a in subject for b in to]
    return 1 if min(ahead) >= 16 else -1 if max(ahead) <= -16 else 0


def _names(text):
    words = text.replace("?", "").split()
    return [
        PLURALS.get(word, word)
        for word in words
        if PLURALS.get(word, word) in set(PLURALS.values())
    ]


def test_relations_in_captions_are_true_of_the_boxes(splits):
    said = Counter()
    for example in _scenes(splits):
        objects = example["meta"]["objects"]
        for text in example["text"]:
            parts = text.split(" and ")
            for part in parts:
                names, way = _names(part), _way(part)
                if way and len(names) == 2:
                    pair = (_centres(objects, name) for name in names)
                    assert _true(objects, way, *pair) == 1, (text, objects)
                    said[WAYS[way]] += 1
    assert len(said) == 4 and min(said.values()) >= 5


def test_places_in_captions_are_true_of_the_boxes(splits):
    said = Counter()
    for example in _scenes(splits):
        for part in (part for text in example["text"] for part in text.split(" and ")):
            words = part.replace(" corner", "").replace(" side", "").split(" the ")
            if len(words) == 2 and set(words[1].split()) <= set(
                ["top", "bottom", "left", "right", "middle"]
            ):
                ((y, x),) = _centres(example["meta"]["objects"], _names(part)[0])
                _check_place(words[1], y / 96, x / 96)
                said[words[1]] += 1
    assert len(said) >= 8


def _check_place(place, y, x):
    for value, low, high in ((y, "top", "bottom"), (x, "left", "right")):
        if low in place or high in place:
            assert value < 0.4 if low in place else value > 0.6
        else:
            assert 0.4 < value < 0.6


def test_every_answer_is_true_of_the_boxes(splits):
    kinds = Counter()
    for asked, objects in _asked(splits):
        text, answer, names = asked["question"], asked["answer"], _names(asked["question"])
        counts = Counter(one["name"] for one in objects)
        kinds[asked["question_type"]] += 1
        way = _way(text)
        if way and asked["answer_type"] == "yes/no":
            pair = (_centres(objects, name) for name in names)
            assert _true(objects, way, *pair) == (1 if answer == "yes" else -1), (text, objects)
        elif asked["answer_type"] == "yes/no":
            assert (names[0] in counts) == (answer == "yes")
        elif asked["answer_type"] == "number":
            assert int(answer) == (counts[names[0]] if names else len(objects))
        elif text.startswith("where"):
            ((y, x),) = _centres(objects, names[0])
            _check_place(answer, y / 96, x / 96)
        elif way:
            (to,) = _centres(objects, names[0])
            axis, sign = WAYS[way]
            others = [(n, c) for n in counts for c in _centres(objects, n) if c != to]
            assert [n for n, c in others if sign * (c[axis] - to[axis]) > 0] == [answer]
        elif text.startswith("what do"):
            assert [*counts] == [PLURALS.get(answer, answer)]
        else:
            assert (answer in counts and "corner" in text) or "in the" in text
    assert len(kinds) >= 6


def _words(folder):
    with open(os.path.join(folder, "vocab.txt")) as file:
        return file.read().split("\n")[:-1]


def test_ten_answers_of_which_the_first_is_the_commonest_and_all_are_known_words(splits, folder):
    words = _words(folder)
    assert len(words) < 150 and words[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    for example in [*splits["vqa-train"], *splits["vqa-test"]]:
        meta = example["meta"]
        assert len(meta["answers"]) == ANSWERS
        assert Counter(meta["answers"]).most_common(1)[0][0] == meta["answer"] == meta["answers"][0]
        assert meta["answers"].count(meta["answer"]) >= 7
        assert not unknown([meta["question"], *meta["answers"]], words)
    for example in _scenes(splits):
        turns = example["meta"]["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        texts = [turn["value"].removeprefix("<image>\n") for turn in turns]
        assert not unknown([*example["text"], *texts], words)


def test_no_answer_is_right_without_a_look(splits):
    answers = defaultdict(Counter)
    for asked, _ in _asked(splits):
        answers[asked["question_type"], asked["answer_type"]][asked["answer"]] += 1
    for (begins, kind), found in answers.items():
        best, total = found.most_common(1)[0][1], found.total()
        if total >= 40:
            assert best / total < {"yes/no": 0.65, "number": 0.65, "other": 0.35}[kind], begins
    there = answers["is there", "yes/no"] + answers["do you", "yes/no"]
    assert abs(there["yes"] - there["no"]) <= 1


def test_a_question_sample_is_of_its_scene(splits):
    for of in ("train", "test"):
        for example in splits[f"vqa-{of}"][::7]:
            scene = splits[of][int(example["meta"]["scene"])]
            assert example["image"] == scene["image"] and example["text"] == []
            asked = [one["question"] for one in scene["meta"]["questions"]]
            assert example["meta"]["question"] in asked
        keys = [(one["meta"]["scene"], one["meta"]["question"]) for one in splits[f"vqa-{of}"]]
        assert len(set(keys)) == len(keys)


def test_forty_percent_of_noisy_captions_are_of_another_scene_and_false(splits):
    wrong = [one["meta"] for one in splits["noisy"] if not one["meta"]["clean"]]
    assert len(wrong) == 20
    for meta in wrong:
        here = _told(meta["right_captions"][0])
        for text in meta["captions"]:
            assert set(_told(text)) - set(here)
    for one in splits["noisy"]:
        assert one["text"] == one["meta"]["captions"]
        assert one["meta"]["clean"] == (one["meta"]["captions"] == one["meta"]["right_captions"])


def test_a_wrong_caption_is_never_right_by_accident():
    options = Options(noisy=300)
    kinds = layout.contents(options, "noisy")
    for number in range(300):
        assert set(kinds[samples._stranger(options, number)]) - set(kinds[number])


def test_splits_share_no_content_and_test_has_the_other_style(splits):
    content = {
        split: [_key(_counts(one["meta"])) for one in splits[split]]
        for split in ("train", "val", "test")
    }
    content["noisy"] = [_key(_told(one["meta"]["right_captions"][0])) for one in splits["noisy"]]
    train = set(content["train"]) | set(content["noisy"])
    assert not train & set(content["val"]) and not train & set(content["test"])
    assert not set(content["val"]) & set(content["test"])
    assert len(set(content["test"])) == SIZES["test"] and len(set(content["val"])) == SIZES["val"]
    assert {one["meta"]["style"] for one in splits["test"]} == {"twemoji"}
    assert {one["meta"]["style"] for one in [*splits["train"], *splits["val"]]} == {"noto"}
    picture = layout.scene(Options(**SIZES), "test", 0)
    drawn = _map({"members": {"x": splits["test"][0]["image"]}}, "x")
    one = picture.objects[-1]
    pixels, cover = things.sized("twemoji", one.thing.look, one.side)
    y, x = np.argwhere(cover == 1)[50]
    assert drawn[one.corner[0] + y, one.corner[1] + x].tolist() == pixels[y, x].tolist()


def test_objects_to_learn_from_look_each_different():
    plain = Options(train=30, val=10, noisy=0, vqa_train=0, vqa_test=0)
    options = dataclasses.replace(plain, changes=1.0)
    looks = set()
    for number in range(30):
        scene = layout.scene(options, "train", number)
        one = scene.objects[-1]
        pixels, cover = things.sized("noto", one.thing.look, one.side, one.change)
        looks.add((one.thing, pixels.tobytes()))
        rows = np.flatnonzero((cover >= 0.5).any(1))
        assert rows[0] == one.box[0] - one.corner[0] and len(rows) == one.box[2]
        (top, left), drawn = one.corner, draw(scene).picture
        y, x = np.argwhere(cover == 1)[50]
        assert (drawn[top + y, left + x] == pixels[y, x]).all()
    assert len(looks) == 30
    changes = [
        [one.change for i in range(10) for one in layout.scene(made, split, i).objects]
        for made, split in ((options, "val"), (plain, "train"))
    ]
    assert {*changes[0], *changes[1]} == {-1}


def test_a_change_keeps_the_object_and_fills_its_square():
    drawn = (
        things.pixels("noto", things.SMALL["apple"]),
        things.whole_mask("noto", things.SMALL["apple"]),
    )
    for seed in range(20):
        pixels, mask = changed(*drawn, seed)
        assert pixels.shape == (64, 64, 3) and pixels.dtype == np.uint8
        assert max(mask.any(0).sum(), mask.any(1).sum()) >= 62 and 0.4 < mask.mean() < 0.95
    again = changed(*drawn, 19)
    assert (again[0] == pixels).all() and (again[1] == mask).all()


def test_tinted_kinds_in_both_styles():
    options = Options(kinds=6, most=2, tints=0.6, styles="both", scale=1.4, train=150, val=10)
    options = dataclasses.replace(options, test=15, noisy=0, vqa_train=0, vqa_test=0)
    contents = {split: Counter() for split in ("train", "test")}
    seen, told = Counter(), []
    for split, number in itertools.product(contents, range(options.test)):
        made = samples.sample(options, split, number)
        scene = layout.scene(options, split, number)
        contents[split][tuple(sorted(placed.thing.name for placed in scene.objects))] += 1
        told += made["text"]
        styled = [text.endswith(f" in {scene.style} style") for text in made["text"]]
        seen[scene.style] += 1
        seen["told", any(styled), all(styled)] += 1
        for one, placed in zip(made["meta"]["objects"], scene.objects, strict=True):
            assert one.get("tint", "") == placed.thing.tint
            assert all(placed.thing.name in text for text in made["text"][:1])
            seen["tinted", bool(placed.thing.tint)] += 1
            names = [kind.name for kind in layout.kinds_of(options)]
            assert names[one["class"] - 1] == placed.thing.name.split()[-1]
        labels = made["meta"]["tint"], made["meta"]["kind"]
        assert " ".join(labels).removeprefix("own ") == scene.objects[0].thing.name
    assert not set(contents["train"]) & set(contents["test"])
    assert len(names) == 6 and seen["noto"] > 5 and seen["twemoji"] > 5
    assert seen["tinted", True] > 10 and seen["tinted", False] > 5
    assert seen["told", True, False] > 10
    assert not unknown(told, vocabulary(layout.kinds_of(options), layout.words_of(options)))


def test_a_tint_is_one_hue_on_white_too():
    for tint, hue in TINTS.items():
        pixels, cover = things.sized("noto", (things.SMALL["cloud"], tint), 64)
        hsv = np.asarray(Image.fromarray(pixels[cover == 1][None]).convert("HSV"), int)[0]
        if hue is None:
            assert hsv[:, 1].max() == 0
        else:
            apart = np.abs((hsv[:, 0] - hue + 128) % 256 - 128)
            assert np.median(apart) <= 2 and np.percentile(apart, 95) <= 6
            assert np.percentile(hsv[:, 1], 5) >= 100


def _key(counts):
    return tuple(sorted(counts.items()))


def test_a_sample_depends_on_its_number_alone(folder, tmp_path):
    options = Options(**SIZES, processes=7)
    for cached in (layout.contents, layout.scene, samples._picture, samples._wrong):
        cached.cache_clear()
    for split, numbers in (("noisy", range(45, 50)), ("vqa-train", range(135, 180))):
        path = tmp_path / f"{split}.tar"
        write_tar(str(path), (samples.sample(options, split, number) for number in numbers))
        (there,) = glob.glob(f"{folder}/emoji_scenes-{split}-{numbers[0] // 45:04d}.tar")
        with open(there, "rb") as file:
            assert path.read_bytes() == file.read()
    other = samples.sample(Options(**SIZES, seed=1), "train", 3)
    assert other["image"] != samples.sample(options, "train", 3)["image"]


def test_fields_find_questions_answers_and_maps(folder):
    tokenizer = load_tokenizer(os.path.join(folder, "vocab.txt"), LONGEST)
    fields = {"question": Text(LONGEST, tokenizer.vocab_size, tokenizer="a")}
    fields |= {"answer": Text(8, tokenizer.vocab_size, tokenizer="a")}
    data = {"fields": {"question": {"key": "question"}, "answer": {"key": "answers"}}}
    readers = make_readers(fields, Setup(data, dict.fromkeys(fields, tokenizer), train=False))
    source = open_source(os.path.join(folder, "emoji_scenes-vqa-test-*.tar"))
    rng = lambda draw: np.random.default_rng(0)  # noqa: E731
    row = {reader.name: value for reader, value, _ in read_row(readers, source, 4, rng)}
    ids = stack(readers, [row])["question"][0]
    pieces = _words(folder)
    read = [pieces[i] for i in ids if i]
    assert read[0] == "[CLS]" and read[-1] == "[SEP]"
    assert " ".join(read[1:-1]) == source[4]["meta"]["question"]
    maps = {"edge": Picture(96), "seg": Picture(96)}
    data = {"fields": {"edge": {"member": "edge.png"}, "seg": {"member": "seg.png"}}}
    readers = make_readers(maps, Setup(data, train=False))
    source = open_source(os.path.join(folder, "emoji_scenes-test-*.tar"))
    row = {reader.name: value for reader, value, _ in read_row(readers, source, 0, rng)}
    np.testing.assert_array_equal(row["seg"][0][..., 0], _map(source[0], "seg.png"))


def test_holes_belong_to_the_mask_and_walls_stop_the_flood():
    ring = np.ones((9, 9), bool)
    ring[2:7, 2:7] = False
    ring[4, 4] = True  # white inside
    edge = np.pad(np.zeros((7, 7), bool), 1, constant_values=True)
    assert (~reached(ring & edge, ring)).sum() == 25
    panda = things.pixels("noto", things.SMALL["panda"])
    mask = things.whole_mask("noto", things.SMALL["panda"])
    assert (mask & (panda.min(-1) >= things.WHITE)).sum() > 100  # a white face on white paper
    square = np.full((20, 20, 3), 255, np.uint8)
    square[5:15, 5:15, 2] = 0  # yellow
    found = edges(square) > 0
    assert found[4:16, 4:16].sum() == found.sum() and 28 <= found.sum() <= 44
    assert not found[7:13, 7:13].any() and found[8, 3:7].any()


def test_names_of_all_emoji_become_words():
    assert things.ascii_words("São Tomé & Príncipe: 1st") == "sao tome principe 1st"
    for name, one, several in (
        *(("unicorn", "a unicorn", "unicorns"), ("owl", "an owl", "owls")),
        *(("bus", "a bus", "buses"), ("butterfly", "a butterfly", "butterflies")),
        *(("socks", "a socks", "socks"), ("key", "a key", "keys"), ("torch", "a torch", "torches")),
    ):
        kind = things.Thing(name, "")
        assert (kind.one, kind.plural) == (one, several)
    assert not things.Thing("dog face", "").apart(things.Thing("dog", ""))


def test_help_tells_the_default_of_every_option(capsys):
    with pytest.raises(SystemExit):
        data_main(["prepare", "--help"])
    told = " ".join(capsys.readouterr().out.split()).partition(" composed scenes ")[2]
    for field in dataclasses.fields(Options):
        rest = told.partition(f"--{field.name.replace('_', '-')} ")[2]
        assert rest.partition("(default ")[2].partition(")")[0] == str(field.default)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--objects=smal"], "--objects is 'smal'; did you mean 'small'"),
        (["--most=0"], "--most=0 is out of range; it must be from 1 to 4"),
        (["--most=1"], "--most=1 needs --tints: untinted, test would show kinds that train never"),
        (["--vqa-train=-1"], "--vqa-train=-1 is out of range"),
        (["--source=x"], "--source is an option of fashion_mnist"),
        ([f"--{name.replace('_', '-')}=0" for name in SIZES], "every split is of size 0"),
    ],
)
def test_bad_options_are_one_line(tmp_path, flags, message):
    with pytest.raises(UserError, match=message) as caught:
        data_main(["prepare", "emoji_scenes", f"--out={tmp_path / 'out'}", *flags])
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_options_of_another_set_and_full_folders_are_refused(tmp_path, folder):
    with pytest.raises(UserError, match="--per-shard is an option of emoji_scenes"):
        data_main(["prepare", "fashion_mnist", f"--out={tmp_path}", "--per-shard=3"])
    with pytest.raises(UserError, match="--out=DIR"):
        data_main(["prepare", "emoji_scenes"])
    with pytest.raises(UserError, match="has tars of emoji_scenes already"):
        data_main(["prepare", "emoji_scenes", f"--out={folder}"])


def test_the_report_counts_what_is_there(tmp_path, capsys):
    command = ["prepare", "emoji_scenes", f"--out={tmp_path}", "--processes=1", "--most=4"]
    sizes = [f"--{name.replace('_', '-')}=0" for name in SIZES if name != "train"]
    assert data_main([*command, *sizes, "--train=12", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["shards"] == {"emoji_scenes-train-0000.tar": 12}
    counts = report["counts"]["train"]
    assert sum(n for what, n in counts.items() if what.startswith("of ")) == counts["samples"] == 12
    assert counts["of 4"] and Image.open(report["sheet"]).size[0] > 1000
    assert (
        os.path.isdir(tmp_path / "LICENSES")
        and (tmp_path / "classes.txt").read_text()[:5] == "apple"
    )
