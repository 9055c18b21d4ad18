"""Context encoder: the hole, the ring, and two players who move only themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pretext import B, batch_of, build, check_accumulation, check_functions, gradients, made

from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs, Vars
from vlp_jax.core.pytree import flatten
from vlp_jax.losses.adversarial import held
from vlp_jax.models.conv_decoder import ChannelDense

SMALL = dict(
    size=32,
    image={"pool": "none"},
    hole=16,
    overlap=2,
    widths=(8, 8),
    critic_widths=(4, 8),
    adversarial=0.25,
)


def test_the_trunk_does_not_see_the_hole():
    for place in ("center", "random"):
        method = build("inpainting", **SMALL, place=place)
        v, batch = made(method), batch_of(method, 2)
        keys = jax.random.split(jax.random.key(1), 2)
        encode = jax.jit(
            lambda images, m=method, v=v, keys=keys: m.encode(
                v, Inputs.of({"image": images}, keys, train=True)
            )[0]
        )
        rows = encode(batch["image"])
        hidden = method.hidden(rows["corners"])
        assert (hidden.sum((1, 2, 3)) == 12 * 12).all()
        other = encode(jnp.where(hidden, 255 - batch["image"], batch["image"]))
        np.testing.assert_array_equal(other["painted"], rows["painted"])
        assert np.abs(other["true"] - rows["true"]).max() > 0.1
        seen = encode(jnp.where(hidden, batch["image"], 255 - batch["image"]))
        assert np.abs(seen["painted"] - rows["painted"]).max() > 1e-4
        row, column = map(int, rows["corners"][0])
        wanted = batch["image"][0, row : row + 16, column : column + 16] / 127.5 - 1
        np.testing.assert_allclose(rows["true"][0], wanted, atol=1e-6)
    assert (np.asarray(rows["corners"]) != 8).any() and 16 - 2 * 2 == 12


def test_the_ring_weighs_ten_times():
    weight = np.asarray(build("inpainting", **SMALL).ring_weight())[..., 0]
    assert weight.sum() == 12 * 12 + 10 * (16 * 16 - 12 * 12)
    assert weight[1, 8] == weight[8, 14] == 10 and weight[2, 2] == weight[13, 13] == 1


def test_every_player_moves_only_itself():
    """The painter's gradient is that of its own terms with the critic fixed, and the other way
    round.
    """
    method = build("inpainting", **SMALL)
    (params, extra), batch = made(method), batch_of(method)
    _, aux, joint = gradients(method, params, extra, batch)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(5), jnp.arange(B))
    x = Inputs.of(batch, keys, step=3, train=True)

    def term(name):
        def value(params):
            return method.loss(Vars(params, extra), x)[1].metrics[name]

        return flatten(jax.jit(jax.grad(value))(params))

    painter, critic = term("fooling_loss"), term("critic_loss")
    for path, gradient in joint.items():
        mine, others = (critic, painter) if path.startswith("critic/") else (painter, critic)
        assert np.abs(mine[path]).max() > 0, path
        assert np.abs(others[path]).max() == 0, path
        assert np.abs(gradient).max() > 0, path
    assert float(aux.metrics["critic_loss"]) == pytest.approx(np.log(2), rel=0.5)


def test_held_parameters_have_no_gradient():
    params = {"critic": {"w": jnp.ones(2)}, "image": {"w": jnp.ones(2)}}
    total = lambda p: sum(leaf.sum() for leaf in jax.tree.leaves(held(p, ("critic/.*",))))  # noqa: E731
    gradient = jax.grad(total)(params)
    assert gradient["critic"]["w"].sum() == 0 and gradient["image"]["w"].sum() == 2


def test_channels_stay_apart_and_places_do_not():
    layer, x = ChannelDense(), jax.random.normal(jax.random.key(0), (1, 3, 3, 4))
    params = layer.init(jax.random.key(1), x)
    assert params["params"]["kernel"].size == 3**4 * 4
    moved = layer.apply(params, x.at[0, 0, 0, 2].add(1.0)) - layer.apply(params, x)
    assert (np.abs(moved[..., 2]) > 1e-6).all() and np.abs(moved[..., [0, 1, 3]]).max() == 0


def test_accumulation_and_functions():
    check_accumulation(build("inpainting", **SMALL, place="random"))
    method = build("inpainting", **{**SMALL, "adversarial": 0.0})
    assert "critic" not in made(method)[0]
    found = check_functions(method, panels=3)
    given, painted, target = np.moveaxis(found["show"], 1, 0)
    visible = ~np.asarray(method.hidden(jnp.full((B, 2), 8)))
    np.testing.assert_array_equal(np.where(visible, painted, 0), np.where(visible, target, 0))
    assert (given[:, 16, 16] == 0.5).all()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"hole": 32}, r"hole=32: needs 2 x overlap=2 < hole < 32"),
        ({"overlap": 8}, r"hole=16: needs 2 x overlap=8"),
        ({"place": "left"}, r"place='left': center or random"),
        ({"adversarial": 1.0}, r"adversarial=1.0"),
        ({"widths": (8,)}, r"widths=\(8,\): 1 doublings of the trunk's 4 x 4 map give 8, not 16"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(UserError, match=message):
        made(build("inpainting", **{**SMALL, **changes}))
