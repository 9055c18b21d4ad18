"""`sample` and `Model.sample` on a method that draws in a millisecond."""

import dataclasses
import json
import os
import pathlib
import signal

import numpy as np
import pytest
from drawing_double import TRACES, model
from PIL import Image

import vlp_jax.methods
from vlp_jax.__main__ import main
from vlp_jax.api import sample as command
from vlp_jax.api.compose import composed
from vlp_jax.api.drawing import Asked, Painter, read_picture
from vlp_jax.core.errors import UserError
from vlp_jax.data.open import open_source


@pytest.fixture
def opened(monkeypatch):
    """Makes `--checkpoint=KIND` that double; the models that were opened so far, by kind."""
    made = {}

    def load(path, sharding, mesh, parts, lora):
        return made.setdefault(path, model(path, path=path))

    monkeypatch.setattr(command, "load_model", load)
    return made


def run(*words):
    return main(["sample", *map(str, words)])


def refused(capsys, *words):
    """The one line of a command that must fail."""
    code, error = run(*words), capsys.readouterr().err.strip()
    assert code == 2 and error.startswith("error: ") and "\n" not in error, (code, error)
    return error


def picture(path, size=(16, 16), seed=0, **how):
    height, width = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).convert(how.get("mode", "RGB")).save(path)
    return path


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_the_folder_of_a_command(opened, tmp_path, capsys):
    (tmp_path / "p.txt").write_text("a red car\na blue cup\n")
    out = tmp_path / "new" / "out"
    call = ["--checkpoint=text", f"--prompts={tmp_path / 'p.txt'}", f"--out={out}"]
    assert run(*call, "--n=2", "--seed=5", "--steps=3", "--guidance=3", "--json") == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["pictures"] == 4 and report["kept"] == 0
    names = ["00000_00005.png", "00000_00006.png", "00001_00005.png", "00001_00006.png"]
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows] == names
    for row in rows:
        with Image.open(out / row["image"]) as image:
            settings = json.loads(image.info["settings"])
            assert image.size == (16, 16)
        assert {"image": row["image"], **settings} == row
        assert settings["how"]["steps"] == 3 and settings["how"]["guidance"] == 3.0
        assert settings["seed"] == int(row["image"][6:11]) and settings["checkpoint"] == "text"
    assert rows[0]["text"] == "a red car" and rows[3]["text"] == "a blue cup"
    assert min(Image.open(report["sheet"]).size) > 200
    assert not list(out.glob("*.partial"))
    found = model().sample(["a red car", "a blue cup"], seed=5, n=2, steps=3, guidance=3)
    for name, ours in zip(names, found, strict=True):
        np.testing.assert_array_equal(pixels(out / name), np.asarray(ours))


def test_the_folder_is_data_to_train_on(opened, tmp_path):
    call = ["--checkpoint=text", "--prompt=a dog", f"--out={tmp_path / 'out'}", "--n=3"]
    assert run(*call, "--steps=2") == 0
    source = open_source(str(tmp_path / "out"))
    assert len(source) == 3 and not source.damage
    assert [source[i]["text"] for i in range(3)] == [["a dog"]] * 3
    table = open_source(str(tmp_path / "out" / "samples.jsonl"))
    assert len(table) == 3 and table[0]["text"] == ["a dog"] and table[2]["meta"]["seed"] == 2


def test_a_picture_follows_its_prompt_and_seed_alone(opened):
    painter = model()
    how = dict(steps=3, guidance=1.5)
    together = painter.sample(["a", "b", "cat"], seed=[3, 1, 3], n=2, **how)
    for number, (prompt, seed) in enumerate([("a", 3), ("a", 4), ("b", 1), ("b", 2), ("cat", 3)]):
        (alone,) = painter.sample([prompt], seed=seed, **how)
        apart = np.asarray(alone).astype(int) - np.asarray(together[number]).astype(int)
        assert abs(apart).max() <= 1
    assert len({one.tobytes() for one in together}) == 6


