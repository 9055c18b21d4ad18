"""What a method's networks compute, as plain values that can be compared and said.

The file exists so that an import can say what the files changed, and an export can refuse what
another library would build otherwise: one list of fields, and a new field is compared from its
first day.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from vlp_jax.core.schema import build, marks
from vlp_jax.methods.base import Leaf, Method
from vlp_jax.models.towers import name_of

_SILENT = {  # fields that change training or speed, and no embedding
    "parent", "dropout", "drop_path", "patch_dropout", "weight_init", "dtype", "remat", "unroll",
    "attention", "norm_momentum",
}  # fmt: skip
Values = dict[str, Any]


def networks(method: Method) -> dict[str, Values]:
    """{part: {name, every field}} of the parts that are networks, defaults included."""
    found = {}
    for part, net in ((name, part.net) for name, part in method.parts().items()):
        if not isinstance(net, Leaf):
            fields = net.__dataclass_fields__.keys() - {"parent", "name"}
            found[part] = {"name": name_of(net), **{key: getattr(net, key) for key in fields}}
    return found


def described(method: Method) -> Values:
    """{name, the method's own plain fields, those whose type names a class filled up by it, part:
    see `networks`}."""
    own, nets = {}, networks(method)
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        if field.name in nets:
            continue
        classes = filter(dataclasses.is_dataclass, marks(field.type))
        if isinstance(value, Mapping):
            for cls in classes:
                own[field.name] = dataclasses.asdict(build(cls, value, f"method.{field.name}"))
        elif isinstance(value, bool | int | float | str | tuple):
            own[field.name] = value
    return {"name": type(method).__module__.rpartition(".")[2], **own, **nets}


def computed(method: Method) -> Values:
    """What `described` says of the embeddings, and one value for one function."""
    said = described(method)
    shared = {"embed_dim": said["embed_dim"]} if "embed_dim" in said else {}
    return shared | {part: _computed(fields) for part, fields in networks(method).items()}


def _computed(net: Mapping[str, Any]) -> Values:
    fields = {key: value for key, value in net.items() if key not in _SILENT}
    if "mlp_ratio" in fields:  # int(4.001 * 64) is int(4 * 64)
        fields["mlp_width"] = int(fields["width"] * fields.pop("mlp_ratio"))
    if "cls_token" in fields:
        fields["cls_token"] = fields["cls_token"] or fields["pool"] == "cls"
    return fields


def differing(ours: Method, theirs: Method, parts: Mapping[str, str]) -> list[str]:
    """Switches by which networks of one class compute otherwise, as lines; parts: {our part:
    theirs}.

    >>> differing(ours, theirs, {"image": "vision"})  # doctest: +SKIP
    ["image.activation='gelu', there 'quick_gelu'"]
    """
    own, other = networks(ours), networks(theirs)
    pairs = {our: its for our, its in parts.items() if our in own and its in other}
    left = {our: {"name": own[our]["name"], **_computed(own[our])} for our in pairs}
    right = {
        our: {"name": other[its]["name"], **_computed(other[its])} for our, its in pairs.items()
    }
    found = unlike(left, right)
    return [f"{key}={mine!r}, there {its!r}" for key, (mine, its) in sorted(found.items())]


def computing(method: Method, parts: Collection[str]) -> dict[str, str]:
    """{"image.activation": "'gelu'"} of every field by which one of these parts computes what it
    does: what weights do not say, for files that outlive the program."""
    nets = {part: net for part, net in networks(method).items() if part in parts}
    return {
        f"{part}.{key}": repr(value)
        for part, net in nets.items()
        for key, value in {"name": net["name"], **_computed(net)}.items()
    }


def unlike_fields(ours: Method, theirs: Method, parts: Mapping[str, str]) -> dict[str, Any]:
    """{"image.width": their value} of every field that differs and changes embeddings; where a
    part is another network altogether its name alone. parts: {our part: theirs}.
    """
    own, other = networks(ours), networks(theirs)
    pairs = {our: its for our, its in parts.items() if our in own and its in other}
    spoken = lambda net: {key: value for key, value in net.items() if key not in _SILENT}  # noqa: E731
    left = {our: spoken(own[our]) for our in pairs}
    found = unlike(left, {our: spoken(other[its]) for our, its in pairs.items()})
    return {key: its for key, (_, its) in sorted(found.items())}


def keep_new_rows(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """`theirs` for a run that learns more new words than they have: the rows stay and are counted.

    theirs: {part.field: value}; ours: the `method` section. A vocabulary of 522 beside one new row
    is asked for as vocab_size=523, not as new_rows=0.
    """
    found = dict(theirs)
    for key in [key for key in theirs if key.endswith(".new_rows")]:
        part = key.removesuffix(".new_rows")
        own = ours.get(part) or {}
        more = own.get("new_rows", 0) - theirs[key]
        if more > 0:
            del found[key]
            rows = theirs.get(f"{part}.vocab_size", own["vocab_size"]) + more
            found[f"{part}.vocab_size"] = rows
            if rows == own["vocab_size"]:
                del found[f"{part}.vocab_size"]
    return found


def unlike(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{key: (our value, their value)} of what differs, e.g. {"text.pool": ("mean", "argmax")}."""
    found = {}
    for side in {**ours, **theirs}:
        own, other = ours.get(side), theirs.get(side)
        if not (isinstance(own, Mapping) and isinstance(other, Mapping)):
            found |= {side: (own, other)} if own != other else {}
        elif own["name"] != other["name"]:
            found[f"{side}.name"] = (own["name"], other["name"])
        else:
            pairs = ((key, value, other[key]) for key, value in own.items())
            found |= {f"{side}.{key}": (a, b) for key, a, b in pairs if a != b}
    return found
