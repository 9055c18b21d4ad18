"""`eval` of a folder of pictures beside another one, without a model, by a classifier of a run."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import SIZE, tiny_method

from vlp_jax.__main__ import main
from vlp_jax.api import networks
from vlp_jax.api.model import Model
from vlp_jax.core.errors import UserError
from vlp_jax.evals.kits import distances

CLASSES = "abcde"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(drawn, real): a sub-folder per class, pictures of odd sizes."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for kind, count in (("drawn", 2), ("real", 3)):
        for name in CLASSES:
            (root / kind / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (SIZE, SIZE + 8 * i, 3), np.uint8)
                Image.fromarray(pixels).save(root / kind / name / f"{i}.png")
    return root / "drawn", root / "real"


@pytest.fixture
def classifier(monkeypatch, tmp_path, folders):
    """A run's classifier, with its first weights, at the path W."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    method = tiny_method("classify")
    made = method.fresh(jax.random.key(0))
    pictures = {"image_size": SIZE, "mean": method.image_mean, "std": method.image_std}
    pictures |= {"crop": "squash", "resample": "bilinear"}
    data = {"path": str(folders[1]), "label": "class"}
    config = {"method": {"name": "classify"}, "data": data}

    def load(path, *_):
        if path != "W":
            raise UserError(f"--checkpoint: {path}: no such folder")
        return Model(path, method, made.params, made.extra, pictures, {"name": ""}, config)

    monkeypatch.setattr(networks, "load_model", load)
    return method, made


def run(*words):
    return main(["eval", *(f"--config.evals.generation.{word}" for word in words)])


def test_folders_without_a_model(folders, classifier, capsys, tmp_path):
    drawn, real = folders
    words = (f"samples={drawn}", f"path={real}", "networks=W", "label=class")
    out = tmp_path / "report"
    assert main(["eval", *(f"--config.evals.generation.{w}" for w in words), "--json",
                 f"--out={out}"]) == 0  # fmt: skip
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["eval"]["generation"]
    assert (found["protocol"]["given"], found["protocol"]["real"]) == (10, 15)
    method, made = classifier

    def rows(folder, name):
        pictures = [Image.open(path) for path in sorted(folder.glob("*/*.png"))]
        side = lambda p: np.asarray(p.resize((SIZE, SIZE), Image.Resampling.BILINEAR))  # noqa: E731
        given = networks.Embedder(method, networks.choose_mesh("replicated")).bind(*made)
        batch = {"image": np.stack([*map(side, pictures), *[side(pictures[0])] * 1])}
        index = np.append(np.arange(len(pictures)), -1).astype(np.int32)
        padded = {"image": _filled(batch["image"]), "index": _filled(index, -1)}
        return given[name](padded)[0][: len(pictures)]

    wanted = [distances.moments(rows(folder, "features")) for folder in (drawn, real)]
    metrics = found["metrics"]
    assert metrics["fid_classifier"] == pytest.approx(distances.frechet(*wanted), rel=1e-3)
    right = rows(drawn, "classify").argmax(1) == np.repeat(np.arange(5), 2)
    assert metrics["accuracy_classifier"] == right.mean()
    assert metrics["chance_accuracy_classifier"] == 0.2
    assert (out / "report.md").read_text().startswith("# evaluation") and list(out.glob("*.png"))


def _filled(rows, value=0):
    """Up to 64 rows, the command's batch."""
    more = np.full((64 - len(rows), *rows.shape[1:]), value, rows.dtype)
    return np.concatenate([rows, more])


@pytest.mark.parametrize(
    "words, said",
    [
        (("samples={drawn}", "path={real}", "networks=V"), "generation: networks: V: no such"),
        (("path={real}", "networks=W"), "there is no model, give --checkpoint"),
        (("samples={drawn}", "path={real}", "label=clas"), "did you mean 'class'"),
        (("samples=/none", "path={real}", "networks=W"), "/none"),
        ((), "see configs/clip/quickstart.py"),
    ],
)
def test_mistakes_are_one_line(folders, classifier, capsys, words, said):
    names = dict(zip(("drawn", "real"), folders, strict=True))
    words = [word.format(**names) for word in words]
    assert run(*words, *(["networks=W"] if words and "networks" not in str(words) else [])) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and said in line


def test_labels_of_networks():
    method = tiny_method("classify")
    label = lambda config: networks.label_of(Model("", method, {}, {}, {}, {}, config))  # noqa: E731
    assert label({"data": {}, "method": {"name": "clip"}}) == "own_clip"
    assert label({"arch": "FID-Inception-v3"}) == "fid_inception_v3"
    assert label({"arch": "ViT-L-14-336"}) == "vit_l_14_336"
