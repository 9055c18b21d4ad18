"""Live parity of LPIPS with torchvision's VGG16 on random weights and random heads, through
`convert`; and with the `lpips` package's own sum where that is installed."""

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
torchvision = pytest.importorskip("torchvision", reason="live parity needs the `peers` extra")

import torch  # noqa: E402

from vlp_jax.api.convert import convert  # noqa: E402
from vlp_jax.api.model import load_model  # noqa: E402
from vlp_jax.core.inputs import Inputs, Vars  # noqa: E402

TAPS = (3, 8, 15, 22, 29)  # relu1_2 ... relu5_3
WIDTHS = (64, 128, 256, 512, 512)


def distance(features, heads, a, b):
    """arXiv:1801.03924 equation 1 as the package adds it up; pictures in [-1, 1], NCHW."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    x, y, total = (a - shift) / scale, (b - shift) / scale, 0.0
    for n, layer in enumerate(features):
        x, y = layer(x), layer(y)
        if n in TAPS:
            one, other = (z / (z.square().sum(1, keepdim=True).sqrt() + 1e-10) for z in (x, y))
            weight = heads[TAPS.index(n)].view(1, -1, 1, 1)
            total = total + (weight * (one - other).square()).sum(1).mean((1, 2))
    return total


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """(folder with VGG16 and heads beside it, our conversion, the VGG16, the heads)."""
    folder = tmp_path_factory.mktemp("lpips")
    torch.manual_seed(0)
    vgg = torchvision.models.vgg16(weights=None).eval()
    for module in vgg.features:
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.bias, std=0.1)
    heads = [torch.rand(width) for width in WIDTHS]
    state = {k: v for k, v in vgg.state_dict().items() if k.startswith("features")}
    torch.save(state, folder / "vgg16-397923af.pth")
    named = {f"lin{n}.model.1.weight": head.view(1, -1, 1, 1) for n, head in enumerate(heads)}
    torch.save(named, folder / "vgg.pth")
    told = convert(str(folder / "vgg16-397923af.pth"), str(folder / "LPIPS"))
    assert told["parameters"] == 14_716_160 and told["arch"] == "LPIPS"
    return folder, load_model(str(folder / "LPIPS")), vgg, heads


def pictures():
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, (3, 48, 40, 3), np.uint8) for name in ("image", "other")}


def theirs():
    return [
        torch.from_numpy(p.transpose(0, 3, 1, 2) / 127.5 - 1).float() for p in pictures().values()
    ]


def test_the_distance_is_the_papers(released):
    _, model, vgg, heads = released
    function = model.method.functions()["distance"]
    run = jax.jit(lambda v, batch: function(v, Inputs.of(batch)))
    found = run(Vars(model.params, model.extra), pictures())
    with torch.no_grad():
        wanted = distance(vgg.features, heads, *theirs()).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_the_package_has_the_same_sum_and_its_whole_file_converts(released, tmp_path):
    package = pytest.importorskip("lpips", reason="the package itself is not installed")
    _, model, vgg, heads = released
    net = package.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False).eval()
    own, state = dict(net.state_dict()), vgg.state_dict()
    for name in own:
        if name.startswith("net."):
            own[name] = state[f"features.{name.split('.', 2)[2]}"]
        elif name.endswith("model.1.weight"):
            own[name] = heads[int(name.removeprefix("lins.").removeprefix("lin")[0])].view(
                1, -1, 1, 1
            )
    net.load_state_dict(own)
    with torch.no_grad():
        wanted = distance(vgg.features, heads, *theirs()).numpy()
        np.testing.assert_allclose(wanted, net(*theirs()).view(-1).numpy(), rtol=1e-5)
    torch.save(net.state_dict(), tmp_path / "whole.pth")
    convert(str(tmp_path / "whole.pth"), str(tmp_path / "AGAIN"))
    again = load_model(str(tmp_path / "AGAIN"))
    assert jax.tree.all(jax.tree.map(np.array_equal, again.params, model.params))
