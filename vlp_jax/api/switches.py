"""What the towers of a dual encoder compute, as plain values that can be compared.

The file exists so that an import can say what the files changed, and an export can refuse what
another library would build otherwise: one list of fields, and a new field is compared from its
first day.
"""

from collections.abc import Mapping
from typing import Any

from vlp_jax.methods.base import Method
from vlp_jax.models.towers import TOWERS

_SILENT = {  # fields that change training or speed, and no embedding
    "parent", "name", "dropout", "drop_path", "patch_dropout", "weight_init", "dtype", "remat",
    "unroll", "attention",
}  # fmt: skip


def tower_fields(method: Method) -> dict[str, Any]:
    """{embed_dim, image, text} with every field of the towers, defaults included."""
    arch: dict[str, Any] = {"embed_dim": method.embed_dim}
    names = {kind: name for name, kind in TOWERS.items()}
    for side, tower in (("image", method.image_tower), ("text", method.text_tower)):
        fields = tower.__dataclass_fields__.keys() - {"parent", "name"}
        values = {key: getattr(tower, key) for key in fields}
        arch[side] = {"name": names[type(tower)], **values}
    return arch


def computed(method: Method) -> dict[str, Any]:
    """`tower_fields` without what changes no embedding, and with one value for one function."""
    arch = tower_fields(method)
    for side, tower in (("image", method.image_tower), ("text", method.text_tower)):
        fields = {key: value for key, value in arch[side].items() if key not in _SILENT - {"name"}}
        if "mlp_ratio" in fields:  # int(4.001 * 64) is int(4 * 64)
            fields["mlp_width"] = int(fields["width"] * fields.pop("mlp_ratio"))
        if "cls_token" in fields:
            fields["cls_token"] = tower.has_cls
        arch[side] = fields
    return arch


def unlike(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{key: (our value, their value)} of what differs, e.g. {"text.pool": ("mean", "argmax")}."""
    found = {}
    for side, fields in ours.items():
        if not isinstance(fields, Mapping):
            if fields != theirs[side]:
                found[side] = (fields, theirs[side])
        elif fields["name"] != theirs[side]["name"]:
            found[f"{side}.name"] = (fields["name"], theirs[side]["name"])
        else:
            pairs = ((key, value, theirs[side][key]) for key, value in fields.items())
            found |= {f"{side}.{key}": (a, b) for key, a, b in pairs if a != b}
    return found
