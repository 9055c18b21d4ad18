"""The released masked autoencoders: parameter counts to the last weight, and FLOPs."""

import jax
import pytest

from vlp_jax.core.errors import UserError
from vlp_jax.core.pytree import flatten, size
from vlp_jax.methods.base import make_method
from vlp_jax.models.archs.mae import NAMES, mae_arch

# Without the two position tables, which are no parameters here (mae.md 2.1).
COUNTS = {
    "ViT-B-16": (85_647_360, 26_008_320),
    "ViT-L-16": (303_099_904, 26_139_392),
    "ViT-H-14": (630_435_840, 26_178_124),
}
# With the tables: 111.91, 329.54 and 657.07 million.
WITH_TABLES = {"ViT-B-16": 111_907_840, "ViT-L-16": 329_541_888, "ViT-H-14": 657_074_508}


def made(name, **changes):
    method = make_method({"name": "mae", **mae_arch(name), **changes})
    params, extra = jax.eval_shape(method.init, jax.random.key(0))
    assert extra == {}
    return method, params


@pytest.mark.parametrize("name", NAMES)
def test_exact_parameter_counts(name):
    method, params = made(name)
    assert (size(params["image"]), size(params["decoder"])) == COUNTS[name]
    assert not any("pos_embed" in path for path in flatten(params))
    rows = 1 + method.image_tower.grid**2
    tables = rows * (method.image_tower.width + method.decoder_net.width)
    assert sum(COUNTS[name]) + tables == WITH_TABLES[name]


def test_hiding_three_quarters_pays_as_published():
    """Table 2's ideal for ViT-L: 3.22 with 8 decoder blocks, 3.86 with 1."""
    for blocks, ideal in ((8, 3.22), (1, 3.86)):
        decoder = {**mae_arch("ViT-L-16")["decoder"], "num_layers": blocks}
        slow, fast = (
            made("ViT-L-16", mask_token_in_encoder=inside, decoder=decoder)[0].flops()
            for inside in (True, False)
        )
        assert slow / fast == pytest.approx(ideal, rel=0.01)


def test_an_unknown_size_is_refused():
    with pytest.raises(UserError, match="unknown 'ViT-B-61'; did you mean 'ViT-B-16'"):
        mae_arch("ViT-B-61")
