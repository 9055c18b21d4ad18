"""`serve` as a person starts it: the URL, answers of a real model, Ctrl-C; mistakes."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from cli.conftest import odd_pictures

pytest.importorskip("uvicorn", reason="the service is of the extra `search`")
import vlp_jax
from vlp_jax.__main__ import main


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return odd_pictures(tmp_path_factory.mktemp("serve") / "pictures")


@pytest.fixture(scope="module")
def index(tiny_folder, pictures):
    """An index of five pictures without captions."""
    out = pictures.parent / "index"
    words = [f"--checkpoint={tiny_folder}", f"--data={pictures}", f"--out={out}"]
    assert main(["index", *words]) == 0
    return out


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=30) as answer:
        return json.load(answer)


def test_the_command_serves_what_the_index_remembers(index, tiny_folder, pictures):
    words = [sys.executable, "-m", "vlp_jax", "serve", f"--index={index}", "--port=0", "--json"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with subprocess.Popen(words, **pipes) as process:
        lines = [process.stdout.readline()]
        while not lines[-1].startswith("{") and lines[-1]:
            lines.append(process.stdout.readline())
        told = json.loads(lines[-1])
        assert told["rows"] == 5 and told["url"] in lines[-2] and "127.0.0.1" in told["url"]
        body = {"modality": "image", "num_images": 5, "indice_name": "index", "text": "a cat"}
        found = ask(f"{told['url']}/knn-service", body)
        model = vlp_jax.load(tiny_folder)
        paths = sorted(pictures / row["path"] for row in found)
        cosines = model.embed_images(paths) @ model.embed_texts(["a cat"])[0]
        assert [row["id"] for row in found] == np.argsort(-cosines).tolist()
        assert ask(f"{told['url']}/words", {"query": [{"id": 0}], "k": 3})["words"]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"index": "nowhere"}, "--index=nowhere: no such folder"),
        ({"index": "EMPTY"}, "holds no index"),
        ({"port": "USED"}, ": is in use; take another, 0 is a free one"),
        ({"port": "70000"}, "--port=70000: must be from 0 to 65535"),
        ({"host": "no such"}, "--host=no such: no such address of this machine"),
        ({"words": "nowhere.txt"}, "--words: 'nowhere.txt' cannot be read"),
        ({"checkpoint": "nowhere"}, "--checkpoint: nowhere: no such folder"),
    ],
)
def test_mistakes(index, tmp_path, capsys, flags, message):
    (tmp_path / "empty").mkdir()
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        known = {"EMPTY": str(tmp_path / "empty"), "USED": str(used.getsockname()[1])}
        given = {"index": str(index), "port": "0", **flags}
        words = [f"--{key}={known.get(value, value)}" for key, value in given.items()]
        capsys.readouterr()
        assert main(["serve", *words]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert message in line and line.startswith("error: ")


def test_a_checkpoint_that_is_gone(index, tmp_path, capsys):
    index = shutil.copytree(index, tmp_path / "index")
    manifest = json.loads((index / "manifest.json").read_text())
    manifest["checkpoint"] = {"path": str(tmp_path / "gone"), "beside": "../gone"}
    (index / "manifest.json").write_text(json.dumps(manifest))
    assert main(["serve", f"--index={index}", "--port=0"]) == 2
    assert "is gone; give --checkpoint=DIR" in capsys.readouterr().err
