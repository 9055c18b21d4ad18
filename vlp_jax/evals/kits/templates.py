"""Prompt templates of CLIP (arXiv:2103.00020 section 3.1.4), written as the products they are.

The file exists so that a count that a paper table depends on (80 for ImageNet) can be read and
tested. Articles stay as released: always "a", never "an". `{c}` is the class name.
"""

import itertools
from collections.abc import Sequence

from vlp_jax.core.errors import UserError, nearest


def _product(pattern: str, **fills: str) -> tuple[str, ...]:
    """Expands `pattern` over comma-separated fills; an empty fill takes the space after it along.

    >>> _product("[n] of [d] {c}.", n="art", d="a,")
    ('art of a {c}.', 'art of {c}.')
    """
    out = []
    for values in itertools.product(*(fill.split(",") for fill in fills.values())):
        text = pattern
        for name, value in zip(fills, values, strict=True):
            text = text.replace(f"[{name}]" if value else f"[{name}] ", value)
        out.append(text)
    return tuple(out)


_ADJECTIVES = (
    "bad,bright,dark,cropped,close-up,black and white,pixelated,blurry,good,low resolution,"
    "jpeg corrupted"
)
_QUALITIES = "hard to see,clean,dirty,cool,nice,weird,large,small"
_MEDIA = "sculpture,rendering,tattoo,drawing,painting,doodle,sketch,rendition"

_IMAGENET = (
    *_product("a [q] photo of [d] {c}.", q=_ADJECTIVES, d="a,the"),
    *_product("a photo of [d] [q] {c}.", q=_QUALITIES, d="a,the"),
    *_product("a photo of [d] {c}.", d="a,the,many,my,one"),
    *_product("a [n] of [d] {c}.", n=_MEDIA, d="a,the"),
    *_product("[n] of [d] {c}.", n="graffiti,art", d="a,the"),
    *_product("itap of [d] {c}.", d="a,the,my"),
    *_product("[d] [q] {c}.", q="embroidered,plastic,origami,cartoon,plushie,toy", d="a,the"),
    *_product("[d] {c} in a video game.", d="a,the"),
)
_IMAGENET_7 = (
    "itap of a {c}.",
    "a bad photo of the {c}.",
    "a origami {c}.",
    "a photo of the large {c}.",
    "a {c} in a video game.",
    "art of the {c}.",
    "a photo of the small {c}.",
)
_CIFAR = (
    *_product("a photo of [d] {c}.", d="a,the"),
    *_product(
        "a [q] photo of [d] {c}.",
        q="blurry,black and white,low contrast,high contrast,bad,good",
        d="a,the",
    ),
    *_product("a photo of [d] [q] {c}.", q="small,big", d="a,the"),
)
_VERBS = ",using,doing,during,performing,practicing"
_ACTION_MEDIA = "photo,video,example,demonstration"
_PERSON = _product("a [m] of [d] person [v] {c}.", m=_ACTION_MEDIA, d="a,the", v=_VERBS)

TEMPLATES = {
    "single": ("a photo of a {c}.",),
    "name": ("{c}",),
    "imagenet": _IMAGENET,
    "imagenet7": _IMAGENET_7,
    "birdsnap": ("a photo of a {c}, a type of bird.",),
    "cifar": _CIFAR,
    "dtd": _product("a photo of [d] {c} [n].", n="texture,pattern,thing,object", d="a,the"),
    "eurosat": _product("a centered satellite photo of [d] {c}.", d=",a,the"),
    "gtsrb": _product('a [z] photo of a "{c}" traffic sign.', z="zoomed in,centered,close up"),
    "kinetics700": (
        *_product("a [m] of {c}.", m=_ACTION_MEDIA),
        *_product("a [m] of a person [v] {c}.", m=_ACTION_MEDIA, v=_VERBS),
    ),
    "resisc45": _product(
        "[s] [k] of [d] {c}.", s="satellite,aerial", k="imagery,photo,view", d=",a,the"
    ),
    "ucf101": _PERSON,
}


def load_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """A named set, one template, or a sequence of templates; each must hold `{c}` exactly once.

    Raises UserError for an unknown name (with the nearest) and for a template without `{c}`.
    """
    if isinstance(templates, str) and "{c}" not in templates:
        if templates not in TEMPLATES:
            raise UserError(f"unknown templates {templates!r}" + nearest(templates, TEMPLATES))
        return TEMPLATES[templates]
    chosen = (templates,) if isinstance(templates, str) else tuple(templates)
    wrong = [t for t in chosen if not isinstance(t, str) or t.count("{c}") != 1]
    if wrong or not chosen:
        raise UserError(
            f"templates need '{{c}}' exactly once in each; got {wrong[0] if wrong else ()!r}"
        )
    return chosen


def fill(template: str, name: str) -> str:
    """The prompt for a class; braces in the name are left alone, unlike with str.format."""
    return template.replace("{c}", name)
