"""P19: what a frozen language model costs a run of BLIP-2's second stage: memory and time of its
load by `init_from`, and bytes of its checkpoints.

python experiments/benchmarks/p19_frozen_parts.py [--folder=DIR] [--layers=27] [--devices=1]
    [--lm=FOLDER]

The model is made up: a LLaMA of 2048 numbers, 27 layers and 1.5 billion parameters in bf16, 3 GB in
three files, behind an eye of one layer. Memory is what the process holds above what it held before
`init_from`, every page of the weights touched: pages of mapped files count, and so does the first
use of the compiler; `anonymous` is the share that no file backs. Load is from the look at the
folder, digests of every file included, to weights on the devices whose every page was touched; the
raw read is of the same files, 4 MiB at a time, and both drop the page cache where they may.
`--devices=8` shares the weights by fsdp among as many simulated devices. `--lm` takes a real one in
place of the made-up one: SmolLM2-135M, converted (experiments/blip2_smollm2).
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from duel import show
from p13_checkpoint import drop_cache, raw_read, seconds

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
SIZES = {
    "image_size": 28, "batch_size": 8, "steps": 1, "method.image.num_layers": 1,
    "method.image.width": 176, "method.qformer.num_layers": 2,
}  # fmt: skip
MADE_UP = {
    "data.tokenizer": "bytes", "method.lm.width": 2048, "method.lm.num_heads": 16,
    "method.lm.hidden": 5504, "method.end_ids": (258,), "method.start_id": 257,
}  # fmt: skip
REAL = {"method.lm_dtype": "float32", "method.end_ids": (2,)}  # as its file has them
STEP = 1 << 24  # numbers that are drawn at a time


class Meter:
    """Peak memory of the process above what it held before, bytes, looked at each 5 ms."""

    def __enter__(self) -> "Meter":
        self.before, self.peak, self.done = self.held(), [0, 0], threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    @staticmethod
    def held() -> list[int]:
        """[resident, of these anonymous]."""
        lines = Path("/proc/self/status").read_text().splitlines()
        said = {key: value.split()[0] for key, _, value in (line.partition(":") for line in lines)
                if key in ("VmRSS", "RssAnon")}  # fmt: skip
        return [int(said[key]) << 10 for key in ("VmRSS", "RssAnon")]

    def watch(self) -> None:
        while not self.done.wait(0.005):
            now = zip(self.held(), self.before, strict=True)
            self.peak = [max(most, a - b) for most, (a, b) in zip(self.peak, now, strict=True)]


def make_trainer(args: argparse.Namespace) -> Any:
    """A run of the second stage that starts from FOLDER/weights, and from --lm."""
    from vlp_jax.api.config import load_config
    from vlp_jax.train.trainer import Trainer

    folder, lm = Path(args.folder), args.lm
    (folder / "pictures").mkdir(exist_ok=True)
    for i in range(8):
        picture = np.random.default_rng(i).integers(0, 256, (28, 28, 3), np.uint8)
        write_png(folder / "pictures" / f"{i}.png", picture)
        (folder / "pictures" / f"{i}.txt").write_text("a picture")
    flags = {**SIZES, "data.path": folder / "pictures", "mesh.data": 1, "mesh.fsdp": args.devices}
    flags |= {**REAL, "data.tokenizer": f"{lm}/tokenizer.json"} if lm else MADE_UP
    flags |= {} if lm else {"method.lm.num_layers": args.layers}
    flags = {key: str(value) for key, value in flags.items()}
    which = "smollm2-135m" if lm else "llama-7b"
    config = load_config(f"{ROOT}/configs/blip2/stage2.py:g,{which}", flags)
    with config.unlocked(), config.ignore_type():
        config.init_from = {"image": f"{folder}/weights", "lm": lm or f"{folder}/weights"}
        config.evals = {}
    return Trainer(config)


def write_png(path: Path, picture: np.ndarray) -> None:
    """A file of uint8[H, W, 3]."""
    from PIL import Image

    Image.fromarray(picture).save(path)


def make_weights(args: argparse.Namespace) -> None:
    """FOLDER/weights: what is frozen, drawn at random some numbers at a time; without --lm's."""
    from vlp_jax.core.pytree import flatten
    from vlp_jax.interop import folder as folders
    from vlp_jax.interop.tensors import of_pieces

    trainer, folder, rng = make_trainer(args), Path(args.folder), np.random.default_rng(0)

    def drawn(shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        rows = max(1, STEP // max(1, int(np.prod(shape[1:]))))
        for start in range(0, shape[0], rows):
            size = (min(rows, shape[0] - start), *shape[1:])
            bits = rng.integers(0, 1 << 16, size, np.uint16) & 0x80FF | 0x3C00  # 0.008 to 0.03
            yield bits.view(ml_dtypes.bfloat16)

    leaves = flatten({**trainer.abstract.frozen, **trainer.abstract.state["extra"]})
    arrays = {
        path: of_pieces(leaf.shape, ml_dtypes.bfloat16, lambda shape=leaf.shape: drawn(shape))
        for path, leaf in leaves.items()
        if not (args.lm and path.startswith("lm/"))
    }
    folders.LIMIT = 1 << 30
    manifest = {key: {} for key in ("method", "tokenizer", "golden")}
    how = {"image_size": 28, "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop": "squash"}
    how |= {"resample": "bicubic"}
    manifest |= {"arch": "", "preprocessing": how}
    folders.write_folder(str(folder / "weights"), arrays, manifest)


def touch(tree: Any) -> None:
    """Reads a byte of every page."""
    import jax

    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            np.asarray(shard.data).reshape(-1).view(np.uint8)[::4096].max()


def bytes_of(folder: Path) -> int:
    """Of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def load(args: argparse.Namespace) -> dict[str, Any]:
    """Loads, touches and saves, in a process of its own."""
    from vlp_jax.api.init_from import Weights
    from vlp_jax.train.checkpoint import Checkpoints

    folder, weights = Path(args.folder), Path(args.folder) / "weights"
    read = [weights, *([Path(args.lm)] if args.lm else [])]
    trainer = make_trainer(args)
    _ = trainer.abstract
    size, report = sum(map(bytes_of, read)), {"cold_reads": all(map(drop_cache, read))}
    report["raw_read_s"] = seconds(lambda: [raw_read(each) for each in read])
    for each in read:
        drop_cache(each)
    with Meter() as meter:
        begun = time.perf_counter()
        start = trainer.first(Weights(trainer).weights)
        report["load_s"] = time.perf_counter() - begun
        touch(start.frozen)
        report["load_and_touch_s"] = time.perf_counter() - begun
    report |= {"bytes": size, "peak_bytes": meter.peak[0], "peak_anonymous_bytes": meter.peak[1]}
    saved = {}
    for name, frozen in (("without", None), ("with", start.frozen)):
        checkpoints = Checkpoints(folder / name)
        checkpoints.save(1, start.state, frozen)
        checkpoints.wait()
        saved[name] = bytes_of(folder / name / "1")
    report |= {f"checkpoint_bytes_{name}": count for name, count in saved.items()}
    report["checkpoint_ratio"] = saved["with"] / saved["without"]
    report["load_over_raw_read"] = report["load_and_touch_s"] / report["raw_read_s"]
    return report | {"ratio": meter.peak[0] / size}


def main() -> int:
    """Runs the row."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--folder", help="where to write (default: a temporary folder)")
    p.add_argument("--layers", type=int, default=27)
    p.add_argument("--devices", type=int, default=1)
    p.add_argument("--lm", default="", help="a converted folder of SmolLM2-135M")
    p.add_argument("--worker", choices=["make", "load"], help=argparse.SUPPRESS)
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    if args.worker == "make":
        make_weights(args)
    elif args.worker == "load":
        show({"row": "P19", **load(args)}, args.json)
    else:
        folder = tempfile.mkdtemp(dir=args.folder)
        devices = f"--xla_force_host_platform_device_count={args.devices}"
        env = {**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {devices}"}
        own = [f"--{key}={getattr(args, key)}" for key in ("layers", "devices", "lm")]
        own += ["--json"] if args.json else []
        try:
            for worker in ("make", "load"):
                call = [sys.executable, __file__, f"--worker={worker}", f"--folder={folder}", *own]
                subprocess.run(call, check=True, env=env)
        finally:
            shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
