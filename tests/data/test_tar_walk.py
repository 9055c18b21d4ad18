"""Headers of old and odd writers: checksums, the end of an archive, sizes in pax records."""

import io
import tarfile

import pytest
from generated import headers, keys_and_texts, sample, tar_bytes

from vlp_jax.core.errors import RunError
from vlp_jax.data.tar import TarSource

P = sample(0)[0][1]


def old_header(name: bytes, length: int, signed: bool) -> bytearray:
    """A V7 header (no `ustar`) whose checksum sums signed or unsigned bytes."""
    header = bytearray(512)
    header[: len(name)] = name
    header[100:124] = b"%07o\0" * 3 % (0o644, 0, 0)
    header[124:156] = b"%011o\0" * 2 % (length, 0) + b" " * 8
    total = sum(b - 256 * (signed and b > 127) for b in header)
    header[148:156] = b"%06o\0 " % total
    return header


@pytest.mark.parametrize("signed", [True, False])
def test_checksums_of_signed_and_unsigned_bytes_hold(tmp_path, signed):
    data = b""
    for suffix, content in ((b".png", P), (b".txt", b"caf\xc3\xa9")):
        name = "caf\u00e9".encode() + suffix
        data += old_header(name, len(content), signed) + content + bytes(-len(content) % 512)
    (tmp_path / "v7.tar").write_bytes(data + bytes(1024))
    source = TarSource(str(tmp_path / "v7.tar"))
    assert keys_and_texts(source) == [("caf\u00e9", "caf\u00e9")] and not source.damage
    spoilt = bytearray(data + bytes(1024))
    spoilt[0] ^= 1  # neither sum holds
    (tmp_path / "v7.tar").write_bytes(spoilt)
    with pytest.raises(RunError, match="bad_header"):
        TarSource(str(tmp_path / "v7.tar"))


@pytest.mark.parametrize("blocks,damage", [(0, ["no_end_blocks"]), (1, ["no_end_blocks"]), (2, []),
                                           (3, []), (20, [])])  # fmt: skip
def test_an_archive_ends_with_two_blocks(tmp_path, blocks, damage):
    data = tar_bytes(sample(0))
    end = max(at + 512 + -(-size // 512) * 512 for at, size in headers(data).values())
    (tmp_path / "e.tar").write_bytes(data[:end] + bytes(512 * blocks))
    source = TarSource(str(tmp_path / "e.tar"))
    assert [d.reason for d in source.damage] == damage and len(source) == 1
    for junk in (b"x" * 512, bytes(511) + b"x"):
        (tmp_path / "e.tar").write_bytes(data[:end] + bytes(512) + junk)
        assert [d.reason for d in TarSource(str(tmp_path / "e.tar")).damage] == ["zeroed_header"]


def test_a_size_in_a_pax_header_counts_for_its_member_alone(tmp_path):
    """Sizes above 8 GiB stand there, with zero in the header."""
    first, text = sample(0)[0], ("s0000.txt", b"number 0")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(first[0])
        info.size, info.pax_headers = len(first[1]), {"size": str(len(first[1])), "comment": "x"}
        tar.addfile(info, io.BytesIO(first[1]))
        info = tarfile.TarInfo(text[0])
        info.size = len(text[1])
        tar.addfile(info, io.BytesIO(text[1]))
    whole = bytearray(data.getvalue())
    at = whole.find(b"s0000.png\0")
    whole[at + 124 : at + 136] = b"%011o\0" % 0
    whole[at + 148 : at + 156] = b" " * 8
    whole[at + 148 : at + 156] = b"%06o\0 " % sum(whole[at : at + 512])
    (tmp_path / "p.tar").write_bytes(whole)
    source = TarSource(str(tmp_path / "p.tar"))
    assert source[0]["image"] == first[1] and source[0]["text"] == ["number 0"]
    assert not source.damage
