"""PSNR, SSIM and LPIPS of what comes back, against their definitions written out."""

import dataclasses
import types

import numpy as np
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.evals import fidelity
from vlp_jax.evals.base import EvalContext
from vlp_jax.evals.fidelity import Fidelity
from vlp_jax.evals.kits.closeness import psnr, ssim

SIDE, B = 16, 4


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    smooth = rng.uniform(0, 1, (count, SIDE // 4, SIDE // 4, 3))
    return np.kron(smooth, np.ones((1, 4, 4, 1)))


def by_hand(a, b):
    """SSIM of one picture: every window by itself, in two dimensions."""
    at = np.arange(11) - 5
    window = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    window = (window / window.sum())[..., None]
    found = []
    for i in range(SIDE - 10):
        for j in range(SIDE - 10):
            x, y = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mx, my = (window * x).sum((0, 1)), (window * y).sum((0, 1))
            vx, vy = (window * (x - mx) ** 2).sum((0, 1)), (window * (y - my) ** 2).sum((0, 1))
            both = (window * (x - mx) * (y - my)).sum((0, 1))
            top = (2 * mx * my + 1e-4) * (2 * both + 9e-4)
            found.append(top / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    return np.mean(found)


def test_structural_similarity_is_its_definition():
    a = pictures(2)
    b = np.clip(a + 0.1 * np.random.default_rng(1).normal(size=a.shape), 0, 1)
    np.testing.assert_allclose(ssim(a, b), [by_hand(x, y) for x, y in zip(a, b, strict=True)])
    np.testing.assert_allclose(ssim(a, a), 1)
    assert (ssim(a, b) < 0.95).all()
    with pytest.raises(UserError, match="at least 11 pixels"):
        ssim(a[:, :8], b[:, :8])


def test_a_signals_peak_over_its_noise():
    a = pictures(2)
    np.testing.assert_allclose(psnr(a, a * 0 + a - 0.1), [20, 20])
    assert psnr(a, a).tolist() == [100, 100]


def test_the_means_over_pictures_are_of_eight_bits(monkeypatch):
    targets, index = pictures(3), np.array([0, 1, 2, -1])
    targets = np.rint(targets * 255) / 255
    outputs = np.clip(targets + 0.1, 0, 1)
    outputs[1] = targets[1] + 0.3 / 255  # nothing, once it is rounded
    pad = lambda x: np.concatenate([x, np.zeros((1, *x.shape[1:]))])  # noqa: E731
    asked = []

    def reconstruct(batch):
        return np.stack([pad(outputs), pad(targets)], 1), batch["index"]

    def distance(batch):
        asked.append(batch)
        difference = np.float64(batch["image"]) - batch["other"]
        return np.abs(difference).mean((1, 2, 3)), batch["index"]

    def embed(fn, source, context):
        rows, index = fn({"index": source})
        return rows[index >= 0], index[index >= 0]

    monkeypatch.setattr(fidelity, "open_samples", lambda path, limit: index)
    monkeypatch.setattr(fidelity, "embed_pictures", embed)
    context = EvalContext(None, SIDE, B)
    result = Fidelity(context, path="x")({"reconstruct": reconstruct})
    rounded = np.rint(outputs * 255) / 255
    assert result.metrics["psnr"] == pytest.approx(psnr(rounded, targets).mean(), rel=1e-6)
    assert result.metrics["ssim"] == pytest.approx(ssim(rounded, targets).mean(), rel=1e-6)
    assert psnr(rounded, targets)[1] == 100 and result.metrics.keys() == {"psnr", "ssim"}
    panels = result.figures["panels"].panels
    np.testing.assert_allclose(panels, np.stack([targets, outputs], 1), atol=1e-6)

    networks = {"L": {"distance": distance}, "C": {"classify": distance}}
    opener = lambda path: types.SimpleNamespace(fns=networks[path], label="a classifier")  # noqa: E731
    context = dataclasses.replace(context, network=opener)
    again = Fidelity(context, path="x", lpips="L")({"reconstruct": reconstruct})
    wanted = np.abs(np.rint(outputs * 255) - np.rint(targets * 255)).mean((1, 2, 3)).mean()
    assert again.metrics["lpips"] == pytest.approx(wanted, rel=1e-6)
    assert asked[0]["image"].dtype == np.uint8 and "ssim" in result.protocol
    with pytest.raises(UserError, match=r"evals\.f\.lpips: C holds a classifier, no LPIPS"):
        Fidelity(context, path="x", lpips="C").check({}, "evals.f")


def test_without_another_checkpoint_there_is_no_lpips():
    with pytest.raises(UserError, match="lpips=L: this evaluation cannot open checkpoints"):
        Fidelity(EvalContext(None, SIDE, B), path="x", lpips="L").measure({"reconstruct": None})
    with pytest.raises(UserError, match="needs shown >= 1"):
        Fidelity(EvalContext(None, SIDE, B), shown=0)
