"""`forward`: any function on arrays as they are; what is missing, unknown or of another kind is one
line."""

import json

import jax
import numpy as np
import pytest

import vlp_jax
from vlp_jax.__main__ import main
from vlp_jax.api import forward as module
from vlp_jax.core.fields import Numbers, Picture, Text
from vlp_jax.core.options import options
from vlp_jax.methods.base import Function, Method

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (3, 16, 16, 3), np.uint8)
TEXT = RNG.integers(1, 400, (3, 16)).astype(np.int32)


@pytest.fixture(scope="module")
def model(tiny_folder):
    return vlp_jax.load(tiny_folder)


def run(capsys, folder, tmp_path, name, arrays, *words):
    """Runs the command; (exit code, arrays that it wrote, its one line of error)."""
    np.savez(tmp_path / "in.npz", **arrays)
    files = [f"--inputs={tmp_path / 'in.npz'}", f"--out={tmp_path / 'out.npz'}"]
    code = main(["forward", f"--checkpoint={folder}", f"--fn={name}", *files, *words])
    error = capsys.readouterr().err.strip()
    found = dict(np.load(tmp_path / "out.npz")) if not code else {}
    assert error.count("\n") == 0
    return code, found, error


def test_functions_are_listed_with_what_they_read_and_write(tiny_folder, capsys):
    assert main(["forward", f"--checkpoint={tiny_folder}", "--json"]) == 0
    out = capsys.readouterr().out
    assert "embed_text\n  reads   text            int32[B, T], T at most 16\n" in out
    assert "  writes  out             float32[B, 12]" in out
    found = json.loads(out.splitlines()[-1])["functions"]
    assert sorted(found) == ["embed_image", "embed_text", "features", "pixels"]
    assert found["embed_image"]["reads"]["image"]["text"] == "uint8[B, 16, 16, 3]"
    assert found["pixels"]["writes"]["out"]["shape"] == ["B", 768]


def test_arrays_are_taken_as_they_are(model, tiny_folder, tmp_path, capsys):
    _, found, _ = run(capsys, tiny_folder, tmp_path, "embed_image", {"image": IMAGE})
    assert list(found) == ["out"] and found["out"].dtype == np.float32
    np.testing.assert_allclose(
        found["out"], model.embedders()["image"]({"image": IMAGE}), atol=1e-6
    )
    ids = {"text": TEXT[:, :7].astype(np.int64)}  # fewer tokens, none added; any whole numbers
    real = {"text_mask": np.ones((3, 7), np.int32)}
    _, short, _ = run(capsys, tiny_folder, tmp_path, "embed_text", {**ids, **real})
    padded = np.pad(TEXT[:, :7], ((0, 0), (0, 9)))  # causal, pooled at the largest id
    whole = model.embedders()["text"]({"text": padded})
    np.testing.assert_allclose(short["out"], whole, atol=1e-5)
    more = {"text": padded, "text_mask": padded > 0, "image": IMAGE}  # what is of no effect
    _, same, _ = run(capsys, tiny_folder, tmp_path, "embed_text", more)
    np.testing.assert_array_equal(same["out"], whole)


@pytest.mark.parametrize(
    "name, arrays, message",
    [
        ("embed_imag", {"image": IMAGE}, "--fn=embed_imag: no such function; did you mean 'embed_"),
        ("embed_image", {}, "--inputs: lacks image, uint8[B, 16, 16, 3], which embed_image reads"),
        ("embed_image", {"image": IMAGE, "imge": IMAGE}, "--inputs: imge: embed_image reads no"),
        ("embed_image", {"image": IMAGE / 255}, "image: float64[3, 16, 16, 3], must be uint8[B, "),
        ("embed_image", {"image": IMAGE[:, :8]}, "image: uint8[3, 8, 16, 3], must be uint8[B, 16"),
        ("embed_image", {"image": IMAGE[0]}, "image: uint8[16, 16, 3], must be uint8[B, 16, 16"),
        ("embed_image", {"image": IMAGE[:0]}, "image: uint8[0, 16, 16, 3], must be"),
        (
            "embed_text",
            {"text": np.ones((1, 17), np.int32)},
            "int32[1, 17], must be int32[B, T], T",
        ),
        ("embed_text", {"text": TEXT * 1.0}, "text: float64[3, 16], must be int32[B, T]"),
        ("embed_text", {"text": TEXT - 9999}, ", not 0 to 49407"),
        ("embed_text", {"text": TEXT + 49400}, ", not 0 to 49407"),
        ("embed_text", {"text": TEXT, "text_mask": TEXT * 0}, "text_mask: hides tokens, but"),
        ("embed_text", {"text": TEXT, "text_mask": TEXT[:, :3] * 0 + 1}, "text_mask: hides tokens"),
        ("embed_text", {"text": TEXT, "text_mask": TEXT}, "text_mask: int32[3, 16], must be bool"),
        ("embed_text", {"text": np.array(["a"], object)}, "in.npz: holds objects, not numbers"),
    ],
)
def test_mistakes_in_arrays(tiny_folder, tmp_path, capsys, name, arrays, message):
    code, _, error = run(capsys, tiny_folder, tmp_path, name, arrays)
    assert code == 2 and message in error
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--set=guidance=3"], "--set: this function takes no options"),
        (["--set=guidance"], "--set=guidance: must be KEY=VALUE"),
        (["--out=x.npy"], "--out: x.npy: must end with .npz"),
        (["--inputs=nowhere.npz"], "--inputs: nowhere.npz: No such file or directory"),
        (["--inputs=Makefile"], "--inputs: Makefile: is no .npz archive"),
    ],
)
def test_mistakes_on_the_command_line(tiny_folder, tmp_path, capsys, words, message):
    code, _, error = run(capsys, tiny_folder, tmp_path, "pixels", {"image": IMAGE}, *words)
    assert code == 2 and message in error
    assert main(["forward", f"--checkpoint={tiny_folder}", "--fn=pixels"]) == 2
    assert "--fn=pixels: needs --inputs=IN.npz and --out=OUT.npz" in capsys.readouterr().err
    assert main(["forward", f"--checkpoint={tiny_folder}", "--inputs=nowhere.npz"]) == 2
    assert "--fn: is missing; without --inputs" in capsys.readouterr().err


