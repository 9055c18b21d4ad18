"""A run's folder: the resolved config, versions, the data's digest; refuses to mix two runs.

The file exists so that a run can be told apart and repeated, and the same command line starts and
resumes it.
"""

import hashlib
import importlib.metadata
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.data.order import STREAM

# Keys that say how a run is carried out, not what it computes: they may differ on resume.
OPERATIONAL = (
    *("mesh", "sharding", "evals", "eval_batch_size", "wandb", "max_bad_steps"),
    *("heartbeat_seconds", "hang_seconds"),
    *("log_every", "eval_every", "checkpoint_every", "checkpoint_minutes"),
    *("keep_checkpoints", "keep_every", "data.workers", "data.threads", "data.prefetch"),
)
_PACKAGES = (
    "vlp_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "pillow",
)


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'data': {'path': 'x'}} -> {'data.path': 'x'}; empty mappings stay as {}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) or hasattr(value, "to_dict"):
            flat.update(flat_config(value, f"{name}.") if len(value) else {name: {}})
        else:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return flat


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(value, indent=1, sort_keys=True, default=str) + "\n")
    os.replace(partial, path)


def versions() -> dict[str, str]:
    """Versions of the packages that decide a run's numbers, and the git revision where there is
    one.
    """
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    git = subprocess.run(command, capture_output=True, text=True, check=False)
    return {**found, "git": git.stdout.strip() or "unknown", "code": code_digest()}


def code_digest() -> str:
    """Digest of the package's source files, which tells an edited tree from its revision."""
    root, found = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def run_facts(config: Mapping[str, Any], data_digest: str) -> dict[str, Any]:
    """What all processes of a job must have in common: config keys, data, code and versions."""
    flat = {key: value for key, value in flat_config(config).items() if key != "config_file"}
    return {**flat, "training data": data_digest, **versions()}


def _operational(key: str) -> bool:
    return any(key == name or key.startswith(name + ".") for name in OPERATIONAL)


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys of flat configs, operational ones left out, whose values differ, as `key: old ->
    new`.
    """
    names = sorted((old.keys() | new.keys()) - {"config_file"})
    return [
        f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}"
        for name in names
        if not _operational(name) and old.get(name) != new.get(name)
    ]


def read_config(path: str | Path) -> dict[str, Any]:
    """The resolved config of a workdir, as plain values.

    Raises:
      UserError: the folder holds no run.
    """
    file = Path(path) / "config.json"
    try:
        return json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"{path}: holds no run (no {file.name} can be read)") from error
    except ValueError as error:
        raise UserError(f"{file}: no JSON ({error})") from error


def check_workdir(path: Path, config: Mapping[str, Any], data_digest: str, force: bool) -> None:
    """Checks that the folder is free or belongs to the same run; writes nothing.

    Raises:
      UserError: a file stands in its place, or `force` is off and the folder holds a run of other
        random streams, another config or other data; the message lists the differing keys.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"--workdir={path}: is a file, not a folder")
    new = json.loads(json.dumps(flat_config(config), default=str))
    file = path / "config.json"
    if file.is_file() and not force:
        run = json.loads((path / "run.json").read_text()) if (path / "run.json").is_file() else {}
        if run and run.get("stream", 1) != STREAM:
            raise UserError(
                f"--workdir={path}: its run drew random stream {run.get('stream', 1)}, this version"
                f" draws {STREAM} and cannot repeat it: finish it with the version that started it "
                "(run.json), choose another folder, or pass --force to go on with other draws"
            )
        old = flat_config(json.loads(file.read_text()))
        different = differing_keys(old, new)
        if run.get("data_digest", data_digest) != data_digest:
            different.append("the training data's listing (files were added, removed or changed)")
        if different:
            raise UserError(
                f"--workdir={path}: holds a run of another config ({'; '.join(different)}); "
                "choose another folder or pass --force"
            )


def write_workdir(path: Path, config: Mapping[str, Any], data_digest: str) -> None:
    """Creates the folder, where there is none, and writes config.json and run.json."""
    path.mkdir(parents=True, exist_ok=True)
    nested = json.loads(config.to_json()) if hasattr(config, "to_json") else dict(config)
    write_json(path / "config.json", nested)
    run = {"data_digest": data_digest, "stream": STREAM, "versions": versions()}
    write_json(path / "run.json", run)
