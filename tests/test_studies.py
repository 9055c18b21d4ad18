"""Every study: its cells build at both scales, its trends ask for cells and columns that exist."""

import json

import jax
import pytest

from vlp_jax.api.repro import chosen
from vlp_jax.api.study import ROOT, DataSet, Trend, load_study, studies
from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import merge
from vlp_jax.methods.base import make_method
from vlp_jax.optim.optimizer import check_paths, make_optimizer
from vlp_jax.train.settings import check_pictures
from vlp_jax.train.state import Recipe, init_state

NAMES = studies()


def shapes(config):
    method, tx = make_method(config.method), make_optimizer(config.optim)
    recipe = Recipe(config.seed, config.batch_size, config.accumulate, tuple(config.freeze))
    state, frozen = jax.eval_shape(lambda: init_state(method, tx, recipe))
    check_pictures(config.image_size, method)
    check_paths(config.optim, merge(state["params"], frozen))
    return state["params"]


@pytest.mark.parametrize("full", [False, True], ids=["small", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_every_cell_builds(name, full, tmp_path):
    study, seen, built = load_study(name, full, DataSet()), set(), set()
    for cell in study.cells:
        config = study.config(cell, 3, {})
        assert config.seed == 3 and (config.steps or config.epochs)
        own = full and name.startswith(("clip_", "blip", "ldm_tiny"))  # pairs are the user's
        known = "tfds:" if full else ("builtin:emoji/", "runs/")
        assert own or config.data.path.startswith(known)
        seen.add(json.dumps(config.to_dict(), default=str))
        nets = (config.method.get(part) for part in ("image", "unet", "autoencoder"))
        kind = config.method.name, *map(str, nets)
        if kind not in built:
            built.add(kind)
            trees = shapes(config)
            aside = study.cells[cell].aside
            for run_name, run in ({} if aside else study.follow_ups).items():
                (tmp_path / "config.json").write_text(config.to_json())
                after = run.load({}, str(tmp_path))
                later = shapes(after)
                if "image" in later:  # frozen towers are no params
                    kept, found = (jax.tree.map(str, tree["image"]) for tree in (trees, later))
                    for norm in ("norm_post", "fc_norm") if run_name == "tuned" else ():
                        kept.pop(norm, None), found.pop(norm, None)
                    if after.image_size != config.image_size:  # positions are resized
                        kept.pop("pos_embed"), found.pop("pos_embed")
                    assert found == kept
    assert len(seen) == len(study.cells), "two cells are the same run"


@pytest.mark.parametrize("full", [False, True], ids=["small", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_trends_find_their_numbers(name, full):
    study = load_study(name, full, DataSet())
    measures = {cell: {c.measure: 0.5 for c in study.columns.values()} for cell in study.cells}
    values = study.values(measures)
    for trend in study.trends:
        assert trend.check(values) is not None, trend.text
    for cell in study.cells.values():
        assert set(cell.paper) <= set(study.columns)


def test_cells_are_named_with_their_commas():
    cells = ["a", "b", "a, b", "c"]
    assert chosen("", cells) == cells and chosen(" c , a,", cells) == ["a", "c"]
    assert chosen("a, b", cells) == ["a, b"] and chosen("c,a, b,a", cells) == ["a", "a, b", "c"]
    for wrong in ("a, d", "d", "ab"):
        with pytest.raises(UserError, match="no such cell"):
            chosen(wrong, cells)


def test_the_paper_itself_passes():
    """Where the paper has every number a trend needs, the trend holds on it."""
    for name in NAMES:
        study = load_study(name, True, DataSet())
        values = {name: dict(cell.paper) for name, cell in study.cells.items()}
        for trend in study.trends:
            assert trend.check(values) is not False, (name, trend.text)


def test_a_page_for_every_study():
    for name in NAMES:
        page = (ROOT / "experiments" / name / "README.md").read_text()
        assert f"python -m vlp_jax repro {name}" in page


def test_a_missing_number_is_no_verdict():
    assert Trend("x", lambda v: v["a"]["b"] > 0).check({"a": {}}) is None
