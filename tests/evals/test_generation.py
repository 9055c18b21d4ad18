"""Drawn pictures judged by doubles of networks: what is asked of whom, under which name, what is
kept, and one-line mistakes. The arithmetic is tests/evals/test_distances.py's.
"""

import dataclasses
import glob

import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.core.fields import Label, Numbers, Text
from vlp_jax.data.framing import Framing
from vlp_jax.evals.base import EvalContext
from vlp_jax.evals.kits import distances, drawing, figures
from vlp_jax.evals.kits.networks import Network
from vlp_jax.methods.base import Function, Method
from vlp_jax.report.gallery import draw_results
from vlp_jax.train.evaluate import make_evaluators, run_evaluators

GREYS = [10, 60, 110, 160, 210, 30]
WORDS = ["dark", "dim", "grey", "light", "pale", "dark"]
CLASSES = ("dark", "dim", "grey", "light", "pale")


@dataclasses.dataclass(frozen=True)
class Options:
    """Of a drawing."""

    guidance: float = 1.0
    steps: int = 3


class Painter(Method):
    """What `make_evaluators` sees of a method that draws."""

    reads = {"text": Text(24, 256), "negative": Text(24, 256, optional=True)}

    def functions(self):
        return {"generate_image": Function(lambda *_: None, self.reads, Options)}


class ClassPainter(Painter):
    reads = {"label": Label(5)}


def paint(seen):
    """`grey G` as float pictures of grey G * guidance; a class as that of CLASSES. Notes calls."""

    def run(batch, how):
        guidance = options_of(how).guidance
        assert "negative" not in batch
        if "label" in batch:
            greys = np.asarray(GREYS)[batch["label"]]
        else:
            texts = ["".join(map(chr, row)).rstrip("\0") for row in batch["text"]]
            greys = np.asarray([int(text.split()[-1]) if text else 0 for text in texts])
        seen.append((batch["index"].tolist(), greys.tolist(), guidance))
        levels = np.clip(greys * guidance, 0, 255) / 127.5 - 1
        image = np.broadcast_to(levels[:, None, None, None], (len(greys), 6, 6, 3))
        return {"image": image.astype(np.float32), "latent": image[..., 0]}, batch["index"]

    return run


def options_of(how):
    return how if isinstance(how, Options) else Options(**how)


