"""Who imports whom (CONTRIBUTING.md): walks the imports and fails on any other arrow."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "vlp_jax"
ALLOWED = {
    "core": set(),
    "parallel": {"core"},
    "nn": {"core", "parallel"},
    "models": {"core", "parallel", "nn"},
    "losses": {"core"},
    "diffusion": {"core"},
    "methods": {"core", "parallel", "nn", "models", "losses", "diffusion"},
    "data": {"core"},
    "optim": {"core"},
    "interop": {"core"},
    "evals": {"core", "data"},
    "train": {"core", "parallel", "data", "optim", "methods", "evals"},
}
BANNED = {"utils", "util", "helpers", "helper", "common", "misc"}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """Dotted names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def folder(dotted):
    parts = dotted.split(".")
    return parts[1] if parts[0] == "vlp_jax" and len(parts) > 1 else None


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_and_names(path):
    home = path.relative_to(PACKAGE).parts[0]
    found = set(imports(path))
    if home in ALLOWED:
        others = {folder(name) for name in found} - {None, home, "__version__"}
        assert others <= ALLOWED[home], f"{home} may not import {sorted(others - ALLOWED[home])}"
    for name in found:
        top = name.split(".")[0]
        assert top not in ("torch", "tensorflow", "configs", "experiments", "tests"), name
        if home == "methods" and name.startswith("vlp_jax.methods."):
            assert name.split(".")[2] == "base", f"methods never import each other: {name}"
        if home == "train" and name.startswith("vlp_jax.methods."):
            assert name.split(".")[2] == "base", f"the trainer knows no method: {name}"
    assert path.stem not in BANNED
    assert path.read_text().count("\n") <= 400


def test_only_three_folders_know_flax():
    users = {
        path.relative_to(PACKAGE).parts[0] for path in FILES if "flax.linen" in set(imports(path))
    }
    assert users <= {"nn", "models", "methods"}