def test_a_stopped_command_goes_on_where_it_stopped(opened, tmp_path, monkeypatch):
    (tmp_path / "p.txt").write_text("\n".join("abcdefg"))
    call = ["--checkpoint=text", f"--prompts={tmp_path / 'p.txt'}", "--steps=2", "--batch-size=2"]
    assert run(*call, f"--out={tmp_path / 'whole'}") == 0
    out, write, written = tmp_path / "out", command.Folder.write, []

    def stops(folder, job, made):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(job)
        write(folder, job, made)

    monkeypatch.setattr(command.Folder, "write", stops)
    with pytest.raises(KeyboardInterrupt):
        run(*call, f"--out={out}")
    assert len(list(out.glob("*.png"))) == 3 and not (out / "samples.jsonl").exists()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    monkeypatch.setattr(command.Folder, "write", write)
    assert run(*call, f"--out={out}") == 0
    assert before.items() <= {p: p.stat().st_mtime_ns for p in out.glob("*.png")}.items()
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (out / path.name).read_bytes(), path.name
    assert len(list(out.iterdir())) == len(list((tmp_path / "whole").iterdir())) == 16


def test_a_signal_ends_it_between_batches(opened, tmp_path, monkeypatch, capsys):
    write, out = command.Folder.write, tmp_path / "out"

    def told(folder, job, made):
        write(folder, job, made)
        if job.seed == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(command.Folder, "write", told)
    call = ["--checkpoint=text", "--prompt=a", "--n=4", "--steps=2", f"--out={out}"]
    assert run(*call, "--batch-size=1") == 75
    assert "pictures that are whole are kept; run the same command again" in capsys.readouterr().err
    assert [path.name for path in out.glob("*.png")] == ["00000_00000.png"]


def test_other_settings_draw_nothing_over(opened, tmp_path, capsys):
    call = ["--checkpoint=text", "--prompt=a", f"--out={tmp_path / 'out'}", "--steps=2"]
    assert run(*call) == 0
    before = (tmp_path / "out" / "00000_00000.png").read_bytes()
    for words, key in (("--guidance=2", "how"), ("--prompt=b", "text"), ("--negative=b", "neg")):
        line = refused(capsys, *call, words)
        assert "00000_00000.png: was drawn with another " + key in line
    again = ["--checkpoint=text", "--prompt=a", f"--out={tmp_path / 'against'}", "--steps=2"]
    assert run(*again, "--negative=b") == 0
    assert "was drawn with another negative" in refused(capsys, *again)
    opened["text"].params["gain"] = opened["text"].params["gain"] + 1
    assert "was drawn with another weights" in refused(capsys, *call)
    kept = opened["text"].params["gain"] - 1
    opened["text"].params["gain"] = kept
    (tmp_path / "out" / "00000_00000.png").write_bytes(before[:-40])  # its settings are whole
    assert "is no picture that `sample` drew" in refused(capsys, *call)
    picture(tmp_path / "out" / "00000_00000.png")
    assert "is no picture that `sample` drew" in refused(capsys, *call)
    assert before != (tmp_path / "out" / "00000_00000.png").read_bytes()


def test_a_picture_of_no_numbers_is_not_written(opened, tmp_path, capsys):
    params = command.load_model("text", *[None] * 4).params
    params["gain"] = params["gain"] * np.nan
    call = ["--checkpoint=text", "--prompt=a", f"--out={tmp_path / 'out'}", "--steps=2"]
    assert run(*call) == 1
    assert "the picture of prompt 0 and seed 0 is not finite" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.png"))


def test_one_program_per_sampler_size_and_guidance(opened, tmp_path):
    painter = model()
    with pytest.raises(UserError, match="etta: double takes no such thing to draw from"):
        painter.sample(["a"], etta=1)
    TRACES.clear()
    image = picture(tmp_path / "i.png")
    for how in (dict(seed=3), dict(guidance=2.0), dict(prompts=["another"]), dict(seed=2**31 - 1)):
        painter.sample(**{"prompts": ["a"], "steps": 2} | how)
    assert TRACES == [("ddim", (16, 16), True)]
    for strength in (0.3, 0.9):
        painter.sample(["a"], steps=2, image=image, strength=strength)
    assert len(TRACES) == 2
    painter.sample(["a"], steps=2, guidance=1)
    painter.sample(["a"], steps=2, size=(24, 16))
    painter.sample(["a"], steps=2, sampler="euler")
    assert [trace[1:] for trace in TRACES[2:]] == [
        ((16, 16), False),
        ((24, 16), True),
        ((16, 16), True),
    ]


