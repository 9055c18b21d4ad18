"""The JSON files in which caption and question sets are released, as rows of pictures.

Karpathy's splits (dataset_coco.json, dataset_flickr8k.json, dataset_flickr30k.json), COCO's
captions (captions_val2014.json), NoCaps (its form, with a `domain`), VQA's questions with their
annotations beside them (v1, v2, OK-VQA), SugarCrepe's categories (data/contrasts.py), NLVR2's
sentences about two pictures (data/pairs.py). The file exists so that they are read as downloaded.
"""

import functools
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vlp_jax.core.errors import UserError, nearest
from vlp_jax.data.caption_list import LOOKED_AT, place_of
from vlp_jax.data.contrasts import is_sugar_crepe, sugar_crepe
from vlp_jax.data.damage import Damage
from vlp_jax.data.encoding import read_text
from vlp_jax.data.pairs import IMAGES, PAIRS, is_pair, pair_lines, pair_of

Row = tuple[int, dict[str, Any]]  # number from 1, columns
Read = tuple[list[dict[str, Any]], list[Damage]]
_CONTRASTS = "contrasts"
SHOWN = 120  # letters of an entry in an error
_NAMED = re.compile(r"(.*\.json)(?::([\w+-]+))?", re.IGNORECASE | re.DOTALL)


def split_path(path: str) -> tuple[str, str]:
    """File and split of `FILE.json:SPLIT`; ('', '') of what is no such path."""
    found = _NAMED.fullmatch(path)
    if not found:
        return "", ""
    return (path, "") if os.path.exists(path) else (found[1], found[2] or "")


def read_annotations(path: str) -> tuple[list[Row], list[Damage], str]:
    """Rows {image, captions or question, ...}, damage, and the folder that the pictures are named
    from: that of the file, or one below it.

    Args:
      path: FILE.json, with `:SPLIT` or `:SPLIT+SPLIT` those parts alone.

    Raises:
      UserError: no JSON, no known form, no such split, questions without their annotations.
    """
    file, split = split_path(path)
    rows, damage = _read(file)
    if split:
        rows = _part(rows, split, file)
    if not rows:
        raise UserError(f"no pictures in {path!r}")
    folder = placed(os.path.dirname(os.path.abspath(file)), rows)
    return list(enumerate(rows, 1)), damage, folder


def _load(path: str) -> dict[str, Any]:
    text = read_text(path)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        found = pair_lines(text)
        if not found:
            raise UserError(f"{path!r} is no JSON: {error}") from None
    entries = found if isinstance(found, list) else [found]
    if entries and all(map(is_pair, entries)):
        return {PAIRS: entries}
    if isinstance(found, dict):
        return found
    raise UserError(f"{path!r}: a table of JSON ends with .jsonl and holds one object a line")


def _read(path: str) -> Read:
    found = _load(path)
    found = {_CONTRASTS: [found]} if is_sugar_crepe(found) else found
    for keys, key, read in _FORMS:
        first = _first(found, keys[0])
        if all(isinstance(found.get(name), list) for name in keys) and (not key or key in first):
            try:
                rows, damage = read(path, found)
                "".join(row["image"] for row in rows)  # TypeError where one is no name
                return rows, damage
            except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
                what = f"{type(error).__name__}: {error}"
                raise UserError(f"{path!r}: an entry of another form ({what})") from None
    held = ", ".join(list(found)[:8]) or "nothing"
    raise UserError(
        f"{path!r}: of no known form (Karpathy's splits, COCO's or NoCaps' captions, VQA's "
        f"questions, SugarCrepe; a table of JSON ends with .jsonl); it holds {held}"
    )


def _first(found: Mapping[str, Any], key: str) -> Any:
    some = found.get(key)
    return some[0] if isinstance(some, list) and some and isinstance(some[0], dict) else {}


