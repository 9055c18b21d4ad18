"""P12: tar -> decode -> random crop 224 -> batch, against open_clip's WebDataset pipeline, in
images/s/core.

    python experiments/benchmarks/p12_tar_to_batch.py [--peer-python PATH] [--pairs 10] [--json]

Both sides read the same tar in one process of their own on one core and run whole epochs in turns
(A B A B ...). The peer is `open_clip_train.data.get_wds_dataset` with its training transform and no
workers. A core second is a second of CPU time of the process, so other load on the machine does not
count. Neither side tokenizes. The file exists so that the claim about the input path can be
repeated anywhere.
"""

import argparse
import importlib.util
import io
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import types

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIZES = {  # height, width, pictures
    "256": (256, 341, 256),
    "384": (384, 512, 192),
    "512": (512, 683, 128),
    "1024": (1024, 1365, 48),
    "2048": (2048, 2731, 16),
}
GOALS = {"256": 1.5, "384": 1.5, "512": 1.5, "1024": 2.5, "2048": 2.5}
BATCH = 16
ROW = (
    "{edge:>6} {bits_per_pixel:7.2f} {ours:8.1f} {peer:8.1f} {ratio:7.2f} {low:5.2f}-{high:<6.2f} "
    "{psnr_db:6.1f} ({psnr_lowest_db:.1f}) {goal}"
)


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """uint8[height, width, 3] with the spectrum of photographs: amplitude 1/f^1.2, weak chroma."""
    rng = np.random.default_rng(seed)
    frequency = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.rfftfreq(width)[None] ** 2
    frequency[0, 0] = 1
    noise = np.fft.rfft2(rng.standard_normal((3, height, width))) / frequency**0.6
    planes = np.fft.irfft2(noise, (height, width))
    planes /= planes.std((1, 2), keepdims=True)
    planes = planes * np.array([50, 15, 15])[:, None, None] + 128
    ycc = np.clip(planes.transpose(1, 2, 0), 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(ycc, "YCbCr").convert("RGB"))