def test_pictures_masks_and_negatives_reach_the_model(opened, tmp_path):
    painter, image = model(), picture(tmp_path / "i.png", (8, 24))
    same = painter.sample(["a"], image=image, strength=0.0, steps=2)[0]
    np.testing.assert_array_equal(np.asarray(same), pixels(image))
    shades = np.zeros((8, 24), np.uint8)
    shades[:, 8:] = 200
    for mask in (shades, shades[..., None] > 0, Image.fromarray(shades)):
        made = np.asarray(painter.sample(["a"], image=image, mask=mask, steps=2)[0])
        np.testing.assert_array_equal(made[:, :8], pixels(image)[:, :8])
        assert abs(made[:, 8:].astype(int) - pixels(image)[:, 8:]).max() > 20
    plain, other = painter.sample(["a"], steps=3), painter.sample(["a"], steps=3, negative="b")
    assert plain[0].tobytes() != other[0].tobytes()
    both = painter.sample(["a", "a"], steps=3, negative=["", "b"])
    assert both[1].tobytes() == other[0].tobytes()
    pair = np.stack([pixels(image), 255 - pixels(image)]).astype(np.uint8)
    found = painter.sample(["a", "b"], image=pair, strength=0.0, steps=2)
    np.testing.assert_array_equal(np.stack([np.asarray(one) for one in found]), pair)


def test_a_second_text_is_the_first_unless_it_is_given():
    def said(**given):
        return Painter(model("two"), Asked(["a", "b"], given=given)).said(1)

    assert said() == {"text": "b", "text_2": "b"}
    assert said(negative="c") == {"text": "b", "text_2": "b", "negative": "c", "negative_2": "c"}
    other = said(text_2=["d", "e"], negative=["f", "g"], negative_2="h")
    assert other == {"text": "b", "text_2": "e", "negative": "g", "negative_2": "h"}
    with pytest.raises(UserError, match=r"^text_2: 3 for 2 prompts; give one of each"):
        said(text_2=["d", "e", "f"])


def test_a_checkpoint_says_how_it_draws_where_nobody_does():
    usual = {"drawing": {"sampler": "euler", "spacing": "trailing", "other": 1}}
    released = dataclasses.replace(model(), config={**model().config, **usual})
    said = dict(sampler="euler", spacing="trailing")
    (plain,), (found,) = model().sample(["a"], steps=3, **said), released.sample(["a"], steps=3)
    (other,) = released.sample(["a"], steps=3, sampler="ddim")
    assert plain.tobytes() == found.tobytes() != other.tobytes()


def test_models_without_texts(opened, tmp_path):
    classes = model("label")
    first, second = classes.sample([0, 4], steps=3)
    assert np.asarray(first).mean() != np.asarray(second).mean()
    (tmp_path / "p.txt").write_text("0\n4\n")
    out = tmp_path / "classes"
    call = ["--checkpoint=label", f"--prompts={tmp_path / 'p.txt'}", f"--out={out}", "--steps=3"]
    assert run(*call) == 0
    np.testing.assert_array_equal(pixels(out / "00001_00000.png"), np.asarray(second))
    row = json.loads((out / "samples.jsonl").read_text().splitlines()[1])
    assert row["label"] == 4 and "text" not in row and not list(out.glob("*.txt"))
    assert run("--checkpoint=nothing", f"--out={tmp_path / 'free'}", "--n=3", "--steps=3") == 0
    assert len(list((tmp_path / "free").glob("0*.png"))) == 3
    assert len(model("nothing").sample(n=3, steps=3)) == 3


def test_pictures_of_low_resolution(opened, tmp_path, capsys):
    small, out = picture(tmp_path / "s.png", (4, 12)), tmp_path / "out"
    assert run("--checkpoint=low", f"--picture=low:{small}", f"--out={out}", "--steps=2") == 0
    (ours, other) = model("low").sample(low=[small, np.zeros((4, 12, 3), np.uint8)], steps=2)
    assert ours.size == (24, 8) and ours.tobytes() != other.tobytes()
    np.testing.assert_array_equal(pixels(out / "00000_00000.png"), np.asarray(ours))
    call = ["--checkpoint=low", f"--out={tmp_path / 'new'}", "--steps=2"]
    assert "low: low draws from one; give it" in refused(capsys, *call)
    line = refused(capsys, *call, f"--picture=low:{small}", "--size=8x8")
    assert "low: is 4x12 (height x width), which makes 8x24, the pictures to draw are 8x8" in line


