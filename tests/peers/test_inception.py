"""Live parity of both Inceptions: random weights through converted folders, from bytes of pictures
to features and logits.
"""

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
pytest.importorskip("torch_fidelity", reason="live parity needs the `peers` extra")
torchvision = pytest.importorskip("torchvision", reason="live parity needs the `peers` extra")

import torch  # noqa: E402
from torch_fidelity import feature_extractor_inceptionv3 as fidelity  # noqa: E402

from vlp_jax.api.convert import convert  # noqa: E402
from vlp_jax.api.networks import opener  # noqa: E402
from vlp_jax.api.weights import expected_shapes, split_extra  # noqa: E402
from vlp_jax.core.inputs import Inputs, Vars  # noqa: E402
from vlp_jax.evals.kits.views import Drawn  # noqa: E402
from vlp_jax.interop.family import recognise  # noqa: E402
from vlp_jax.interop.rules import to_ours  # noqa: E402
from vlp_jax.interop.tensors import from_arrays  # noqa: E402
from vlp_jax.methods.base import make_method  # noqa: E402
from vlp_jax.models.archs.inception import ARCHS  # noqa: E402

NAMES = ["2048", "logits_unbiased"]


def randomised(model):
    """Gains, biases and running statistics are all random, activations of about 1."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.normal_(module.bias, std=0.1)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
    return model.eval()


@pytest.fixture
def extractor(monkeypatch):
    """torch-fidelity's, which loads no file."""
    with monkeypatch.context() as patch:
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        made = fidelity.FeatureExtractorInceptionV3("inception", NAMES)
    return randomised(made)


def test_fids_inception(extractor, tmp_path):
    """The published names of figures, the resize rule, the features and the score's logits."""
    file = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(extractor.state_dict(), file)
    report = convert(str(file), str(tmp_path / "fid"))
    assert report["arch"] == "FID-Inception-v3" and report["source"]["kind"] == "fid_inception"
    network = opener("", None, 2)(str(tmp_path / "fid"))
    assert network.named("fid") == "fid" and network.resize == "tensorflow"
    for height, width in ((64, 64), (330, 310)):
        shape = (2, height, width, 3)
        pictures = np.random.default_rng(height).integers(0, 256, shape, np.uint8)
        with torch.no_grad():
            wanted = extractor(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()))
        for name, theirs in zip(("features", "classify"), wanted, strict=True):
            ours, theirs = network.see(name, Drawn(pictures)).rows, theirs.numpy()
            scale = theirs.std()
            np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-4, err_msg=name)


def test_torchvisions_inception():
    """Its pools, on small pictures; the auxiliary classifier is left."""
    model = randomised(torchvision.models.inception_v3(weights=None, init_weights=False))
    state = from_arrays({name: value.numpy() for name, value in model.state_dict().items()})
    method = make_method({"name": "encoder", **ARCHS["Inception-v3"]})
    family = recognise(state, False, "inception_v3")
    found = to_ours(family.table(state), state, expected_shapes(method), "inception_v3")
    params, extra = split_extra(found)
    image = np.random.default_rng(0).uniform(-1, 1, (2, 107, 91, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = model(torch.from_numpy(image.transpose(0, 3, 1, 2).copy())).numpy()
    x = Inputs.of({}, index=np.arange(2)).replace(train=False)
    v = Vars(params, extra)
    run = jax.jit(
        lambda v, pixels: method.apply("head", v, x, method.apply("image", v, x, pixels)[0])
    )
    scale = wanted.std()
    np.testing.assert_allclose(run(v, image) / scale, wanted / scale, atol=1e-4)
