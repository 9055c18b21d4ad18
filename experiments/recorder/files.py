"""Input files of a record, made with no line of the package: data sets of every kind and released
checkpoints with random weights.

The file exists so that the same files go through the tree before and the tree after.
"""

import csv
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
EMOJI = ROOT / "vlp_jax/data/emoji/noto-val-0000.tar"
GOLDEN = ROOT / "tests/golden/clip"
COUNT = 24  # pictures of every data set
VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": 12, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2}
RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 4, "patch_size": None}
HF_VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 64, "num_hidden_layers": 2}
HF_VISION |= {"num_attention_heads": 2, "intermediate_size": 256}
HF_TEXT = {"vocab_size": 100, "max_position_embeddings": 12, "hidden_size": 32}
HF_TEXT |= {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
HF_TEXT |= {"eos_token_id": 99, "bos_token_id": 98, "pad_token_id": 0}
QUICK, TANH = {"hidden_act": "quick_gelu"}, {"hidden_act": "gelu_pytorch_tanh"}


def open_clip(vision: dict, text: dict, **more: object) -> dict:
    """An open_clip_config.json."""
    return {"model_cfg": {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, **more}}


def hugging_face(kind: str, dim: int, key: str, how: dict) -> dict:
    """A config.json of transformers."""
    towers = {"vision_config": HF_VISION | how, "text_config": HF_TEXT | how}
    towers = {name: tower | {key: dim} for name, tower in towers.items()}
    return {"model_type": kind, "projection_dim": dim, **towers}


CHECKPOINTS = {  # of tests/golden/clip: (name of the weights, name and content of the config)
    "open_clip_vit": ("open_clip_config.json", open_clip(VISION, TEXT)),
    "open_clip_resnet": ("open_clip_config.json", open_clip(RESNET, TEXT, quick_gelu=True)),
    "hf_clip": ("config.json", hugging_face("clip", 24, "projection_dim", QUICK)),
    "hf_siglip": ("config.json", hugging_face("siglip", 64, "projection_size", TANH)),
}


def emoji() -> list[tuple[str, Image.Image, str, dict]]:
    """(key, picture, caption, labels) of some emoji from all over the set."""
    with tarfile.open(EMOJI) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    keys = sorted(name[:-4] for name in files if name.endswith(".png"))
    return [
        (
            key,
            Image.open(io.BytesIO(files[f"{key}.png"])).convert("RGB"),
            files[f"{key}.txt"].decode(),
            json.loads(files[f"{key}.json"]),
        )
        for key in keys[:: len(keys) // COUNT][:COUNT]
    ]


def encoded(picture: Image.Image, number: int) -> tuple[str, bytes]:
    """(suffix, bytes) of a picture: square, wide JPEG, transparent, or tall and grey in turn."""
    kind, out = number % 4, io.BytesIO()
    if kind == 1:
        picture.resize((90, 50)).save(out, "JPEG", quality=90)
        return "jpg", out.getvalue()
    if kind == 2:
        picture = picture.copy()
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    if kind == 3:
        picture = picture.convert("L").resize((40, 70))
    picture.save(out, "PNG")
    return "png", out.getvalue()


def make_data(folder: Path) -> None:
    """tar/x-00{0,1}.tar, captions/, classes/, table.csv, texts.txt."""
    rows = [["filepath", "title", "number"]]
    for number, (key, picture, text, labels) in enumerate(emoji()):
        suffix, content = encoded(picture, number)
        for place in (folder / "captions", folder / "classes" / labels["category"]):
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{key}.{suffix}").write_bytes(content)
        (folder / "captions" / f"{key}.txt").write_text(text)
        rows.append([f"captions/{key}.{suffix}", text, number % 3])
        (folder / "tar").mkdir(exist_ok=True)
        members = {suffix: content, "txt": text.encode(), "json": json.dumps(labels).encode()}
        with tarfile.open(folder / "tar" / f"x-00{2 * number // COUNT}.tar", "a") as tar:
            for end, data in members.items():
                info = tarfile.TarInfo(f"{key}.{end}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    with open(folder / "table.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    (folder / "texts.txt").write_text("\n".join(row[1] for row in rows[1:]) + "\n")


def make_checkpoints(folder: Path) -> None:
    """The golden models with configs beside them, and `clip`, whose text tower reads bytes."""
    for name, (file, config) in CHECKPOINTS.items():
        (folder / name).mkdir()
        weights = "model" if name.startswith("hf") else "open_clip_model"
        shutil.copy(GOLDEN / f"{name}.safetensors", folder / name / f"{weights}.safetensors")
        (folder / name / file).write_text(json.dumps(config))
    rng, tensors = np.random.default_rng(0), load_file(GOLDEN / "open_clip_vit.safetensors")
    for name, rows in (("token_embedding.weight", 259), ("positional_embedding", 16)):
        tensors[name] = rng.normal(0, 0.05, (rows, 32)).astype(np.float16)
    (folder / "clip").mkdir()
    save_file(tensors, folder / "clip" / "open_clip_model.safetensors")
    config = open_clip(VISION, TEXT | {"context_length": 16, "vocab_size": 259})
    (folder / "clip" / "open_clip_config.json").write_text(json.dumps(config))


def make(folder: Path, start: Path | None) -> None:
    """All of them, or copies of those of an earlier record."""
    shutil.rmtree(folder, ignore_errors=True)
    if start is not None:
        shutil.copytree(start, folder, ignore=shutil.ignore_patterns("*.index"))
        return
    folder.mkdir(parents=True)
    make_data(folder)
    make_checkpoints(folder)
