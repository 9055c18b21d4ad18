"""LoRA files: names of four dialects, layouts, alphas, files of another base."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from vlp_jax.core import adapters
from vlp_jax.core.adapters import Adapter, Sides
from vlp_jax.core.errors import UserError
from vlp_jax.interop.lora import METADATA, read_lora, write_lora

RNG = np.random.default_rng(0)
UP = "unet/up1_attn2/blocks"
DOWN = "unet/down0_attn1/blocks"
KERNELS = {  # shapes of kernels, how they are read, stacked layers
    f"{UP}/attn/qkv/kernel": ((2, 6, 3, 3, 2), Sides(1, 3), 1),
    f"{UP}/attn/out/kernel": ((2, 3, 2, 6), Sides(2), 1),
    f"{UP}/cross_attn/key_value/kernel": ((2, 5, 3, 2, 2), Sides(1, 2), 1),
    f"{UP}/mlp/fc1/kernel": ((2, 6, 2, 8), Sides(1), 1),
    f"{DOWN}/attn/query/kernel": ((1, 6, 3, 2), Sides(1), 1),
    "unet/mid_attn0/attn/qkv/kernel": ((6, 1, 3, 6), Sides(1, 3), 0),
    "unet/mid_attn0/conv_in/kernel": ((1, 1, 6, 6), Sides(3), 0),
    "unet/down0_res1/conv1/kernel": ((3, 3, 4, 6), Sides(3), 0),
    "text/blocks/attn/qkv/kernel": ((2, 4, 2, 3, 2), Sides(1, 3), 1),
    "text_2/head/kernel": ((4, 3), Sides(1), 0),
}
SHAPES = {k: adapters.shapes(shape, s, 2, stack) for k, (shape, s, stack) in KERNELS.items()}
FILE = "unet.up_blocks.1.attentions.2.transformer_blocks"


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def saved(folder, state, **metadata):
    path = str(folder / "l.safetensors")
    save_file(state, path, metadata)
    return path


def full(scale):
    """Adapters of all kernels, {path of a leaf: array}."""
    flat = {}
    for kernel, (a, b, its) in SHAPES.items():
        leaves = draw(*a), draw(*b), np.full(its, scale, np.float32)
        flat |= dict(zip(adapters.names(kernel), leaves, strict=True))
    return flat


def test_there_and_back(tmp_path):
    """Bit for bit where alpha is the rank; else the factor goes into B."""
    flat = full(1)
    state = write_lora(flat)
    assert len(state) == 2 * sum(np.prod(its.scale[:-1]) for its in SHAPES.values())
    name = f"{FILE}.1.attn1.to_k"
    assert state[f"{name}.lora_A.weight"].shape == (2, 6)
    assert state["unet.down_blocks.0.resnets.1.conv1.lora_A.weight"].shape == (2, 4, 3, 3)
    assert state["unet.down_blocks.0.resnets.1.conv1.lora_B.weight"].shape == (6, 2, 1, 1)
    assert "text_encoder.text_model.encoder.layers.1.self_attn.v_proj.lora_B.weight" in state
    back = read_lora(saved(tmp_path, state), SHAPES)
    assert back.keys() == flat.keys()
    assert all((back[path] == leaf).all() for path, leaf in flat.items())
    three = {p: leaf * 3 if p.endswith("scale") else leaf for p, leaf in flat.items()}
    for kernel, its in adapters.adapters(read_lora(saved(tmp_path, write_lora(three)), SHAPES)):
        wanted = 3 * adapters.product(Adapter(*(flat[n] for n in adapters.names(kernel))), np)
        np.testing.assert_allclose(adapters.product(its, np), wanted, rtol=1e-5, atol=1e-5)


def test_products_are_those_of_their_weights(tmp_path):
    """By hand: B A is what is added to `to_v.weight` [out, in], laid out as that is."""
    a, b = draw(2, 6), draw(6, 2)
    state = {f"{FILE}.1.attn1.to_v.lora_A.weight": a, f"{FILE}.1.attn1.to_v.lora_B.weight": b}
    ((kernel, its),) = adapters.adapters(read_lora(saved(tmp_path, state), SHAPES))
    found = adapters.product(its, np)
    wanted = np.zeros((2, 6, 3, 3, 2), np.float32)
    wanted[1, :, :, 2] = (b @ a).T.reshape(6, 3, 2)
    assert kernel == f"{UP}/attn/qkv/kernel"
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert (its.scale != 0).sum() == 2, "of the other maps and layers nothing counts"
    assert write_lora(dict(zip(adapters.names(kernel), its, strict=True))).keys() == state.keys()


PEFT = "{}.lora_A.weight", "{}.lora_B.weight"
OLD = "{}.lora.down.weight", "{}.lora.up.weight"
KOHYA = "{}.lora_down.weight", "{}.lora_up.weight"
TEXT = "text_model.encoder.layers.1.self_attn.q_proj"
TEXT_OURS = "text/blocks/attn/qkv/kernel"
DIALECTS = [
    (PEFT, f"{FILE}.0.attn1.to_q", f"{UP}/attn/qkv/kernel"),
    (PEFT, f"base_model.model.{FILE}.0.attn1.to_q", f"{UP}/attn/qkv/kernel"),
    (OLD, f"{FILE}.0.attn1.to_q", f"{UP}/attn/qkv/kernel"),
    (OLD, f"{FILE}.0.attn1.to_q".removeprefix("unet."), f"{UP}/attn/qkv/kernel"),
    (
        ("{}_lora.down.weight", "{}_lora.up.weight"),
        f"{FILE}.0.attn1.processor.to_out",
        f"{UP}/attn/out/kernel",
    ),
    (KOHYA, f"lora_{FILE}_0_attn1_to_q".replace(".", "_"), f"{UP}/attn/qkv/kernel"),
    # two residual blocks: levels of three inputs, three outputs
    (KOHYA, "lora_unet_output_blocks_5_1_transformer_blocks_0_attn1_to_q", f"{UP}/attn/qkv/kernel"),
    (
        KOHYA,
        "lora_unet_input_blocks_2_1_transformer_blocks_0_attn1_to_q",
        f"{DOWN}/attn/query/kernel",
    ),
    (KOHYA, f"lora_te1_{TEXT}".replace(".", "_"), TEXT_OURS),
    (KOHYA, f"lora_te_{TEXT}".replace(".", "_"), TEXT_OURS),
    (OLD, f"text_encoder.{TEXT}", TEXT_OURS),
    (PEFT, f"text_encoder.{TEXT}".replace("text_model.", ""), TEXT_OURS),
    (
        tuple(end.replace(".lora.", ".lora_linear_layer.") for end in OLD),
        f"text_encoder.{TEXT}",
        TEXT_OURS,
    ),
]


@pytest.mark.parametrize("ends, stem, kernel", DIALECTS, ids=[d[1] for d in DIALECTS])
def test_dialects(ends, stem, kernel, tmp_path):
    down, up = (end.format(stem) for end in ends)
    shape, sides, stack = KERNELS[kernel]
    inner = [
        np.prod(part) for part in (shape[stack:][: sides.inputs], shape[stack:][sides.inputs :])
    ]
    a, b = draw(3, inner[0]), draw(inner[1] // sides.maps, 3)
    state = {down: a, up: b} | (
        {f"{stem}.alpha": np.full((), 6, np.float32)} if ends is KOHYA else {}
    )
    ((found, its),) = adapters.adapters(read_lora(saved(tmp_path, state), SHAPES))
    assert found == kernel
    product = adapters.product(its, np)
    assert np.abs(product).sum() == pytest.approx(
        np.abs(b @ a).sum() * (2 if ends is KOHYA else 1), rel=1e-5
    )


def test_alphas_of_the_metadata(tmp_path):
    state = {
        name.format(f"{FILE}.0.attn1.to_q"): draw(*s)
        for name, s in zip(PEFT, ((4, 6), (6, 4)), strict=True)
    }
    for said, wanted in (
        ({"unet.lora_alpha": 2}, 0.5),
        ({"unet.lora_alpha": 2, "unet.use_rslora": True}, 1.0),
        ({"unet.lora_alpha": 2, "unet.alpha_pattern": {"attn1.to_q": 12}}, 3.0),
        ({"text_encoder.lora_alpha": 2}, 1.0),
    ):
        path = saved(tmp_path, state, **{METADATA: json.dumps(said)})
        ((_, its),) = adapters.adapters(read_lora(path, SHAPES))
        assert its.scale[0, 0].tolist() == [wanted] * 4


Q = f"{FILE}.0.attn1.to_q"


@pytest.mark.parametrize(
    "state, message",
    [
        (
            {f"{Q}.lora_A.weight": (4, 9), f"{Q}.lora_B.weight": (6, 4)},
            f"of another base, {Q}.lora_A.weight is [4, 9], its layer takes [4, 6]",
        ),
        (
            {f"{Q}.lora_A.weight": (4, 6), f"{Q}.lora_B.weight": (9, 4)},
            f"of another base, {Q}.lora_B.weight is [9, 4], its layer takes [6, 4]",
        ),
        (
            {f"{Q}.lora_A.weight": (4, 6), f"{Q}.lora_B.weight": (6, 3)},
            "is [6, 3], its layer takes [6, 4]",
        ),
        (
            {f"{Q}.lora_A.weight".replace("blocks.1", "blocks.4"): (4, 6)},
            "[4, 6]: the base has no such layer; did you mean",
        ),
        ({f"{Q}.lora_A.weight": (4, 6)}, "to_q.lora_A.weight has no up beside it"),
        ({f"{Q}.hada_w1_a": (4, 6)}, "to_q.hada_w1_a is no tensor of a LoRA of linear layers"),
    ],
)
def test_files_of_another_base_are_one_line(state, message, tmp_path):
    path = saved(tmp_path, {name: draw(*shape) for name, shape in state.items()})
    with pytest.raises(UserError) as caught:
        read_lora(path, SHAPES)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


def test_numbers_that_are_none_are_one_line(tmp_path):
    """An alpha of one number may have an axis."""
    state = {f"{Q}.lora_down.weight": draw(2, 6), f"{Q}.lora_up.weight": draw(6, 2)}
    state = {name.replace("lora_", "lora."): array for name, array in state.items()}
    made = [
        read_lora(saved(tmp_path, {**state, f"{Q}.alpha": np.ones(shape, "f")}), SHAPES)
        for shape in ((), (1,))
    ]
    assert all((made[0][path] == made[1][path]).all() for path in made[0])
    assert {leaf.max() for path, leaf in made[1].items() if path.endswith("scale")} == {0.5}
    nothing = {name: np.full_like(array, np.nan) for name, array in state.items()}
    for bad, line in (
        ({**state, f"{Q}.alpha": np.ones(2, "f")}, f"{Q}.alpha is [2], an alpha is one number"),
        (nothing, f"the numbers of {Q} are not finite"),
    ):
        with pytest.raises(UserError) as caught:
            read_lora(saved(tmp_path, bad), SHAPES)
        assert line in str(caught.value)


def test_what_has_no_name_is_not_written():
    leaves = draw(4, 1, 2), draw(2, 3), draw(1, 2)
    flat = dict(zip(adapters.names("judge/out/kernel"), leaves, strict=True))
    with pytest.raises(UserError, match="--to=lora: files have no name for judge/out/kernel"):
        write_lora(flat)
