"""What `index` replaces, and what it never does."""

import json
import os

import pytest

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.data.staging import manifest_of
from vlp_jax.serve.staging import check_free, check_ours, read_plan, staging

PLAN = {"digests": {}}


def made(out, plan=PLAN):
    """An index of one file as `index` leaves it."""
    with staging(str(out), plan) as stage:
        (out.parent / f".{out.name}.building" / "image.index").write_text("vectors")
        stage.finish(lambda: {"format": 1, "plan": plan, "files": {}})
    return out


@pytest.mark.parametrize(
    "text", ['{"name": "my app"}', "[]", "no json", '{"format": 1, "files": {}}']
)
def test_a_manifest_of_something_else(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"^--out="):
        check_free(str(tmp_path))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": None}, "kind None, we read 'capfilt'"),
        ({"format": 2}, "format 2, we read 1"),
        ({"files": {"a.tar": [1]}}, r"damaged \(files\); make the data set again"),
        ({"plan": 3}, r"damaged \(plan\)"),
    ],
)
def test_a_manifest_of_one_kind_is_not_read_as_another(tmp_path, wrong, message):
    """An index has the kind None, a capfilt folder its own."""
    said = {"kind": "capfilt", "format": 1, "plan": PLAN, "files": {"a.tar": [1, 2]}}
    path = tmp_path / "manifest.json"
    assert manifest_of(str(tmp_path), "data set", 1, "capfilt") == {}
    path.write_text(json.dumps(said))
    assert manifest_of(str(tmp_path), "data set", 1, "capfilt") == said
    with pytest.raises(UserError, match=f"^--out=.*{path}: kind 'capfilt', we read None"):
        check_free(str(tmp_path))
    path.write_text(json.dumps(said | wrong))
    with pytest.raises(UserError, match=f"^{path}: {message}"):
        manifest_of(str(tmp_path), "data set", 1, "capfilt")


def test_files_of_the_user_in_an_index(tmp_path):
    out = made(tmp_path / "x")
    check_free(str(out)), check_ours(str(out)), check_ours(str(tmp_path / "none"))
    (out / "safety.npz").write_text("mine")
    check_free(str(out))
    with pytest.raises(UserError, match=r"holds 'safety\.npz', which `index` did not write"):
        check_ours(str(out))


def test_files_put_there_while_it_is_made(tmp_path):
    """They would go with the older index: the new one waits whole beside it, and takes its place
    when they are gone."""
    out, other = made(tmp_path / "x"), {"digests": {"weights": "other"}}

    def again():
        with staging(str(out), other) as stage:
            (out.parent / ".x.building" / "notes").mkdir(exist_ok=True)
            stage.finish(
                lambda: {"format": 1, "plan": other, "files": {}}, lambda: check_ours(str(out))
            )

    (tmp_path / "mine").mkdir()
    for name in ("safety.npz", "link", "empty"):
        path = out / name
        path.write_text("") if "." in name else (
            path.symlink_to(tmp_path / "mine") if name == "link" else path.mkdir()
        )
        with pytest.raises(RunError, match=f"holds '{name}'.*the same command then goes on"):
            again()
        assert os.path.lexists(path) and read_plan(str(out)) == PLAN
        path.rmdir() if name == "empty" else path.unlink()
    again()
    assert read_plan(str(out)) == other and sorted(os.listdir(tmp_path)) == ["mine", "x"]


@pytest.mark.parametrize("name", [".x.building", ".x.replaced"])
@pytest.mark.parametrize("link", [False, True])
def test_hidden_names_that_are_the_users(tmp_path, name, link):
    mine = tmp_path / ("mine" if link else name)
    mine.mkdir()
    (mine / "precious").write_text("mine")
    if link:
        (tmp_path / name).symlink_to(mine)
    with pytest.raises(UserError, match=rf"{name} is in the way"), staging(str(tmp_path / "x"), {}):
        pass
    assert (mine / "precious").read_text() == "mine"


def test_a_link_is_written_where_it_points(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "x"
    link.symlink_to(tmp_path / "disk" / "real")
    for plan in (PLAN, {"digests": {"weights": "other"}}):  # made, then replaced
        with staging(str(link), plan) as stage:
            stage.finish(lambda plan=plan: {"format": 1, "plan": plan, "files": {}})
        assert link.is_symlink() and read_plan(str(link)) == plan
    assert os.listdir(tmp_path / "disk") == ["real"] and sorted(os.listdir(tmp_path)) == [
        "disk",
        "x",
    ]
    assert json.loads((tmp_path / "disk" / "real" / "manifest.json").read_text())["plan"] == plan
