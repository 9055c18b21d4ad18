"""One path for training and evaluation: the held-out part is measured, and results say what was
trained on."""

import numpy as np
import pytest
from PIL import Image

from vlp_jax.core.errors import UserError
from vlp_jax.data.holdout import Holdout
from vlp_jax.data.mixture import open_pool
from vlp_jax.evals.base import EvalContext
from vlp_jax.methods.base import Function
from vlp_jax.train import trained as module
from vlp_jax.train.evaluate import make_evaluators, run_evaluators
from vlp_jax.train.trained import Trained


def folder(root, numbers):
    root.mkdir()
    for n in numbers:
        pixels = np.random.default_rng(n).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{n}.png")
        (root / f"{n}.txt").write_text(f"n {n}")
    return str(root)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("data") / "a", range(40))


def numbers(source):
    return [int(source.metadata(i)["key"]) for i in range(len(source))]


class TwoTowers:
    def functions(self):
        return {name: Function(None, {}) for name in ("embed_image", "embed_text", "features")}


FNS = {
    "embed_image": lambda batch: (
        batch["image"].reshape(len(batch["image"]), -1) / 255.0,
        batch["index"],
    ),
    "embed_text": lambda batch: (np.ones((len(batch["text"]), 192)), batch["index"]),
}


def protocol(trained, path, **more):
    context = EvalContext(lambda texts: np.zeros((len(texts), 4), np.int32), 8, 16)
    made = make_evaluators({"retrieval": {"path": path, **more}}, context, TwoTowers(), trained)
    return run_evaluators(made, FNS, trained)["retrieval"].protocol


def test_the_trainings_path_is_measured_on_what_was_held_out(data, tmp_path):
    held = len(Holdout.of(open_pool(data), 0.3).part(open_pool(data), held=True))
    assert 4 < held < 20
    found = protocol(Trained(data, 0.3), data)
    assert found["images"] == held and found["trained on"] == f"0 of {held} pictures"
    assert found["data"] == f"{data} (held out)"
    whole = protocol(Trained(data), data)
    assert whole["images"] == 40 and whole["trained on"] == "40 of 40 pictures"
    assert whole["data"] == data and "trained on" not in protocol(Trained(), data)
    other = folder(tmp_path / "b", range(30, 50))  # ten of its pictures are known
    mixed = protocol(Trained(f"{data},{other}", 0.3), other)
    assert mixed["data"] == f"{other} (held out)" and mixed["trained on"].startswith("0 of ")
    assert protocol(Trained(data), other)["trained on"] == "10 of 20 pictures"
    assert protocol(Trained(data), other, limit=5)["trained on"] == "10 of 20 pictures"
    assert "trained on" not in protocol(Trained(str(tmp_path / "gone"), 0.1), other)
    stranger = protocol(Trained(data, 0.3), other)  # another set is never cut
    assert stranger["images"] == 20 and stranger["data"] == other
    rule = Holdout.of(open_pool(data), 0.3)
    left = 10 - sum(n in range(30, 40) for n in numbers(rule.part(open_pool(data), held=True)))
    assert stranger["trained on"] == f"{left} of 20 pictures"


def test_a_picture_that_cannot_be_read_was_not_trained_on(tmp_path):
    a, b = folder(tmp_path / "a", range(4)), folder(tmp_path / "b", range(3))
    trained, source = Trained(a), open_pool(b)
    assert trained.whole is not None
    (tmp_path / "a" / "1.png").unlink()
    (tmp_path / "b" / "0.png").unlink()
    assert trained.seen(source) == "1 of 3 pictures"


def test_what_learns_reads_the_other_part(data):
    context = EvalContext(None, 8, 16)
    configs = {"probe": {"train": data, "val": data, "path": data}}
    probe = make_evaluators(configs, context, TwoTowers(), Trained(data, 0.3))["probe"]
    assert len(probe.train) + len(probe.path) == 40 and len(probe.train) == len(probe.val)
    assert set(probe.train.rows.tolist()).isdisjoint(probe.path.rows.tolist())
    assert probe.train.name == f"{data} (without what is held out)"
    alone = make_evaluators(configs, context, TwoTowers(), Trained(data))["probe"]
    assert (alone.train, alone.path) == (data, data)