@pytest.fixture
def known(monkeypatch):
    """The double as a method that a config can name, and some checkpoints of it."""
    home, tests = vlp_jax.methods.__path__, pathlib.Path(__file__).parents[1]
    monkeypatch.setattr(vlp_jax.methods, "__path__", [*home, str(tests)])
    return {
        "text": model(),
        "one": model(path="one", controls=1, control=0.5),
        "other": model(path="other", controls=1, control=0.25),
        "two": model(path="two", controls=2, control=0.125),
        "label": model("label", path="label"),
    }


def test_parts_of_other_checkpoints_are_laid_over_or_added(known, tmp_path):
    load, base, maps = known.__getitem__, known["text"], np.full((2, 16, 16, 3), 255, np.uint8)
    added = composed(base, {"control": "one"}, load)
    assert added.params == {"gain": 1.0, "control": 0.5} and base.params == {"gain": 1.0}
    assert added.config["method"]["controls"] == 1 and base.method.controls == 0
    over = composed(added, {"control": "other"}, load)
    assert over.params["control"] == 0.25 and over.method == added.method
    both = composed(base, {"control_0": "one", "control_1": "two:control_1"}, load)
    third = composed(added, {"control_1": "other"}, load)
    assert both.params == {"gain": 1.0, "control_0": 0.5, "control_1": 0.125}
    assert third.params == {"gain": 1.0, "control_0": 0.5, "control_1": 0.25}
    how = dict(steps=2, guidance=1.5)
    plain = [one.sample(["a"], **how)[0].tobytes() for one in (base, added, both)]
    assert len(set(plain)) == 1
    led = added.sample(["a"], control=maps[0], **how)[0]
    first = both.sample(["a"], control_0=maps[0], **how)[0]
    second = both.sample(["a"], control_0=maps[0], control_1=maps[1], **how)[0]
    assert led.tobytes() == first.tobytes() != second.tobytes()
    assert led.tobytes() != plain[0] != second.tobytes()


@pytest.mark.parametrize(
    "parts, line",
    [
        ({"control": "label"}, "parts.control=label: holds no part 'control'; valid: gain"),
        ({"controll": "one:control"}, "method 'drawing_double' has no such part; did you mean"),
        ({"control": "large"}, "parts.control=large: does not fit: params: (2,), needs ()"),
    ],
)
def test_parts_that_do_not_fit(known, parts, line):
    large = model(path="large", controls=1)
    known["large"] = dataclasses.replace(large, params={**large.params, "control": np.ones(2)})
    with pytest.raises(UserError) as error:
        composed(known["one"], parts, known.__getitem__)
    assert line in str(error.value) and "\n" not in str(error.value)


def test_the_command_takes_parts_and_maps_in_order(known, tmp_path, monkeypatch, capsys, caplog):
    def load(path, sharding, mesh, parts, lora):
        return composed(known[path], parts, known.__getitem__) if parts else known[path]

    monkeypatch.setattr(command, "load_model", load)
    one, two = picture(tmp_path / "1.png"), picture(tmp_path / "2.png", seed=1)
    call = ["--checkpoint=text", "--prompt=a", "--steps=2", f"--control={one}", f"--control={two}"]
    out = tmp_path / "out"
    assert run(*call, "--with=control:one", "--with=control:other", f"--out={out}") == 0
    both = composed(known["text"], {"control_0": "one", "control_1": "other"}, known.__getitem__)
    (ours,) = both.sample(["a"], control_0=one, control_1=two, steps=2)
    np.testing.assert_array_equal(pixels(out / "00000_00000.png"), np.asarray(ours))
    assert not caplog.messages
    both.sample(["a"], control_0=one, steps=2)
    assert caplog.messages == ["no control map for control_1: adds nothing to the picture"]
    line = refused(capsys, *call, "--with=control:one", f"--out={tmp_path / 'new'}")
    assert "--control: 2 given, the model takes 1" in line
    line = refused(capsys, *call, "--with=control:label", f"--out={tmp_path / 'new'}")
    assert "error: --with=control:label: holds no part" in line


def test_on_all_devices_too():
    from vlp_jax.api.placement import choose_mesh

    mesh = choose_mesh("replicated")
    for kind, prompts in (("text", ["a", "b"]), ("nothing", None)):
        one, many = model(kind), model(kind, mesh=mesh)
        ours = [np.asarray(p).astype(int) for p in one.sample(prompts, n=3, steps=2)]
        found = [np.asarray(p).astype(int) for p in many.sample(prompts, n=3, steps=2)]
        assert len(ours) == len(found) and abs(np.array(ours) - np.array(found)).max() <= 1


