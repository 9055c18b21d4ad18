"""Who imports whom (CONTRIBUTING.md): walks the imports and fails on any other arrow."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "vlp_jax"
ALLOWED = {
    "core": set(),
    "parallel": {"core"},
    "nn": {"core", "parallel"},
    "models": {"core", "parallel", "nn"},
    "losses": {"core", "parallel"},
    "augment": {"core"},
    "decoding": {"core"},
    "diffusion": {"core"},
    "methods": {
        *("core", "parallel", "nn", "models"),
        *("losses", "augment", "decoding", "diffusion"),
    },
    "data": {"core"},
    "optim": {"core"},
    "interop": {"core"},
    "evals": {"core", "data"},
    "report": {"core", "data", "evals"},
    "plan": {"core", "parallel", "methods", "train"},
    "train": {"core", "parallel", "data", "optim", "methods", "evals"},
    "serve": {"core", "parallel", "data", "report", "api"},
}
OPEN = {"api", "cli", "__init__.py", "__main__.py"}  # may import everything of the package
BANNED = {"utils", "util", "helpers", "helper", "common", "misc"}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """Dotted names that a file imports, anywhere in it, also as `import_module("...")`."""
    home = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = home[: len(home) - node.level + 1] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            words = (word for word in node.args if isinstance(word, ast.Constant))
            yield from (word.value for word in words if isinstance(word.value, str))


def folder(dotted):
    parts = dotted.split(".")
    return parts[1] if parts[0] == "vlp_jax" and len(parts) > 1 else None


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_and_names(path):
    home = path.relative_to(PACKAGE).parts[0]
    found = set(imports(path))
    assert home in ALLOWED or home in OPEN, f"{home}: say in this test what it may import"
    if home in ALLOWED:
        others = {folder(name) for name in found} - {None, home, "__version__"}
        assert others <= ALLOWED[home], f"{home} may not import {sorted(others - ALLOWED[home])}"
    for name in found:
        top = name.split(".")[0]
        assert top not in ("torch", "tensorflow", "configs", "experiments", "tests"), name
        if home == "methods" and name.startswith("vlp_jax.methods."):
            kind = name.split(".")[2]
            assert kind in ("base", "kits"), f"methods never import each other: {name}"
        elif home != "methods":
            assert not name.startswith("vlp_jax.methods.kits"), f"only methods import kits: {name}"
        if name.startswith("vlp_jax.cli"):
            assert home in ("cli", "__main__.py"), f"nobody imports cli: {name}"
        if name.startswith("vlp_jax.serve"):
            assert home in ("serve", "cli"), f"only commands import serve: {name}"
        if home == "train" and name.startswith(("vlp_jax.methods.", "vlp_jax.evals.")):
            assert name.split(".")[2] == "base", f"train knows no method or evaluator: {name}"
    assert path.stem not in BANNED
    assert path.read_text().count("\n") <= 400


def arrows():
    """{module: modules of the package that it imports}, imports inside functions too."""
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES}
    modules = {name.removesuffix(".__init__") for name in names.values()}
    return {
        name.removesuffix(".__init__"): {found for found in imports(path) if found in modules}
        for path, name in names.items()
    }


def test_no_two_modules_import_each_other():
    graph, done = arrows(), set()

    def walk(name, above):
        assert name not in above, f"a circle: {' -> '.join([*above[above.index(name) :], name])}"
        if name not in done:
            for other in graph[name] - {name}:
                walk(other, [*above, name])
            done.add(name)

    assert len(graph) > 150
    for name in graph:
        walk(name, [])


def test_only_three_folders_know_flax():
    users = {
        path.relative_to(PACKAGE).parts[0] for path in FILES if "flax.linen" in set(imports(path))
    }
    assert users <= {"nn", "models", "methods"}


@pytest.mark.parametrize(
    "line, name",
    [
        ("from ..train import loop", "vlp_jax.train.loop"),
        ("from . import rng", "vlp_jax.core.rng"),
        ("def f():\n    import torch.nn", "torch.nn"),
        ("importlib.import_module('tensorflow')", "tensorflow"),
        ("__import__('torch')", "torch"),
    ],
)
def test_the_walk_sees_every_kind_of_import(line, name, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "vlp_jax" / "core" / "made_here.py"
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert name in set(imports(path))


def test_importing_the_package_brings_in_neither_torch_nor_tensorflow():
    code = "import sys, pkgutil, importlib, vlp_jax\n"
    code += "for m in pkgutil.walk_packages(vlp_jax.__path__, 'vlp_jax.'):\n"
    code += "    m.name.endswith('__main__') or importlib.import_module(m.name)\n"
    code += "print([m for m in ('torch', 'tensorflow', 'configs', 'tests') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stdout + found.stderr