def _part(rows: list[dict[str, Any]], split: str, path: str) -> list[dict[str, Any]]:
    """Rows of some splits, a+b. Raises UserError for one that is not there."""
    known = sorted({row["split"] for row in rows if isinstance(row.get("split"), str)})
    for name in split.split("+"):
        if name not in known:
            hint = nearest(name, known) or "; the file has no splits"
            raise UserError(f"{path}:{split}: no split {name!r}{hint}")
    return [row for row in rows if row.get("split") in split.split("+")]


def placed(folder: str, rows: Sequence[dict[str, Any]]) -> str:
    """The folder from which the pictures of rows are named, told by some of each folder's own.
    Where none is under its folder's name, all are looked for by their own name, which the rows then
    have; where two folders lie apart, the rows have the way to theirs."""
    some: dict[str, list[str]] = {}
    for row in rows:
        names = some.setdefault(os.path.dirname(row["image"]), [])
        if len(names) < LOOKED_AT:
            names.append(row["image"])
    found: dict[str, str] = {}
    for own, names in some.items():
        near = [base for base in dict.fromkeys(found.values()) if base]
        there = (b for b in near for name in names if os.path.exists(os.path.join(b, name)))
        found[own] = next(there, "")
        if not found[own] and len(found) <= LOOKED_AT:
            found[own] = place_of(folder, names)
    if not any(found.values()):
        base = place_of(folder, (os.path.basename(row["image"]) for row in rows[:LOOKED_AT]))
        for row in rows if base else ():
            row |= {key: os.path.basename(row[key]) for key in IMAGES if key in row}
        return base or folder
    base = next(filter(None, found.values()))
    for row in rows if len({*found.values()} - {base, ""}) else ():
        way = os.path.relpath(found[os.path.dirname(row["image"])] or base, base)
        row |= {key: os.path.normpath(os.path.join(way, row[key])) for key in IMAGES if key in row}
    return base


def _karpathy(path: str, found: dict[str, Any]) -> Read:
    """One row a picture; of two entries of one picture, which are in one split, the captions."""
    rows: dict[str, dict[str, Any]] = {}
    for entry in found["images"]:
        name = os.path.join(entry.get("filepath", ""), entry["filename"])
        texts = [sentence["raw"] for sentence in entry["sentences"]]
        ids = {key: entry[key] for key in ("cocoid", "imgid") if key in entry}
        row = {"image": name, "captions": texts, "split": entry["split"], **ids}
        known = rows.setdefault(name, row)
        if known["split"] != row["split"]:
            splits = f"{known['split']!r} and {row['split']!r}"
            raise ValueError(f"picture {name!r} is in the splits {splits}")
        if known is not row and known["captions"] != texts:
            known["captions"] = known["captions"] + texts
    return list(rows.values()), []


def _coco(path: str, found: dict[str, Any]) -> Read:
    """One row a picture, in their order, with its captions in theirs; a NoCaps picture's domain."""
    rows, damage = {}, []
    for entry in found["images"]:
        kept = {key: entry[key] for key in ("id", "domain") if key in entry}
        row = {"image": entry["file_name"], "captions": [], **kept}
        other = rows.setdefault(_id(entry, "id"), row)["image"]
        if other != row["image"]:
            raise ValueError(f"image {entry['id']} is {other!r} and {row['image']!r}")
    for number, entry in enumerate(found["annotations"], 1):
        if _id(entry, "image_id") in rows:
            rows[_id(entry, "image_id")]["captions"].append(entry["caption"])
        else:
            damage.append(Damage("no_image", f"{path}: annotation {number}"))
    return list(rows.values()), damage


def _id(entry: Mapping[str, Any], key: str) -> str:
    """A number as files that were written by other hands have it too: "7", 7.0. Raises KeyError,
    ValueError: true would be 1, and 42.7 42."""
    value = entry[key]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{key} is no whole number in {_shown(entry)}")
    return str(value)