@options
class Strength:
    gain: float = 1.0
    kind: str = "plus"
    twice: bool = False


def change(v, x, how):
    rows = x.batch["image"].astype("float32").mean((1, 2, 3)) * how.gain
    tokens = x.batch["text"] * x.batch["text_mask"]
    bias = x.batch.get("bias", rows * 0)[: len(rows)]
    tree = {"tokens": tokens, "rows": (rows + bias, rows.astype("bfloat16"))}
    return tree if how.kind == "plus" else {"tokens": tokens}


def test_trees_options_masks_and_optional_arrays():
    """As later methods have them: leaves by path, options by type, a whole text real by default."""

    class Masked(Text):
        def spec(self, name, batch_size):
            mask = jax.ShapeDtypeStruct((batch_size, self.length), bool)
            return {**super().spec(name, batch_size), f"{name}_mask": mask}

    fields = {"image": Picture(16), "text": Masked(16, 500), "bias": Numbers((), optional=True)}
    function = Function(change, fields, Strength)
    own = {"fields": lambda self: fields, "functions": lambda self: {"change": function}}
    method = type("Toy", (Method,), own)()
    toy = vlp_jax.Model("toy", method, {}, {}, {}, {}, {})
    arrays = {"image": IMAGE, "text": TEXT[:, :5]}
    told = module.functions(toy)["change"]
    kinds = {name: str(kind) for name, kind in told["writes"].items()}
    rows = {"rows/0": "float32[B]", "rows/1": "float32[B]"}
    assert kinds == {**rows, "tokens": "int32[B, T]"}
    assert told["options"] == {"gain": 1.0, "kind": "plus", "twice": False}
    optional = [name for name, kind in told["reads"].items() if kind.optional]
    assert optional == ["text_mask", "bias"]
    words = ["gain=2", "kind=plus", "twice=true"]
    found = module.forward(toy, "change", arrays, module.parse_options(function, words))
    np.testing.assert_array_equal(found["tokens"], TEXT[:, :5])
    np.testing.assert_allclose(found["rows/0"], 2 * IMAGE.mean((1, 2, 3)), rtol=1e-6)
    mask = np.arange(5) < np.array([[1], [2], [3]])
    bias = np.ones(3, np.float32)
    more = {**arrays, "text_mask": mask.astype(np.uint8), "bias": bias}
    hidden = module.forward(toy, "change", more)
    np.testing.assert_array_equal(hidden["tokens"], np.where(mask, TEXT[:, :5], 0))
    np.testing.assert_allclose(hidden["rows/0"], 1 + IMAGE.mean((1, 2, 3)), rtol=1e-6)
    for bad, message in (
        ({"text_mask": mask[:, :4]}, r"text_mask: bool\[3, 4\], text has \(3, 5\)"),
        ({"bias": bias[:2]}, r"bias: float32\[2\], other arrays have 3 rows"),
    ):
        with pytest.raises(module.UserError, match=message):
            module.forward(toy, "change", {**more, **bad})
    for wrong in (IMAGE.tolist(), None):
        with pytest.raises(module.UserError, match=r"--inputs: image: a \w+, must be an array, ui"):
            module.forward(toy, "change", {**arrays, "image": wrong})
    with pytest.raises(module.UserError, match=r"--set is 'gain=3', it must be a mapping"):
        module.forward(toy, "change", arrays, "gain=3")
    with pytest.raises(module.UserError, match=r"--set\.gian: unknown key; did you mean 'gain'"):
        module.forward(toy, "change", arrays, {"gian": 3})
