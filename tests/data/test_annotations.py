"""Caption and question sets as downloaded: what an example holds, splits, and what is refused."""

import json
import pathlib

import numpy as np
import pytest
from generated import encode

from vlp_jax.core.errors import UserError
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.open import open_source
from vlp_jax.data.source import check_captions

KARPATHY = {
    "dataset": "coco",
    "images": [
        {
            "filepath": folder,
            "filename": f"COCO_{folder}_{number:012d}.jpg",
            "split": split,
            "cocoid": number,
            "imgid": number - 5,
            "sentences": [{"raw": f"A {word}.", "tokens": ["a", word]} for word in words],
        }
        for folder, number, split, words in (
            ("val2014", 7, "test", ("dog", "cat", "dog")),
            ("train2014", 8, "train", ("bus",)),
            ("val2014", 9, "restval", ("car",)),
        )
    ],
}
COCO = {
    "info": {},
    "images": [
        {"id": 3, "file_name": "c.jpg", "domain": "out-domain", "width": 4},
        {"id": 1, "file_name": "a.jpg", "domain": "in-domain"},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "caption": "one"},
        {"id": 2, "image_id": 3, "caption": "two"},
        {"id": 3, "image_id": 9, "caption": "lost"},
        {"id": 4, "image_id": 1, "caption": "three"},
    ],
}
QUESTIONS = {
    "data_subtype": "val2014",
    "data_type": "mscoco",
    "questions": [
        {"image_id": 42, "question": "What colour is it?", "question_id": 420},
        {"image_id": 42, "question": "How many?", "question_id": 421},
        {"image_id": 43, "question": "Is it?", "question_id": 430},
    ],
}
ANNOTATIONS = {
    "annotations": [
        {
            "question_id": number,
            "image_id": number // 10,
            "question_type": kind,
            "answer_type": "other",
            "multiple_choice_answer": said[0],
            "answers": [{"answer": text, "answer_id": i} for i, text in enumerate(said)],
        }
        for number, kind, said in ((421, "how many", ["2"] * 10), (420, "what", ["red"] * 10))
    ]
}
NAMES = ("v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json")


@pytest.fixture
def write(tmp_path):
    """Writes JSON files and empty grey pictures; returns the folder."""

    def made(files, pictures=()):
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / name).write_text(text)
        for level, name in enumerate(pictures):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(encode(np.full((4, 6, 3), level, np.uint8), "JPEG"))
        return str(tmp_path)

    return made


def examples(path):
    source = open_source(path)
    return source, [source.metadata(i) for i in range(len(source))]


@pytest.mark.parametrize("below", ["", "images/"])
def test_karpathys_splits(write, below):
    names = [f"{e['filepath']}/{e['filename']}" for e in KARPATHY["images"]]
    root = write({"dataset_coco.json": KARPATHY}, [below + name for name in names])
    source, found = examples(f"{root}/dataset_coco.json")
    assert [e["key"] + ".jpg" for e in found] == names
    assert found[0]["text"] == ["A dog.", "A cat."]
    assert found[0]["meta"]["captions"] == ["A dog.", "A cat.", "A dog."]  # what scores count
    assert found[0]["meta"]["cocoid"] == 7 and found[1]["meta"]["split"] == "train"
    with open(f"{root}/{below}{names[2]}", "rb") as file:
        assert source[2]["image"] == file.read()
    _, train = examples(f"{root}/dataset_coco.json:train+restval")
    assert [e["meta"]["cocoid"] for e in train] == [8, 9]
    test, _ = examples(f"{root}/dataset_coco.json:test")
    assert len(test) == 1 and test.fingerprint != source.fingerprint
    with pytest.raises(UserError, match="no split 'tset'; did you mean 'test'"):
        open_source(f"{root}/dataset_coco.json:tset")


def test_pictures_that_lie_in_one_folder(write):
    """Flickr30k has no `filepath`; COCO's two folders are often one."""
    flickr = {"images": [{k: v for k, v in KARPATHY["images"][0].items() if k != "filepath"}]}
    name = flickr["images"][0]["filename"]
    root = write({"dataset_flickr30k.json": flickr, "c.json": KARPATHY}, [f"flickr30k/{name}"])
    assert open_source(f"{root}/dataset_flickr30k.json")[0]["key"] == name[:-4]
    source, _ = examples(f"{root}/c.json")
    assert source[0]["image"] and source.metadata(1)["key"] == "COCO_train2014_000000000008"