def _questions(path: str, found: dict[str, Any]) -> Read:
    """One row a question; of a test set, which has no annotations, without answers."""
    beside = _beside(path, "questions", "annotations")
    whole = _load(beside) if beside else {"annotations": []}
    answers = _by_question(whole["annotations"], beside, dict)
    _by_question(found["questions"], path, lambda e: (e["question"], _id(e, "image_id")))
    name = _picture_names(found)
    rows, damage = [], []
    for entry in found["questions"]:
        row = {"image": name(_id(entry, "image_id")), "question": entry["question"]}
        row["question_id"] = entry["question_id"]
        if _id(entry, "question_id") in answers:
            row |= dict(_answers(answers[_id(entry, "question_id")]))
        elif answers:
            damage.append(Damage("no_answers", f"{path}: question {entry['question_id']}"))
            continue
        rows.append(row)
    return rows, damage


def _by_question(
    entries: Sequence[dict[str, Any]], path: str, what: Callable[[dict[str, Any]], Any]
) -> dict[str, dict[str, Any]]:
    """Entries by their question's number. Raises ValueError where one number is of two that differ
    in `what`."""
    rows: dict[str, dict[str, Any]] = {}
    for entry in entries:
        known = rows.setdefault(_id(entry, "question_id"), entry)
        if known is not entry and what(known) != what(entry):
            name = os.path.basename(path)
            raise ValueError(f"question_id {entry['question_id']} stands twice in {name}")
    return rows


def _answers(entry: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The answers of all people, or the commonest alone where a file has no others."""
    said = entry["answers"] if "answers" in entry else [entry["multiple_choice_answer"]]
    if not isinstance(said, list):
        raise TypeError(f"answers are {said!r}, no list")  # of letters, or keys
    word = functools.partial(_word, entry)
    yield "answers", [word(one["answer"] if isinstance(one, dict) else one) for one in said]
    for key in ("question_type", "answer_type"):
        yield key, word(entry.get(key) or "")
    if "multiple_choice_answer" in entry:
        yield "answer", word(entry["multiple_choice_answer"])


def _word(entry: Mapping[str, Any], value: Any) -> str:
    """A word, of few that stand often; a number as it is written. Raises TypeError."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"{json.dumps(value)} is no word in {_shown(entry)}")
    return sys.intern(str(value))


def _shown(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry)[:SHOWN]


def _picture_names(found: dict[str, Any]) -> Callable[[str], str]:
    """How the set names its pictures: val2014/COCO_val2014_000000000042.jpg."""
    part = found.get("data_subtype", "val2014").replace("-dev", "")
    kind = found.get("data_type", "mscoco")
    start, suffix = ("COCO", "jpg") if kind == "mscoco" else (kind, "png")
    return lambda number: f"{part}/{start}_{part}_{int(number):012d}.{suffix}"


def _of_questions(path: str, found: dict[str, Any]) -> Read:
    questions = _beside(path, "annotations", "questions")
    if not questions:
        raise UserError(f"{path!r}: answers without questions; put their file beside it")
    return _questions(questions, _load(questions))


def _pairs(path: str, found: dict[str, Any]) -> Read:
    return [pair_of(entry) for entry in found[PAIRS]], []


def _beside(path: str, ours: str, theirs: str) -> str:
    """The file that goes with one: v2_OpenEnded_mscoco_val2014_questions.json and
    v2_mscoco_val2014_annotations.json; '' where there is none."""
    folder, name = os.path.split(os.path.abspath(path))
    bare = name.replace("OpenEnded_", "").replace(ours, theirs)
    for other in sorted(os.listdir(folder)):
        if other != name and other.replace("OpenEnded_", "") == bare:
            return os.path.join(folder, other)
    return ""


# (lists that it holds, a key of the first one's entries, how it is read)
_FORMS = (
    (("images",), "sentences", _karpathy),
    (("images", "annotations"), "file_name", _coco),
    (("questions",), "question", _questions),
    (("annotations",), "question_id", _of_questions),
    ((_CONTRASTS,), "", lambda path, found: (sugar_crepe(path, found[_CONTRASTS][0]), [])),
    ((PAIRS,), "sentence", _pairs),
)