def test_bad_input_is_one_line(opened, tmp_path, capsys):
    image = picture(tmp_path / "i.png")
    wide, clear = picture(tmp_path / "w.png", (16, 24)), tmp_path / "c.png"
    Image.new("RGBA", (16, 16), (255, 255, 255, 254)).save(clear)
    (tmp_path / "none.txt").write_text("")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    TRACES.clear()
    out = [f"--out={tmp_path / 'out'}", "--checkpoint=text"]
    prompt, start = "--prompt=a", f"--image={image}"
    bad = {
        (prompt, "--size=20x16"): "--size=20x16: sides must be multiples of 8",
        (prompt, "--size=20"): "--size=20: must be HxW",
        (prompt, start, "--mask=" + str(wide)): "--mask: is 16x24 (height x width), image is 16x16",
        (prompt, start, "--strength=.5", "--size=8x8"): "--image: is 16x16 (height x width), the",
        (prompt, start, "--strength=1.5"): "--strength=1.5 is out of range; it must be from 0",
        (prompt, start): "--image: give a strength, from 0",
        (prompt, "--strength=.5"): "--strength: is how far to go from a picture; give an image",
        (prompt, f"--mask={image}"): "--mask: is painted over in a picture; give an image",
        (prompt, start, f"--mask={clear}"): "--mask: ",
        (prompt, f"--image={tmp_path / 'broken.png'}", "--strength=1"): "unreadable_picture",
        (prompt, "--image=/no/such.png", "--strength=1"): "--image: /no/such.png: missing_file",
        (prompt, f"--control={image}"): "--control: 1 given, the model takes 0; --with=control",
        (prompt, "--steps=0"): "--steps=0: must be at least 1",
        (prompt, "--sampler=dddim"): "--sampler: unknown 'dddim'; did you mean 'ddim'",
        (prompt, "--set=etta=1"): "--set=etta: unknown key; did you mean 'eta'",
        (prompt, "--n=0"): "--n=0: must be at least 1",
        (prompt, "--seed=-1"): "--seed=-1: must be a whole number from 0 to 2147483647",
        (prompt, f"--seed={2**31}"): "must be a whole number from 0",
        (prompt, "--batch-size=0"): "--batch-size=0: must be at least 1",
        (prompt, "--guidance=nan"): "--guidance=nan is out of range",
        (prompt, "--guidance=1", "--negative=b"): "--negative: says nothing at guidance 1",
        (prompt, "--with=control"): "--with=control: must be NAME:PATH",
        (prompt, "--prompts=x"): "--prompt and --prompts: give one of them",
        (f"--prompts={tmp_path / 'none.txt'}",): "none.txt: holds no prompt",
        ("--prompts=/no/such",): "--prompts: ",
        (): "--prompts: text draws from texts; give some",
        (prompt, start, "--set=eta=2"): "--set=eta=2 is out of range",
        (prompt, start, "--n=3000000000"): "--n=3000000000: there are 2147483648 seeds",
        (prompt, start, f"--picture=low:{image}"): "--picture=low: ",
        (prompt, "--checkpoint=nothing"): "--prompts: nothing draws without; n says how many",
        ("--prompt=7", "--checkpoint=label"): "--prompts: '7' is no class, a number from 0 to 4",
    }
    for words, line in bad.items():
        assert line in refused(capsys, *out, *words), words
    assert "is see-through" in refused(capsys, *out, prompt, start, f"--mask={clear}")
    assert not TRACES and not (tmp_path / "out").exists()


def test_a_mask_with_an_alpha_channel_that_hides_nothing(tmp_path):
    """As browsers and paint programs save one."""
    shades = Image.linear_gradient("L")
    wanted = read_picture("mask", np.asarray(shades))
    palette = shades.quantize(4)
    for i, mask in enumerate((shades.convert("RGBA"), shades.convert("LA"))):
        mask.save(tmp_path / f"{i}.png")
        np.testing.assert_array_equal(read_picture("mask", str(tmp_path / f"{i}.png")), wanted)
    palette.save(tmp_path / "p.png", transparency=1)
    with pytest.raises(UserError, match=r"^mask: .*p.png: is see-through"):
        read_picture("mask", str(tmp_path / "p.png"))


def test_a_model_that_draws_nothing(tiny_folder, tmp_path, capsys):
    call = [f"--checkpoint={tiny_folder}", "--prompt=a", f"--out={tmp_path / 'out'}"]
    assert "its method 'clip' draws no pictures" in refused(capsys, *call)