def test_coco_and_nocaps(write):
    root = write({"captions_val2014.json": COCO}, ["val2014/c.jpg", "val2014/a.jpg"])
    source, found = examples(f"{root}/captions_val2014.json")
    assert [(e["key"], e["text"]) for e in found] == [("c", ["two"]), ("a", ["one", "three"])]
    assert [e["meta"]["domain"] for e in found] == ["out-domain", "in-domain"]
    assert [(d.reason, d.where[-12:]) for d in source.damage] == [("no_image", "annotation 3")]
    assert source[1]["image"]
    with pytest.raises(UserError, match="no split 'val'; the file has no splits"):
        open_source(f"{root}/captions_val2014.json:val")


def test_questions_and_their_answers(write):
    pictures = [f"val2014/COCO_val2014_{n:012d}.jpg" for n in (42, 43)]
    root = write(dict(zip(NAMES, (QUESTIONS, ANNOTATIONS), strict=True)), pictures)
    for name in NAMES:
        source, found = examples(f"{root}/{name}")
        meta = found[0]["meta"]
        assert meta["question"] == "What colour is it?" and meta["answers"] == ["red"] * 10
        assert (meta["question_type"], meta["answer_type"]) == ("what", "other")
        assert meta["question_id"] == 420 and meta["answer"] == "red"
        assert found[1]["meta"]["answers"] == ["2"] * 10 and len(found) == 2
        assert [d.reason for d in source.damage] == ["no_answers"]
        assert source[0]["image"] == source[1]["image"]
    with pytest.raises(UserError, match=r"no caption column .* it has: image, question"):
        check_captions(source, root)


def test_ids_are_numbers_or_their_digits(write):
    """One file of a set may be written by other hands."""
    lines = [{**e, "image_id": str(e["image_id"])} for e in COCO["annotations"]]
    asked = [{**e, "question_id": str(e["question_id"])} for e in QUESTIONS["questions"]]
    questions = {**QUESTIONS, "questions": asked}
    files = {"captions.json": {**COCO, "annotations": lines}, NAMES[0]: questions}
    root = write({**files, NAMES[1]: ANNOTATIONS})
    _, found = examples(f"{root}/captions.json")
    assert [e["text"] for e in found] == [["two"], ["one", "three"]]
    _, found = examples(f"{root}/{NAMES[0]}")
    assert [e["meta"]["answers"][0] for e in found] == ["red", "2"]


def test_one_id_of_two_is_refused(write):
    """The captions or answers of the one would be given to the other."""
    twice = {**COCO, "images": [*COCO["images"], {"id": "1", "file_name": "b.jpg"}]}
    same = {**COCO, "images": [*COCO["images"], {"id": 1, "file_name": "a.jpg"}]}
    root = write({"captions.json": twice, "same.json": same})
    with pytest.raises(UserError, match=r"image 1 is 'a\.jpg' and 'b\.jpg'"):
        open_source(f"{root}/captions.json")
    assert len(open_source(f"{root}/same.json")) == 2
    first = QUESTIONS["questions"][0]
    for other in ({"question": "Who?"}, {"image_id": 44}):
        asked = {**QUESTIONS, "questions": [*QUESTIONS["questions"], {**first, **other}]}
        root = write(dict(zip(NAMES, (asked, ANNOTATIONS), strict=True)))
        with pytest.raises(UserError, match=f"question_id 420 stands twice in {NAMES[0]}"):
            open_source(f"{root}/{NAMES[0]}")
    lines = ANNOTATIONS["annotations"]
    told = {"annotations": [*lines, {**lines[0], "answers": [{"answer": "3"}]}]}
    root = write(dict(zip(NAMES, (QUESTIONS, told), strict=True)))
    with pytest.raises(UserError, match=f"question_id 421 stands twice in {NAMES[1]}"):
        open_source(f"{root}/{NAMES[0]}")


def test_answers_in_other_forms(write):
    """The commonest alone, numbers, no type."""
    first, second = ANNOTATIONS["annotations"]
    alone = {key: value for key, value in first.items() if key != "answers"}
    bare = {**second, "answers": [7, 7.5, {"answer": "x"}], "answer_type": None}
    told = {"annotations": [alone, bare]}
    root = write(dict(zip(NAMES, (QUESTIONS, told), strict=True)))
    _, found = examples(f"{root}/{NAMES[0]}")
    assert [e["meta"]["answers"] for e in found] == [["7", "7.5", "x"], ["2"]]
    assert found[0]["meta"]["answer_type"] == "" and found[1]["meta"]["answer"] == "2"