class Judges:
    """Networks by path: features are 1 + (x, x^2), x = level / 255; a class for every 50 levels."""

    def __init__(self, **changes):
        self.calls, self.changes = [], changes

    def __call__(self, path):
        if path == "gone":
            raise UserError("--checkpoint: gone: no such folder")
        fns = {name: self._fn(name) for name in ("features", "classify", "embed_image")}
        fns |= {"embed_text": self._embed_text}
        kept = {
            "classifier": ("features", "classify"),
            "clip": ("embed_image", "embed_text"),
            "inception": ("features",),
            "blind": ("tokens",),
        }[path]
        label = {"inception": "fid_inception_v3", "clip": "own_clip"}.get(path, path)
        resize = "tensorflow" if path == "inception" else "own"
        context = EvalContext(self._ids, 4, 3, framing=Framing("squash"))
        own = {name: fns.get(name) for name in kept}
        how = {"classes": lambda: CLASSES} | self.changes
        return Network(label, f"digest of {path}", own, context, resize, **how)

    def _fn(self, name):
        def run(batch):
            level = batch["image"][:, 0, 0, 0].astype(np.float32)
            self.calls.append((name, level.tolist(), batch["image"].dtype))
            if name == "classify":
                return 9 * np.eye(5, dtype=np.float32)[np.int64(level // 50)], batch["index"]
            return features(level).astype(np.float32), batch["index"]

        return run

    def _ids(self, texts):
        return np.asarray([[int((text or "0").split()[-1])] for text in texts], np.int32)

    def _embed_text(self, batch):
        level = batch["text"][:, 0].astype(np.float32)
        return features(level).astype(np.float32), batch["index"]


def features(greys):
    level = np.asarray(greys, np.float64) / 255
    return np.stack([level, np.square(level)], 1) + 1


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vlp_jax" / "features"


@pytest.fixture
def source(memory_source):
    def make(greys=GREYS, words=WORDS, **more):
        return memory_source(list(greys), metas=[{"word": word} for word in words], **more)

    return make


def run(context, source, method=None, judges=None, **config):
    """(result, calls of the painter)."""
    seen = []
    method = method or Painter()
    judges = judges or Judges()
    config = {"path": source, "networks": "classifier", "kid_subsets": 2} | config
    made = make_evaluators({"generation": config}, context(network=judges), method)
    found = run_evaluators(made, {"generate_image": paint(seen)})["generation"]
    return found, seen


def test_a_perfect_painter(context, source):
    found, seen = run(context, source(), label="word")
    metrics = found.metrics
    assert [rows for rows, _, _ in seen] == [[0, 1, 2, 3], [4, 5, -1, -1]]
    assert [grey for _, greys, _ in seen for grey in greys][:6] == GREYS
    assert metrics["fid_classifier"] == pytest.approx(0, abs=1e-9)
    assert (metrics["precision_classifier"], metrics["recall_classifier"]) == (1, 1)
    assert metrics["accuracy_classifier"] == 1 and metrics["chance_accuracy_classifier"] == 0.2
    logits = 9 * np.eye(5)[[CLASSES.index(word) for word in WORDS]]
    wanted = distances.inception_score(logits, 10)
    assert (metrics["is_classifier"], metrics["is_classifier_std"]) == pytest.approx(wanted)
    assert "fid" not in metrics and {"drawn", "per_class"} <= found.figures.keys()
    assert found.protocol["drawn"] == found.protocol["real"] == 6
    assert found.protocol["side"] == 8  # the run's own
    assert found.protocol["networks"] == {"classifier": "digest of cl, resize: own"}


def test_figures_of_a_bad_painter(context, source):
    found, _ = run(context, source(), label="word", how={"guidance": 0.5}, kid_size=4)
    made, real = features(np.asarray(GREYS) // 2), features(GREYS)
    wanted = distances.frechet(*map(distances.moments, (made, real)))
    assert found.metrics["fid_classifier"] == pytest.approx(wanted, rel=1e-6)
    kid = distances.polynomial_mmd(made, real, 2, 4)
    assert found.metrics["kid_classifier"] == pytest.approx(kid[0], rel=1e-6)
    assert found.metrics["kid_classifier_std"] == pytest.approx(kid[1], rel=1e-6)
    assert found.metrics["accuracy_classifier"] == pytest.approx(2 / 6)  # both of the dark
    assert found.protocol["options"] == {"guidance": 0.5}
    rows = {row["class"]: row["recall"] for row in found.tables["per_class"]}
    assert rows["dark"] == 1 and rows["pale"] == 0


def test_every_guidance_in_turn(context, source, tmp_path):
    judges = Judges()
    found, seen = run(context, source(), judges=judges, label="word", guidances=(0.5, 1.0), shown=2)
    assert [guidance for _, _, guidance in seen] == [0.5, 0.5, 1.0, 1.0]
    assert found.metrics["accuracy_classifier_at_0.5"] < 0.5
    assert found.metrics["accuracy_classifier_at_1"] == 1
    rows = found.tables["guidance"]
    assert [row["guidance"] for row in rows] == [0.5, 1.0] and "fid_classifier" in rows[0]
    panels = found.figures["drawn"]
    assert panels.panels.shape == (2, 2, 6, 6, 3)
    shown = np.round(255 * panels.panels[:, :, 0, 0, 0]).tolist()
    assert shown == [[5, 10], [80, 160]] and list(panels.titles) == ["guidance 0.5", "guidance 1"]
    curves = found.figures["guidance"]
    assert isinstance(curves, figures.Curves) and curves.x == (0.5, 1.0)
    asked = [levels for name, levels, _ in judges.calls if name == "features"]
    assert len(asked) == 6  # real pictures once, in two batches of three
    drawn = draw_results({"generation": found}, str(tmp_path / "out"))
    assert len(drawn) == 3 and all(map(glob.glob, drawn.values()))


def test_names_say_whose_features(context, source):
    found, _ = run(context, source(), networks="classifier, inception,clip")
    own = {"cmmd_own_clip", "clip_score_own_clip", "is_classifier", "is_classifier_std"}
    kinds = ("fid", "kid", "precision", "recall")
    shared = {f"{kind}{end}" for kind in kinds for end in ("", "_classifier")}
    assert found.metrics.keys() == own | shared | {"kid_std", "kid_classifier_std"}
    assert found.metrics["clip_score_own_clip"] == pytest.approx(1)
    assert found.metrics["cmmd_own_clip"] == pytest.approx(0, abs=1e-6)
    found, _ = run(context, source(), networks=("inception",), resize="clean")
    assert {"fid_clean", "kid_clean_std"} < found.metrics.keys() and "fid" not in found.metrics


def test_a_float_rule_hands_on_floats(context, source):
    judges = Judges()
    run(context, source(), networks="inception,classifier", judges=judges)
    kinds = {(name, str(dtype)) for name, _, dtype in judges.calls}
    assert kinds == {("features", "float32"), ("features", "uint8"), ("classify", "uint8")}


def test_classes_are_drawn_by_the_numbers_of_the_training_set(context, source):
    path = source([60, 210, 210], ["dim", "pale", "pale"])
    found, seen = run(context, path, ClassPainter(), label="word", train=source(), count=5)
    assert seen[0][1] == [60, 210, 210, 60] and seen[1][0] == [4, -1, -1, -1]
    assert found.metrics["accuracy_classifier"] == 1 and found.protocol["drawn"] == 5


def test_every_text_has_its_tokenizer(context, source):
    class Two(Painter):
        reads = Painter.reads | {"text_2": Text(24, 256, tokenizer="second")}

    with pytest.raises(UserError, match="'text_2', but the run has no tokenizer for it"):
        run(context, source(), Two())
    read = []
    made = lambda **how: context(tokenizers={"text_2": lambda x: read.append(x) or _ids(x)}, **how)  # noqa: E731
    run(made, source(), Two())
    assert read == [[f"grey {grey}" for grey in GREYS]]


def _ids(texts):
    return np.zeros((len(texts), 24), np.int32)


def test_blocks_are_drawn_one_after_another(context, source, monkeypatch):
    whole, _ = run(context, source(), count=11, shown=1)
    monkeypatch.setattr(drawing, "BLOCK", 4)
    found, seen = run(context, source(), count=11, shown=1)
    assert [rows for rows, _, _ in seen][-1] == [8, 9, 10, -1]
    assert found.metrics == pytest.approx(whole.metrics)
    shown = [each.figures["drawn"].panels for each in (found, whole)]
    np.testing.assert_array_equal(*shown)


def test_given_pictures_need_no_model(context, source):
    judges = Judges()
    given = source([12, 62, 200], ["dark", "dim", "grey"])
    config = {"path": source(), "samples": given, "networks": "classifier,clip", "label": "word"}
    nobody = dataclasses.replace(context(network=judges), image_size=0)
    made = make_evaluators({"generation": config}, nobody, None)
    found = run_evaluators(made, {})["generation"]
    assert found.metrics["accuracy_classifier"] == pytest.approx(2 / 3)
    wanted = distances.frechet(*map(distances.moments, map(features, ([12, 62, 200], GREYS))))
    assert found.metrics["fid_classifier"] == pytest.approx(wanted, rel=1e-6)
    assert found.protocol["given"] == 3 and found.protocol["side"] == "as they are"
    assert "clip_score_own_clip" in found.metrics and "drawn" not in found.figures


def test_without_real_pictures(context, source):
    judges = Judges()
    how = dict(networks="classifier,clip", label="word", compare=False)
    found, _ = run(context, source(), judges=judges, **how)
    assert {name for name, *_ in judges.calls} == {"classify", "embed_image"}
    rest = {"is_classifier", "is_classifier_std", "clip_score_own_clip"}
    assert found.metrics.keys() == rest | {"accuracy_classifier", "chance_accuracy_classifier"}


def test_real_features_are_kept_for_the_same_pictures_and_weights(context, source, folder):
    def real_calls(path=None, **config):
        judges = Judges(**config.pop("changes", {}))
        found, _ = run(context, path or source(), judges=judges, shown=0, **config)
        levels = [x for name, x, _ in judges.calls if name == "features"]
        return len(levels) - 2, found.metrics

    first = real_calls()
    assert first[0] == 2 and len(list(folder.iterdir())) == 1
    assert real_calls() == (0, first[1])
    (file,) = folder.iterdir()
    with np.load(file) as kept:
        arrays = dict(kept)
    assert {"rows", "samples", "mean", "covariance", "facts"} == arrays.keys()
    other = source()
    other.fingerprint = "other"
    assert real_calls(other)[0] == 2  # other pictures
    assert real_calls(limit=5, kid_size=4)[0] == 2
    np.savez(file, **{**arrays, "facts": str(arrays["facts"]).replace("digest of", "digest")})
    assert real_calls()[0] == 2  # what lies there is another network's
    file.write_bytes(file.read_bytes()[:100])
    assert real_calls() == (2, first[1])


@pytest.mark.parametrize(
    "config, said",
    [
        ({"networks": ""}, "networks: none; name checkpoints"),
        ({"networks": "gone"}, "evals.generation: networks: gone: no such folder"),
        ({"networks": "classifier,classifier"}, "both 'classifier'"),
        ({"networks": "blind"}, "blind offers tokens, which judges nothing"),
        ({"label": "wrod"}, "did you mean 'word'"),
        ({"caption": "nothing"}, "no caption under the JSON key 'nothing'; valid: word"),
        ({"count": -1}, "count is -1"),
        ({"count": 1}, "1 made picture"),
        ({"kid_size": 1}, "kid_size=1 is out of range"),
        ({"resize": "tensorflw"}, "did you mean 'tensorflow'"),
        ({"guidances": (1.0,), "samples": "x"}, "guidances: says how to draw, but `samples`"),
        ({"how": {"step": 3}}, "how.step: unknown key; did you mean 'steps'"),
        ({"label": "word", "changes": {"classes": lambda: CLASSES[:4]}}, "4 names for 5 classes"),
        ({"label": "word", "changes": {"classes": lambda: ("dim", *"abcd")}}, "'dark'"),
    ],
)
def test_mistakes_are_one_line(context, source, config, said):
    judges = Judges(**config.pop("changes", {}))
    with pytest.raises(UserError, match=said) as error:
        run(context, source(), judges=judges, **config)
    assert "\n" not in str(error.value)


def test_what_a_method_must_not_ask_for(context, source):
    class Restorer(Painter):
        reads = {"image": Numbers((4, 4, 3))}

    with pytest.raises(UserError, match="reads 'image', a Numbers"):
        run(context, source(), Restorer())
    with pytest.raises(UserError, match=r"generation\.label: the model draws classes"):
        run(context, source(), ClassPainter())
    with pytest.raises(UserError, match="there is no model, give --checkpoint"):
        make_evaluators({"generation": {"path": source()}}, context(network=Judges()), None)

    class Fixed(Painter):
        def functions(self):
            return {"generate_image": Function(lambda *_: None, {})}

    with pytest.raises(UserError, match="guidance: unknown key"):
        run(context, source(), Fixed(), guidances=(1.0, 2.0))
