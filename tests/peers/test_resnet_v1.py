"""Live parity of the classic ResNet with timm: random weights and statistics, features and maps of
both stems' sizes, and back to their names.
"""

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
timm = pytest.importorskip("timm", reason="live parity needs the `peers` extra")

import torch  # noqa: E402

from vlp_jax.core.pytree import flatten, unflatten  # noqa: E402
from vlp_jax.interop.rules import to_ours, to_theirs  # noqa: E402
from vlp_jax.interop.tensors import from_arrays  # noqa: E402
from vlp_jax.interop.torchvision import RESNET  # noqa: E402
from vlp_jax.models.resnet_v1 import ResNet  # noqa: E402

ODD, EVEN = 97, 128


def randomised(name):
    """A timm model whose gains, biases and running statistics are all random."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, zero_init_last=False).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


@pytest.mark.parametrize("name, depth", [("resnet18", 18), ("resnet50", 50)])
def test_features_are_those_of_timm(name, depth):
    model = randomised(name)
    theirs = {key: value.numpy() for key, value in model.state_dict().items()}
    tower = ResNet(EVEN, depth, pool_padding="torch")
    abstract = jax.eval_shape(tower.init, jax.random.key(0), np.zeros((1, EVEN, EVEN, 3)))
    tree = {"image": abstract["params"], "batch_stats": {"image": abstract["batch_stats"]}}
    shapes = {path: leaf.shape for path, leaf in flatten(tree).items()}
    found = to_ours(RESNET, from_arrays(theirs), shapes, name)
    nested = unflatten(found)
    variables = {"params": nested["image"], "batch_stats": nested["batch_stats"]["image"]}
    run = jax.jit(tower.apply)
    for size in (EVEN, ODD):
        images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
        with torch.no_grad():
            pictures = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
            wanted = model.forward_features(pictures).numpy().transpose(0, 2, 3, 1)
        pooled, out = run(variables, images)
        scale = wanted.std()
        np.testing.assert_allclose(out["stage4"] / scale, wanted / scale, atol=1e-4)
        np.testing.assert_allclose(pooled / scale, wanted.mean((1, 2)) / scale, atol=1e-4)
    back = to_theirs(RESNET, found)
    body = {key: value for key, value in theirs.items() if not key.startswith("fc.")}
    assert back.keys() == body.keys()
    for key, value in body.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)