def test_the_first_pictures_may_be_missing_and_folders_lie_apart(write):
    _, train, last = (f"{e['filepath']}/{e['filename']}" for e in KARPATHY["images"])
    root = write({"k.json": KARPATHY}, [f"coco/{last}", f"other/{train}"])
    source, _ = examples(f"{root}/k.json")
    assert source[1]["image"] and source[2]["image"] != source[1]["image"]
    with pytest.raises(DamagedSample, match="missing_file"):
        source[0]
    root = write({"c.json": COCO, "l.token": "gone.jpg#0\tx\na.jpg#0\ty\n"}, ["below/a.jpg"])
    assert open_source(f"{root}/c.json")[1]["image"]
    assert open_source(f"{root}/l.token")[1]["image"]
    pair = {"id": 0, "image_0": "x", "image_1": "y", "caption_0": "a", "caption_1": "b"}
    lines = "\n".join(map(json.dumps, [{**pair, "image_0": "w"}, pair]))
    root = write({"examples.jsonl": lines}, ["far/x.jpg", "far/y.jpg"])
    assert open_source(f"{root}/examples.jsonl")[1]["image"], "the suffix of the second"


def test_a_line_ends_at_its_end_alone(write):
    lines = [{**NLVR2[0], "sentence": "Two\u2028lines\x85here."}, NLVR2[1]]
    root = write({"dev.json": "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)})
    _, found = examples(f"{root}/dev.json")
    assert found[0]["meta"]["sentence"] == "Two\u2028lines\x85here." and len(found) == 2


def test_a_test_set_has_questions_alone(write):
    test = QUESTIONS | {"data_subtype": "test-dev2015"}
    root = write({"v2_OpenEnded_mscoco_test-dev2015_questions.json": test})
    _, found = examples(f"{root}/v2_OpenEnded_mscoco_test-dev2015_questions.json")
    assert found[2]["key"] == "test2015/COCO_test2015_000000000043"
    assert "answers" not in found[2]["meta"] and len(found) == 3


NLVR2 = [
    {"sentence": "Both are red.", "label": "True", "identifier": "dev-7-1-0", "synset": "bus"},
    {"sentence": "Both are red.", "label": "False", "identifier": "dev-7-2-0"},
]


@pytest.mark.parametrize("name", ["dev.json", "dev.jsonl"])
@pytest.mark.parametrize("below", ["", "images/dev/"])
def test_sentences_about_two_pictures(write, name, below):
    lines = "\n".join(map(json.dumps, NLVR2)) + "\n"
    pictures = [f"{below}dev-7-{k}-img{i}.png" for k in (1, 2) for i in (0, 1)]
    root = write({name: lines}, pictures)
    source, found = examples(f"{root}/{name}")
    assert [e["meta"]["label"] for e in found] == [1, 0] and found[0]["meta"]["synset"] == "bus"
    assert found[1]["text"] == ["Both are red."] and found[1]["meta"]["identifier"] == "dev-7-2-0"
    levels = [pathlib.Path(root, picture).read_bytes() for picture in pictures]
    assert source[1]["image"] == levels[2]
    assert source[1]["members"]["second_image"] == levels[3] != levels[2]


def test_other_forms_of_pairs(write):
    """Training pictures lie in numbered folders; salesforce/BLIP's lists name the pictures."""
    row = {"sentence": "One.", "label": "True", "identifier": "train-1-0-1", "directory": 3}
    root = write({"train.json": row}, [f"images/train/3/train-1-0-img{i}.png" for i in (0, 1)])
    source, found = examples(f"{root}/train.json")
    assert source[0]["image"] and source[0]["members"]["second_image"] and len(found) == 1
    named = {"sentence": "Two.", "label": "False", "images": ["dev/a.png", "dev/b.png"]}
    root = write({"nlvr_dev.json": [named, {**named, "label": "true"}]}, ["dev/a.png", "dev/b.png"])
    source, found = examples(f"{root}/nlvr_dev.json")
    assert [e["meta"]["label"] for e in found] == [0, 1] and found[0]["key"] == "dev/a"
    assert source[0]["members"]["second_image"] != source[0]["image"]
    flat = {**named, "images": ["far/c.png", "far/d.png"]}
    source, _ = examples(f"{write({'flat.json': [flat]}, ['dev/c.png', 'dev/d.png'])}/flat.json")
    assert source[0]["image"] != source[0]["members"]["second_image"], "found by their own names"
    root = write({"own.jsonl": {"filename": "dev/a.png", "sentence": "x", "identifier": "a-1"}})
    assert "second_image" not in examples(f"{root}/own.jsonl")[1][0]["meta"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON: Expecting"),
        ("[1]", "a table of JSON ends with .jsonl"),
        ({"a": 1, "b": []}, "of no known form .* it holds a, b"),
        ({"images": [{"file_name": "a"}], "annotations": []}, "another form .KeyError: 'id'"),
        ({"images": [{"id": 1, "file_name": 3}], "annotations": []}, "another form .TypeError"),
        ({"images": [], "annotations": []}, "of no known form"),
        ({"questions": []}, "of no known form"),
        ({"images": [None, {"sentences": []}]}, "of no known form"),
        ({"images": [1], "annotations": [{}]}, "of no known form"),
        (
            {"questions": [{"question": "a", "question_id": 1, "image_id": float("inf")}]},
            "another form .*image_id is no whole number in .*Infinity",
        ),
        (
            {"questions": [{"question": "a", "question_id": 7, "image_id": 42.7}]},
            r"ValueError: image_id is no whole number in .*\"question_id\": 7, \"image_id\": 42.7",
        ),
        (
            {"questions": [{"question": "a", "question_id": True, "image_id": 4}]},
            "question_id is no whole number in .*true",
        ),
        (
            {**COCO, "annotations": [{"image_id": True, "caption": "x"}]},
            "image_id is no whole number in .*true",
        ),
        ({"images": [{"id": None, "file_name": "a"}], "annotations": []}, "id is no whole number"),
        (
            {"images": [KARPATHY["images"][0], {**KARPATHY["images"][0], "split": "train"}]},
            "picture 'val2014/COCO_val2014_000000000007.jpg' is in the splits 'test' and 'train'",
        ),
        (ANNOTATIONS, "answers without questions"),
    ],
)
def test_what_is_refused_in_a_line(write, content, message):
    root = write({"x.json": content})
    with pytest.raises(UserError, match=message) as found:
        open_source(f"{root}/x.json")
    assert "\n" not in str(found.value) and "x.json" in str(found.value)


@pytest.mark.parametrize("odd", [None, 3, ["test"], {"a": 1}])
def test_what_is_no_name_is_no_split(write, odd):
    first, *others = KARPATHY["images"]
    root = write({"x.json": {"images": [first, *({**one, "split": odd} for one in others)]}})
    assert len(open_source(f"{root}/x.json:test")) == 1
    with pytest.raises(UserError, match="no split 'tset'; did you mean 'test'"):
        open_source(f"{root}/x.json:tset")


@pytest.mark.parametrize("odd", ["red", {"red": 1}, None])
def test_answers_that_are_no_list_are_no_letters(write, odd):
    """`red` would be the three answers r, e and d."""
    told = [{**one, "answers": odd} for one in ANNOTATIONS["annotations"]]
    root = write(dict(zip(NAMES, (QUESTIONS, {"annotations": told}), strict=True)))
    with pytest.raises(UserError, match=r"another form .TypeError: .*no list"):
        open_source(f"{root}/{NAMES[0]}")


def test_two_entries_of_one_picture_are_one(write):
    """Karpathy's: their captions together; an entry that stands there twice, once."""
    first, *others = KARPATHY["images"]
    more = {**first, "sentences": [{"raw": "More."}]}
    root = write({"x.json": {"images": [first, *others, more, others[0]]}})
    _, found = examples(f"{root}/x.json")
    assert [e["meta"]["cocoid"] for e in found] == [7, 8, 9]
    texts = [e["meta"].get("captions", e["text"]) for e in found]
    assert texts == [["A dog.", "A cat.", "A dog.", "More."], ["A bus."], ["A car."]]


def test_answers_that_are_true_or_false_are_no_words(write):
    told = [{**one, "answers": [{"answer": True}]} for one in ANNOTATIONS["annotations"]]
    root = write(dict(zip(NAMES, (QUESTIONS, {"annotations": told}), strict=True)))
    with pytest.raises(UserError, match=r'true is no word in \{"question_id": 420'):
        open_source(f"{root}/{NAMES[0]}")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"no such file: '.*x\.json'"):
        open_source(f"{tmp_path}/x.json:val")