def write_tar(path: str, name: str) -> float:
    """Writes one shard of JPEGs at quality 90; returns their mean bits per pixel."""
    height, width, count = SIZES[name]
    total = 0
    with tarfile.open(path, "w") as tar:
        for i in range(count):
            out = io.BytesIO()
            Image.fromarray(picture(height, width, i)).save(out, "JPEG", quality=90)
            total += out.tell()
            for suffix, data in (("jpg", out.getvalue()), ("txt", b"a picture")):
                info = tarfile.TarInfo(f"{i:06d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return 8 * total / (height * width * count)


class Constant:
    """A tokenizer that costs nothing."""

    def __call__(self, texts):
        return np.zeros((len(texts), 1), np.int32)


def ours(path: str, count: int):
    """Endless batches of ours, and how to run one epoch."""
    sys.path.insert(0, str(ROOT))
    from vlp_jax.core.fields import Picture, Text
    from vlp_jax.data.pipeline import TrainPipeline

    config = {"path": path, "threads": 1, "prefetch": 1}
    fields, own = {"image": Picture(224), "text": Text(1, 1)}, {"text": Constant()}
    pipeline = TrainPipeline(config, fields, batch_size=BATCH, seed=0, tokenizers=own)
    batches = pipeline.batches(0)
    return lambda: sum(len(next(batches)["image"]) for _ in range(count // BATCH))


def _declare_torchvision_operators():
    """Declares the operators that a torchvision built for another torch fails to find; none is used
    here."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    text = (pathlib.Path(spec.origin).parent / "_meta_registrations.py").read_text()
    names = set(re.findall(r"torchvision::(\w+)", text)) | set(
        re.findall(r'register_meta\("(\w+)"', text)
    )
    library = torch.library.Library("torchvision", "DEF")
    for name in sorted(names):
        library.define(f"{name}(Tensor a) -> Tensor")
    return library


def peer(path: str, count: int):
    """open_clip's training pipeline, and how to run one epoch."""
    import torch

    torch.set_num_threads(1)
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [m for m in sys.modules if m.startswith("torchvision")]:
            del sys.modules[name]
        peer.library = _declare_torchvision_operators()
    import open_clip

    if (
        importlib.util.find_spec("pandas") is None
    ):  # imported at the top there, used for CSV files only
        sys.modules["pandas"] = types.ModuleType("pandas")
    import webdataset
    from open_clip_train import data

    # open_clip's own copy of this step predates webdataset 1.0 and fails with it
    data.tarfile_to_samples_nothrow = webdataset.tarfile_to_samples(handler=data.log_and_continue)

    args = argparse.Namespace(
        train_data=path,
        train_num_samples=count,
        dataset_resampled=False,
        seed=0,
        workers=0,
        world_size=1,
        batch_size=BATCH,
        train_data_upsampling_factors=None,
    )
    transform = open_clip.transform.image_transform(224, is_train=True)
    token = torch.zeros((1, 1), dtype=torch.int64)
    info = data.get_wds_dataset(args, transform, True, tokenizer=lambda _text: token)
    return lambda: sum(len(images) for images, _ in info.dataloader)


def _settle() -> float:
    """CPU seconds of this process once nothing runs ahead in it any more."""
    used, before = time.process_time(), -1.0
    while used - before > 0.002:
        time.sleep(0.05)
        used, before = time.process_time(), used
    return used


def serve(side: str, path: str, count: int) -> None:
    """Child process: for every line on stdin runs one epoch and prints images and CPU seconds.

    Batches read ahead after the epoch count into it, so that nothing is done between the turns.
    """
    run = {"ours": ours, "peer": peer}[side](path, count)
    for _ in sys.stdin:
        before = _settle()
        images = run()
        print(json.dumps([images, _settle() - before]), flush=True)


class Side:
    """A child process that runs epochs on command."""

    def __init__(self, python: str, side: str, path: str, count: int):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
        command = [python, __file__, "--serve", side, path, str(count)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def epoch(self) -> float:
        """Images per core second of one epoch."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the child process failed:\n" + self.process.stderr.read()[-2000:])
        images, cpu = json.loads(line)
        return images / cpu

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def quality(path: str) -> tuple[float, float, bool]:
    """PSNR of ours to whole decode plus Pillow's bicubic at the same crops (median, lowest), and
    equal drops."""
    sys.path.insert(0, str(ROOT))
    from vlp_jax.data.damage import DamagedSample
    from vlp_jax.data.decode import decode_image
    from vlp_jax.data.framing import random_box
    from vlp_jax.data.order import example_rng
    from vlp_jax.data.tar import TarSource

    found, agree = [], True
    source = TarSource(path)
    for i in range(min(16, len(source))):
        data = source[i]["image"]
        image = Image.open(io.BytesIO(data)).convert("RGB")
        box = random_box(*image.size, example_rng(0, 0, i))
        plain = np.asarray(image.crop(box).resize((224, 224), Image.Resampling.BICUBIC), np.float64)
        error = np.mean((decode_image(data, 224, "random", example_rng(0, 0, i)) - plain) ** 2)
        found.append(10 * np.log10(255**2 / max(error, 1e-9)))
        for broken in (data[: len(data) // 2], b"<html>", b""):
            agree &= _drops(Image.open, io.BytesIO(broken)) == _drops(
                decode_image, broken, 224, kind=DamagedSample
            )
    return float(np.median(found)), min(found), agree


def _drops(function, *args, kind=Exception) -> bool:
    try:
        getattr(function(*args), "load", lambda: None)()
    except kind:
        return True
    return False


def compare(name: str, folder: str, options: argparse.Namespace) -> dict:
    """One row: interleaved epochs of both sides on the same tar."""
    path = os.path.join(folder, f"{name}.tar")
    bits = write_tar(path, name)
    sides = [
        Side(options.python, "ours", path, SIZES[name][2]),
        Side(options.peer_python, "peer", path, SIZES[name][2]),
    ]
    try:
        for side in sides:
            side.epoch()
        pairs = [[side.epoch() for side in sides] for _ in range(options.pairs)]
    finally:
        for side in sides:
            side.close()
    ratios = sorted(a / b for a, b in pairs)
    median, lowest, agree = quality(path)
    return {
        "edge": name,
        "bits_per_pixel": round(bits, 2),
        "ours": round(statistics.median(p[0] for p in pairs), 1),
        "peer": round(statistics.median(p[1] for p in pairs), 1),
        "psnr_db": round(median, 1),
        "psnr_lowest_db": round(lowest, 1),
        "same_drops": agree,
        "low": round(ratios[0], 2),
        "high": round(ratios[-1], 2),
        "goal": GOALS[name],
        "ratio": round(statistics.median(ratios), 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="interpreter of our side")
    parser.add_argument(
        "--peer-python", default=sys.executable, help="interpreter that has open_clip_train"
    )
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--sizes", default=",".join(SIZES), help="shortest edges, comma-separated")
    parser.add_argument("--out", help="also write the result to this JSON file")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], options.serve[1], int(options.serve[2]))
        return 0
    print("  edge  bit/px   ours/s   peer/s   ratio       spread       PSNR dB goal")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sizes.split(","):
            row = compare(name, folder, options)
            rows.append(row)
            print(ROW.format(**row), flush=True)
    result = {"row": "P12", "unit": "images per core second", "pairs": options.pairs, "rows": rows}
    result["ratio"] = min(row["ratio"] for row in rows)
    if options.out:
        pathlib.Path(options.out).write_text(json.dumps(result, indent=1) + "\n")
    if options.json:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
