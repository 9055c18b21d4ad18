"""R19 and R17: hostile names and members do nothing, bombs are refused from the header."""

import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zlib

import pytest
from generated import sample, tar_bytes

from vlp_jax.core.errors import RunError, UserError
from vlp_jax.data.open import open_source
from vlp_jax.data.shard import expand_braces, expand_shards


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def test_no_shard_name_reaches_a_shell(tmp_path):
    canary = tmp_path / "canary"
    for name in (
        f"pipe:touch {canary}; cat x.tar",
        f"x.tar; touch {canary}",
        f"$(touch {canary}).tar",
        f"`touch {canary}`.tar",
        f"x.tar::pipe:touch {canary}",
        f"ssh://host/x.tar?touch {canary}",
        f"| touch {canary}",
    ):
        with pytest.raises(UserError):
            open_source(name)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["pipe:cat x.tar", "x.tar::pipe:cat", "ssh://host/x.tar"])
def test_unsafe_shard_names_are_refused_as_such(name):
    with pytest.raises(UserError, match="not supported"):
        expand_shards(name)


@pytest.mark.parametrize(
    "name", ["x-{0..1e12}.tar", "x-{0..1000000000000}.tar", "x-{0..99999}{0..99999}.tar",
             "x-{0..9" + "9" * 5000 + "}.tar", "x-{5..1}.tar"]
)  # fmt: skip
def test_brace_ranges_are_bounded(name):
    with pytest.raises(UserError):
        expand_braces(name)


def test_brace_ranges_expand():
    assert expand_braces("a{08..10}-{x,y}") == [
        "a08-x",
        "a08-y",
        "a09-x",
        "a09-y",
        "a10-x",
        "a10-y",
    ]
    assert expand_braces("plain.tar") == ["plain.tar"]
    assert expand_braces("{1..3}") == ["1", "2", "3"]


def hostile_tar(folder) -> str:
    members = [m for i in range(4) for m in sample(i)]
    members += [("/tmp/../abs.png", b"x"), ("../up.txt", b"x"), ("a/../../b.png", b"x")]
    canary = pickle.dumps(Canary(folder / "canary"))
    members += [("s0000.pkl", canary), ("s0001.pth", canary), ("s0002.npy", canary)]
    data = io.BytesIO(tar_bytes(members))
    with tarfile.open(fileobj=data, mode="a") as tar:
        for name, kind in (("link.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("device.png")
        info.type = tarfile.CHRTYPE
        tar.addfile(info)
    (folder / "h.tar").write_bytes(data.getvalue())
    return str(folder / "h.tar")


def test_hostile_members_are_refused_and_counted(tmp_path):
    source = open_source(hostile_tar(tmp_path))
    before = set(os.listdir(tmp_path))
    assert [source[i]["key"] for i in range(len(source))] == [f"s{i:04d}" for i in range(4)]
    assert [d.reason for d in source.damage] == ["refused_member"] * 6
    assert set(os.listdir(tmp_path)) == before == {"h.tar", "h.index"}


def test_an_index_is_never_unpickled(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes(sample(0)))
    (tmp_path / "x.index").write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    assert len(open_source(str(path))) == 1
    assert not (tmp_path / "canary").exists()


def test_a_folder_does_not_follow_names_out_of_itself(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").symlink_to("/dev/zero")
    (tmp_path / "set" / "a.txt").write_text("endless")
    with pytest.raises(RunError, match=r"no picture left in .*a\.png: missing_file"):
        open_source(str(tmp_path / "set"))
    for name, data in sample(0):
        (tmp_path / "set" / name).write_bytes(data)
    source = open_source(str(tmp_path / "set"))
    assert [source[i]["key"] for i in range(len(source))] == ["s0000"]
    assert source.damage == [("missing_file", str(tmp_path / "set" / "a.png"))]


def png_bomb(edge: int) -> bytes:
    """An edge x edge RGB picture of zeros: 12,000 gives some 400 KB, 576 MB when decoded."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(9)
    row = bytes(1 + edge // 8)  # one bit per pixel
    data = b"".join(packer.compress(row) for _ in range(edge)) + packer.flush()
    head = struct.pack(">IIBBBBB", edge, edge, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


PROBE = """
import sys
from vlp_jax.data.open import open_source
from vlp_jax.data.damage import DamagedSample
from vlp_jax.data.decode import decode_image
source, reasons = open_source(sys.argv[1]), []
for i in range(len(source)):
    try:
        decode_image(source[i]["image"], 32)
    except DamagedSample as damage:
        reasons.append(damage.reason)
print(*[d.reason for d in source.damage], *reasons)
status = open("/proc/self/status").read()  # ru_maxrss would count the parent's memory at the fork
print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_bombs_are_refused_within_300_mb(tmp_path):
    """A PNG of 12000 x 12000 pixels, and a tar member of 2 GiB (a hole in the file)."""
    members = [*sample(0), ("bomb.png", png_bomb(12000)), ("bomb.txt", b"boom")]
    head = tarfile.TarInfo("giant.png")
    head.size = 2 * 2**30
    path = tmp_path / "b.tar"
    with open(path, "wb") as file:
        file.write(tar_bytes(members).rstrip(b"\0"))
        file.seek(-(-file.tell() // 512) * 512)
        file.write(head.tobuf())
        file.seek(head.size, os.SEEK_CUR)
        file.write(tar_bytes(sample(1)))
    out = subprocess.run(
        [sys.executable, "-c", PROBE, str(path)], capture_output=True, text=True, check=True
    )
    reasons, memory = out.stdout.splitlines()
    assert reasons.split() == ["too_large", "no_image", "too_many_pixels"] or reasons.split() == [
        "too_large",
        "too_many_pixels",
    ]
    assert int(memory) < 300
