"""Rotation: turns, labels and the answers that are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pretext import B, batch_of, build, check_accumulation, check_functions, made

from vlp_jax.core.errors import UserError
from vlp_jax.core.inputs import Inputs
from vlp_jax.methods.rotation import ANGLES, turn


def test_turning_four_times_is_the_identity():
    images = jnp.arange(2 * 5 * 5 * 3, dtype=jnp.float32).reshape(2, 5, 5, 3)
    once = images
    for _ in range(4):
        once = turn(once, (90,))[:, 0]
    np.testing.assert_array_equal(once, images)
    twice = turn(turn(images, (90,))[:, 0], (90,))
    np.testing.assert_array_equal(turn(images, (180,)), twice)


def test_labels_name_the_turn():
    """One lit corner, upper left, goes lower left, lower right, upper right: counter-clockwise."""
    image = np.zeros((1, 4, 4, 1), np.float32)
    image[0, 0, 0] = 1
    lit = [tuple(np.argwhere(view[..., 0])[0]) for view in np.asarray(turn(image, ANGLES))[0]]
    assert lit == [(0, 0), (3, 0), (3, 3), (0, 3)]
    method = build("rotation", angles=(0, 180))
    rows, _ = method.encode(made(method), Inputs.of(batch_of(method)))
    assert rows["logits"].shape == (B, 2, 2)
    np.testing.assert_array_equal(rows["labels"], [[0, 1]] * B)


def test_a_right_answer_turns_the_picture_back():
    method = build("rotation")
    images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
    right = {"logits": jnp.broadcast_to(jnp.eye(4), (2, 4, 4))}
    panels = method.show(images, right)
    for panel in range(4, 8):
        np.testing.assert_array_equal(panels[:, panel], images)
    wrong = {"logits": jnp.broadcast_to(jnp.roll(jnp.eye(4), 1, axis=1), (2, 4, 4))}
    assert not np.array_equal(method.show(images, wrong)[:, 4], images)


def test_accumulation_and_functions():
    augment = {"flip": 0.5, "crop_scale": (0.5, 1.0)}
    loss, aux, _ = check_accumulation(build("rotation", image={"dropout": 0.1}, augment=augment))
    assert float(loss) == pytest.approx(np.log(4), rel=0.5)
    assert aux.metrics["chance_accuracy"] == 0.25
    check_functions(build("rotation"), panels=8)


@pytest.mark.parametrize("angles", [(0,), (0, 45), (90, 90)])
def test_angles_that_make_no_question(angles):
    with pytest.raises(UserError, match=r"method\.angles="):
        build("rotation", angles=angles)
