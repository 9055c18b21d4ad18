"""What CLIP's studies hold equal and what they vary: examples seen, rates, sets of templates."""

import pytest

from vlp_jax.api.config import load_config
from vlp_jax.api.study import ROOT, DataSet, load_study
from vlp_jax.core.errors import UserError
from vlp_jax.evals.kits.templates import TEMPLATES

STUDIES = ("clip_batch_size", "clip_prompts")


@pytest.mark.parametrize("full", [False, True], ids=["small", "full"])
def test_batches_differ_in_size_and_rate_alone(full):
    study = load_study("clip_batch_size", full, DataSet())
    configs = {name: study.config(name, 0, {}) for name in study.cells}
    plain = {c.batch_size: c for name, c in configs.items() if name.isdecimal()}
    seen = {c.steps * c.batch_size or c.epochs for c in configs.values()}
    assert len(seen) == 1 and len(plain) == 5
    assert len({c.optim.warmup_examples for c in configs.values()}) == 1
    usual, rate = (32_768, 5e-4) if full else (128, 1e-3)
    for size, config in plain.items():
        assert config.optim.lr == pytest.approx(rate * (size / usual) ** 0.5)
        assert not config.optim.warmup_steps
    fixed = {c.batch_size: c.optim.lr for name, c in configs.items() if not name.isdecimal()}
    assert fixed == {min(plain): rate, max(plain): rate}


@pytest.mark.parametrize("full", [False, True], ids=["small", "full"])
def test_one_model_has_a_classifier_of_every_set(full):
    study = load_study("clip_prompts", full, DataSet())
    counts = {name: len(TEMPLATES[e["templates"]]) for name, e in study.evals.items()}
    assert list(counts.values()) == [1, 1, 7, 80] and TEMPLATES["name"] == ("{c}",)
    assert [c.measure for c in study.columns.values()] == [f"{name}.top1" for name in counts]
    learnt = [study.config(name, 0, {}).data.templates for name in study.cells]
    assert learnt == ([()] if full else [(), TEMPLATES["imagenet"]])


def test_ones_own_checkpoint_meets_the_same_classifiers():
    file = f"{ROOT}/experiments/clip_prompts/recipe.py"
    published = load_study("clip_prompts", True, DataSet()).evals
    assert load_config(file, {}).evals.to_dict() == published
    own = load_config(f"{file}:DIR", {}).evals
    assert {(e.path, e.label) for e in own.values()} == {("DIR", "class")}
    assert set(own) == set(published)


@pytest.mark.parametrize("name", STUDIES)
def test_pictures_without_captions_are_refused(name):
    with pytest.raises(UserError, match="--data: Fashion-MNIST has no captions"):
        load_study(name, False, DataSet(grey=True))
