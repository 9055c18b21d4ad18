"""A run's folder: the resolved config, versions, the data's digest; refuses to mix two runs.

The file exists so that a run can be told apart and repeated, and the same command line starts and
resumes it.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlp_jax.core.errors import UserError
from vlp_jax.core.strict_json import dumps, plain
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
    partial.write_text(dumps(value, indent=1, sort_keys=True) + "\n")
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
    """Keys of flat configs, operational ones left out, whose values differ, as `key: old -> new`; a
    key that a version lacks is an empty one.
    """
    names = sorted((old.keys() | new.keys()) - {"config_file"})
    return [
        f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}"
        for name in names
        if not _operational(name)
        and old.get(name) != new.get(name)
        and (old.get(name) or new.get(name))
    ]


def read_config(path: str | Path) -> dict[str, Any]:
    """The resolved config of a workdir, as plain values.

    Raises:
      UserError: the folder holds no run.
    """
    file = Path(path) / "config.json"
    try:
        return _read_json(file)
    except OSError as error:
        raise UserError(f"{path}: holds no run (no {file.name} can be read)") from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file}: no JSON ({error})") from error


def read_run(path: Path) -> dict[str, Any]:
    """What run.json of a workdir says; {} where there is none."""
    return _read_json(path / "run.json") if (path / "run.json").is_file() else {}


def stream_of(path: Path) -> int | None:
    """The random stream that the run in a workdir drew (data/order.py), None where that is not
    known.
    """
    run = read_run(path)
    return run.get("stream", 1) if run else None


@dataclasses.dataclass(frozen=True)
class Stretch:
    """From `step` on, a run's batches have `batch_size` examples, and step s starts at position
    s x batch_size + offset of the stream of examples.
    """

    step: int
    batch_size: int
    offset: int = 0

    def seen(self, step: int) -> int:
        """Examples that the run has seen before a step of this stretch."""
        return step * self.batch_size + self.offset


def stretches(path: Path, step: int, batch_size: int) -> list[Stretch]:
    """The stretches of the run in a workdir up to `step`, the last of them with `batch_size`: a new
    one, which starts where the data stands, after a change.

    Worked example: 3 steps of 16, then steps of 8 from example 48 on: [(0, 16, 0), (3, 8, 24)].
    """
    written = [Stretch(*words) for words in read_run(path).get("stretches", ())]
    if not written and (path / "config.json").is_file():
        written = [Stretch(0, read_config(path)["batch_size"])]
    found = [stretch for stretch in written if stretch.step < step]
    if not found:
        return [Stretch(0, batch_size)]
    if found[-1].batch_size != batch_size:
        found.append(Stretch(step, batch_size, found[-1].seen(step) - step * batch_size))
    return found


def check_workdir(path: Path, config: Mapping[str, Any], data_digest: str, force: bool) -> None:
    """Checks that the folder is free or belongs to the same run; writes nothing.

    Raises:
      UserError: the folder holds a run of other random streams, another config or other data and
        `force` is off; the message lists the differing keys.
    """
    new = plain(flat_config(config))
    file = path / "config.json"
    if file.is_file() and not force:
        run, drawn = read_run(path), stream_of(path)
        if drawn not in (None, STREAM):
            raise UserError(
                f"--workdir={path}: its run drew random stream {drawn}, this version"
                f" draws {STREAM} and cannot repeat it: finish it with the version that started it "
                "(run.json), choose another folder, or pass --force to go on with other draws"
            )
        old = flat_config(read_config(path))
        different = differing_keys(old, new)
        if run.get("data_digest", data_digest) != data_digest:
            different.append("the training data's listing (files were added, removed or changed)")
        if different:
            raise UserError(
                f"--workdir={path}: holds a run of another config ({'; '.join(different)}); "
                "choose another folder or pass --force"
            )


def run_files(
    config: Mapping[str, Any],
    data_digest: str,
    stretches: Sequence[Stretch] = (),
    holdout_edge: int = 0,
    tokenizers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """{name: content} of config.json and run.json; holdout_edge: see data/holdout.py; tokenizers:
    {field: name below the folder}, see data/text/carried.py."""
    nested = json.loads(config.to_json()) if hasattr(config, "to_json") else dict(config)
    run = {"data_digest": data_digest, "stream": STREAM, "versions": versions()}
    run["holdout_edge"] = holdout_edge
    run |= {"tokenizers": dict(tokenizers)} if tokenizers else {}
    run["stretches"] = [dataclasses.astuple(stretch) for stretch in stretches]
    return {"config.json": nested, "run.json": run}


def write_files(path: Path, files: Mapping[str, Any]) -> None:
    """Creates the folder, where there is none, and writes its files, each in one piece."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_json(path / name, content)
