"""Template sets: counts of the paper, and spot checks of the released wording."""

import collections
import re

import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.evals.kits.templates import TEMPLATES, fill, load_templates

COUNTS = {
    "single": 1,
    "name": 1,
    "imagenet": 80,
    "imagenet7": 7,
    "birdsnap": 1,
    "cifar": 18,
    "dtd": 8,
    "eurosat": 3,
    "gtsrb": 3,
    "kinetics700": 28,
    "resisc45": 18,
    "ucf101": 48,
}


def test_every_set_has_the_papers_number_of_distinct_templates():
    assert {name: len(set(templates)) for name, templates in TEMPLATES.items()} == COUNTS
    assert {name: len(templates) for name, templates in TEMPLATES.items()} == COUNTS


FACTORS = {  # pattern (clip.md 5.1) -> how many of the 80
    r"a photo of (a|the) (hard to see|clean|dirty|cool|nice|weird|large|small) {c}\.": 16,
    r"a photo of (a|the|many|my|one) {c}\.": 5,
    r"a (bad|bright|dark|cropped|close-up|black and white|pixelated|blurry|good|low resolution"
    r"|jpeg corrupted) photo of (a|the) {c}\.": 22,
    r"a (sculpture|rendering|tattoo|drawing|painting|doodle|sketch|rendition) of (a|the) {c}\.": 16,
    r"(graffiti|art) of (a|the) {c}\.": 4,
    r"itap of (a|the|my) {c}\.": 3,
    r"(a|the) (embroidered|plastic|origami|cartoon|plushie|toy) {c}\.": 12,
    r"(a|the) {c} in a video game\.": 2,
}


def test_the_eighty_are_the_products_of_the_paper():
    fits = [[p for p in FACTORS if re.fullmatch(p, t)] for t in TEMPLATES["imagenet"]]
    assert collections.Counter(p for (p,) in fits) == FACTORS


def test_every_template_has_one_class_name_and_clean_spaces():
    for templates in TEMPLATES.values():
        for template in templates:
            assert template.count("{c}") == 1
            assert "  " not in template and "[" not in template and " ." not in template


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("imagenet", "a photo of the hard to see {c}."),
        ("imagenet", "a jpeg corrupted photo of the {c}."),
        ("imagenet", "a origami {c}."),
        ("imagenet", "graffiti of a {c}."),
        ("imagenet", "itap of my {c}."),
        ("imagenet", "the {c} in a video game."),
        ("imagenet", "a photo of many {c}."),
        ("cifar", "a photo of the big {c}."),
        ("cifar", "a low contrast photo of a {c}."),
        ("eurosat", "a centered satellite photo of {c}."),
        ("gtsrb", 'a close up photo of a "{c}" traffic sign.'),
        ("resisc45", "aerial imagery of the {c}."),
        ("ucf101", "a example of the person practicing {c}."),
        ("kinetics700", "a demonstration of {c}."),
        ("kinetics700", "a video of a person {c}."),
    ],
)
def test_released_wording(name, template):
    assert template in TEMPLATES[name]


def test_the_seven_are_among_the_eighty():
    assert set(TEMPLATES["imagenet7"]) < set(TEMPLATES["imagenet"])


def test_own_templates_and_mistakes():
    assert load_templates("an emoji of {c}") == ("an emoji of {c}",)
    assert load_templates(["{c}", "x {c}"]) == ("{c}", "x {c}")
    for wrong in (["no place"], ["{c} {c}"], [], [3]):
        with pytest.raises(UserError, match="exactly once"):
            load_templates(wrong)


def test_braces_in_a_class_name_are_left_alone():
    assert fill("a {c}, {not} this.", "{0} {c}") == "a {0} {c}, {not} this."
