"""Pictures and texts for live parity, and an import of torchvision that works everywhere.

Beside some CPU builds of PyTorch torchvision misses its compiled operators and fails to import.
open_clip and transformers import torchvision for picture transforms alone, which need no operator;
declaring the operators' names is enough. Also keeps PyTorch to two threads.

What a test compares with np.testing.assert_allclose is noted, and the largest difference of every
test printed at the end: the table of vlp_jax/interop/README.md.
"""

import io
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image

OPERATORS = (
    "nms qnms roi_align _roi_align_backward qroi_align ps_roi_align _ps_roi_align_backward "
    "roi_pool _roi_pool_backward ps_roi_pool _ps_roi_pool_backward "
    "deform_conv2d _deform_conv2d_backward"
)


def declare_torchvision_operators() -> object | None:
    """Declares the operators where they are missing; keep the returned library alive."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(2)
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        import sys

        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # the failed import left half a module behind
        library = torch.library.Library("torchvision", "DEF")
        for name in OPERATORS.split():
            library.define(f"{name}(Tensor x) -> Tensor")
        return library
    return None


LIBRARY = declare_torchvision_operators()


@pytest.fixture(autouse=True)
def noted(monkeypatch, record_property):
    """Keeps how far apart the arrays of each comparison were, and how large the largest number."""
    check = np.testing.assert_allclose

    def assert_allclose(found, wanted, *args, **how):
        check(found, wanted, *args, **how)
        apart = np.abs(np.asarray(found, float) - np.asarray(wanted, float)).max(initial=0)
        size = np.abs(np.asarray(wanted, float)).max(initial=0)
        record_property("compared", (how.get("err_msg", ""), float(apart), float(size)))

    monkeypatch.setattr(np.testing, "assert_allclose", assert_allclose)


def pytest_terminal_summary(terminalreporter):
    """The largest difference of every test and name."""
    rows = {}
    for report in terminalreporter.stats.get("passed", ()):
        test = report.nodeid.rpartition("/")[2].partition("[")[0]
        for key, (name, *found) in report.user_properties if report.when == "call" else ():
            if key == "compared":
                rows.setdefault((test, name), []).append(found)
    for (test, name), found in rows.items():
        apart, size = np.max(found, axis=0)
        terminalreporter.write_line(f"{apart:8.1e} of {size:8.1e}  {test} {name}")


SIZES = (
    (300, 200, "PNG"),
    (224, 224, "PNG"),
    (101, 397, "PNG"),
    (640, 427, "JPEG"),
    (1200, 803, "JPEG"),
)


@pytest.fixture(scope="session")
def picture_files():
    """Encoded pictures: opaque, of odd sizes, PNG and JPEG, and two emoji of the embedded set."""
    rng = np.random.default_rng(0)
    found = []
    for width, height, kind in SIZES:
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize(
            (width, height), 3
        )
        noise = rng.normal(0, 12, (height, width, 3))
        picture = Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))
        file = io.BytesIO()
        picture.save(file, kind, quality=90)
        found.append(file.getvalue())
    return found + emoji(2)


def emoji(count):
    """Emoji as RGB PNG files: open_clip resizes palette pictures by nearest neighbour, which is not
    compared here."""
    folder = pathlib.Path(__file__).parents[2] / "vlp_jax" / "data" / "emoji"
    shards = sorted(folder.glob("*.tar"))
    found = []
    for shard in shards[:1]:
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".png") and len(found) < count:
                    file = io.BytesIO()
                    Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB").save(
                        file, "PNG"
                    )
                    found.append(file.getvalue())
    return found


@pytest.fixture(scope="session")
def texts():
    """Captions of the odd kinds, one of them too long."""
    return [
        "a photo of a cat",
        "A man, riding a wave on top of a surfboard!",
        "naïve café — 100% 🙂",
        "word " * 120,
    ]