def test_too_many_pictures_are_not_read_for_it(data, monkeypatch):
    for bound in (40, 39):
        monkeypatch.setattr(module, "LOOKED_AT", bound)
        assert ("trained on" in protocol(Trained(data), data)) == (bound == 40)
    emoji = "builtin:emoji/noto-test"  # tars have their checksums in the index
    assert Trained(emoji).seen(open_pool(emoji)) == "386 of 386 pictures"
    assert Trained(f"{emoji},{data}").seen(open_pool(emoji)) == ""
    monkeypatch.setattr(module, "COMPARED", 385)
    assert Trained(emoji).seen(open_pool(emoji)) == ""


def test_numbers_for_names_are_refused_before_training(tmp_path):
    folder(tmp_path / "a", range(2))
    for n in range(2):
        (tmp_path / "a" / f"{n}.json").write_text(f'{{"y": {n}}}')
    configs = {"zs": {"type": "zeroshot", "path": str(tmp_path / "a"), "label": "y"}}
    with pytest.raises(UserError, match=r"evals\.zs: label='y' holds numbers, and a prompt"):
        make_evaluators(configs, EvalContext(None, 8, 16), TwoTowers())


def test_data_that_changed_since_moves_no_trained_picture_into_the_held_out_part(tmp_path):
    """Of few pictures one is held out whatever the share says, so the rule is the run's own."""
    data = folder(tmp_path / "few", range(8))
    before = Trained(data, 1e-6)
    (held,) = numbers(before.part(data, held=True))
    digest = before.rule.part(open_pool(data), held=False).fingerprint
    assert Trained(data, 1e-6, before.edge, digest).seen(open_pool(data)) == "7 of 8 pictures"
    for suffix in ("png", "txt"):
        (tmp_path / "few" / f"{held}.{suffix}").unlink()
    after = Trained(data, 1e-6, before.edge, digest)
    with pytest.raises(UserError, match=r"holds nothing of .* out; give a larger share"):
        after.part(data, held=True)
    assert after.seen(open_pool(data)) == "unknown: the training data has changed since"


def test_a_mixture_is_known_in_any_order(data, tmp_path):
    other = folder(tmp_path / "b", range(50, 80))
    trained = Trained(f"{data},{other}", 0.3)
    (one, two) = (trained.part(path, held=True) for path in (f"{data},{other}", f"{other},{data}"))
    assert len(one) == len(two) < 40 and two.name.endswith("(held out)")


def test_a_run_and_its_later_evaluation_agree_on_what_is_held_out(make_trainer, tmp_path):
    from vlp_jax.api.evaluate import trained_on
    from vlp_jax.train.workdir import run_files, write_files

    path = make_trainer().config.data.path
    trainer = make_trainer(
        **{"data.holdout": 0.2, "evals.mine.type": "retrieval", "evals.mine.path": path}
    )
    held = trainer.evaluators["mine"].path
    assert trainer.pipeline.num_examples + len(held) == 40 and 2 <= len(held) <= 16
    assert set(held.rows.tolist()).isdisjoint(trainer.pipeline.source.rows.tolist())
    write_files(tmp_path / "w", run_files(trainer.config, "d", (), trainer.trained.edge))
    assert trained_on(str(tmp_path / "w")).path == ""  # no run yet
    (tmp_path / "w" / "checkpoints").mkdir()
    again = trained_on(str(tmp_path / "w")).part(path, held=True)
    assert again.fingerprint == held.fingerprint
    assert trained_on(str(tmp_path / "w")).edge == trainer.trained.edge > 0
    assert trained_on(str(tmp_path / "w")).seen(open_pool(path)).startswith("unknown: ")  # not d
    with pytest.raises(UserError, match=r"data\.holdout=0\.95 is out of range"):
        make_trainer(**{"data.holdout": 0.95})


def test_the_folder_recipe_holds_a_tenth_out_for_its_evaluation():
    from configs.clip.folder import get_config

    config = get_config()
    config.data.path = "x"
    assert config.data.holdout == 0.1 and config.evals.retrieval.path == "x"
