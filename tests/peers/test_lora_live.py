"""LoRA files against diffusers' own names, and what they do: our U-Net with adapters is diffusers'
U-Net whose weights are W + scale B A, by hand (peft is not needed), and back.
"""

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
diffusers = pytest.importorskip("diffusers", reason="live parity needs the `peers` extra")

import torch  # noqa: E402
from diffusers.loaders import lora_conversion_utils as theirs  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402
from test_autoencoder import channels_first, channels_last  # noqa: E402
from test_encoders import randomise  # noqa: E402
from test_unet import CASES, CROSS, SD1, TIME, UP, converted, given, latents  # noqa: E402

from vlp_jax.core.adapters import fold  # noqa: E402
from vlp_jax.core.pytree import merge, unflatten  # noqa: E402
from vlp_jax.interop.lora import read_lora, write_lora  # noqa: E402
from vlp_jax.models import unet  # noqa: E402
from vlp_jax.nn.linear import adapted, linears  # noqa: E402

RNG = np.random.default_rng(0)
D = 24


def layers(model):
    """{module: weight} of all linear layers and convolutions, as peft finds them."""
    kinds = torch.nn.Linear, torch.nn.Conv2d
    return {name: m.weight for name, m in model.named_modules() if isinstance(m, kinds)}


def draw(model, rank, names):
    """A LoRA by peft's names, of random numbers."""
    state = {}
    for module, weight in layers(model).items():
        if module in names:
            out, *inputs = weight.shape
            ones = (1,) * (len(inputs) - 1)
            a, b = RNG.normal(size=(rank, *inputs)), RNG.normal(size=(out, rank, *ones))
            state[f"unet.{module}.lora_A.weight"] = np.float32(0.3 * a)
            state[f"unet.{module}.lora_B.weight"] = np.float32(0.1 * b)
    return state


def add(model, state, scale):
    """W + scale B A in place."""
    with torch.no_grad():
        for module, weight in layers(model).items():
            if f"unet.{module}.lora_A.weight" in state:
                a, b = (torch.from_numpy(state[f"unet.{module}.lora_{s}.weight"]) for s in "AB")
                weight += scale * torch.einsum("r...,or->o...", a, b.reshape(len(b), -1))


@pytest.mark.parametrize("kind", ["sd1", "xl"])
def test_a_unet_with_a_file_is_diffusers_with_its_products(kind, tmp_path):
    torch.manual_seed(0)
    model = randomise(CROSS(**SD1 | UP | CASES[kind]))
    net, variables = converted(model)
    whole = linears(net, unet.reads(net, D))
    shapes = {f"unet/{path}": its.adapter(1) for path, its in whole.items()}
    everything = draw(model, 3, set(layers(model)))
    assert len(everything) == 2 * sum(
        np.prod(its.scale) if its.scale else 1 for its in shapes.values()
    ), "every layer of theirs is a map of ours"
    path = str(tmp_path / "lora.safetensors")
    save_file(everything, path)
    lora = {
        p: np.float32(0.5) * x if p.endswith("scale") else x
        for p, x in read_lora(path, shapes).items()
    }
    back = write_lora(lora)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in everything.items()}
    ours, more = given(net)
    x = latents(net)
    params = merge(variables["params"], unflatten(lora)["unet"])

    @jax.jit
    def run(params):
        with adapted(params):
            return net.apply({"params": params}, x, TIME, ours)

    found, folded, base = run(params), run(fold(params)), run(variables["params"])
    add(model, everything, 0.5)
    with torch.no_grad():
        wanted = channels_last(model(channels_first(x), torch.from_numpy(TIME), **more).sample)
    assert np.abs(wanted - base).max() > 0.3
    for name, one in (("thin", found), ("folded", folded)):
        print(f"{kind} {name}: {np.abs(one - wanted).max():.1e} of {np.abs(wanted).max():.2g}")
        np.testing.assert_allclose(one, wanted, atol=1e-4, err_msg=name)


def test_kohyas_names_are_those_that_diffusers_reads(tmp_path):
    """Attentions and what stands around them, of SD 1: both read the same file alike."""
    torch.manual_seed(0)
    model = randomise(CROSS(**SD1 | UP))
    names = {name for name in layers(model) if ".attentions." in name}
    peft = draw(model, 2, names)
    kohya = {}
    for key, value in peft.items():
        module, _, side = key.removesuffix(".weight").rpartition(".lora_")
        stem = "lora_" + module.replace(".", "_")
        kohya[f"{stem}.lora_{'down' if side == 'A' else 'up'}.weight"] = value
        kohya[f"{stem}.alpha"] = np.full((), 3, np.float32)
    tensors = {key: torch.from_numpy(value) for key, value in kohya.items()}
    renamed, alphas = theirs._convert_non_diffusers_lora_to_diffusers(dict(tensors))
    net, _ = converted(model)
    shapes = {f"unet/{p}": its.adapter(1) for p, its in linears(net, unet.reads(net, D)).items()}
    found = []
    for number, state in enumerate((kohya, {k: v.numpy() for k, v in renamed.items()}, peft)):
        path = str(tmp_path / f"{number}.safetensors")
        save_file(state, path)
        found.append(read_lora(path, shapes))
    assert set(alphas.values()) == {3.0} and len(alphas) == len(peft) // 2
    for path, leaf in found[0].items():
        factor = 1.5 if path.endswith("scale") else 1  # alpha / rank, which the others lack
        for other in found[1:]:
            np.testing.assert_array_equal(leaf, factor * other[path], err_msg=path)
