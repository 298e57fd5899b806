"""What the tests of this folder attack with: files that run code, files that swell, a canary."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from orthoflow.errors import BadInput
from tests.s3 import SECRET

CANARY = SECRET
"""A secret that must not be found where secrets do not belong."""

MEBI = 2**20


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = Path(path)

    def __reduce__(self):
        return Path.touch, (self.path,)


class Trap:
    """A file that appears when hostile code ran; `live` shows that the code would run."""

    def __init__(self, path):
        self.path = Path(path)

    @property
    def sprung(self):
        return self.path.exists()

    def pickled(self):
        return pickle.dumps(Evil(self.path))

    def source(self):
        """Python that springs it."""
        return f"import pathlib\npathlib.Path({str(self.path)!r}).touch()\n"

    @contextmanager
    def live(self):
        """What happens inside springs the trap, which is set again afterwards."""
        assert not self.sprung
        yield
        assert self.sprung, "this attack does nothing any more: is its test still one?"
        self.path.unlink()


def refusal(call, *arguments, kinds=(BadInput,), **options):
    """Message of a refusal: one line, without the canary."""
    with pytest.raises(kinds) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert CANARY not in message
    return message


@contextmanager
def memory_grows_by_at_most(size):
    """Of this process, at any time inside the block."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest value
    before = _kibibytes("VmRSS")
    yield
    grown = (_kibibytes("VmHWM") - before) * 1024
    assert grown <= size, f"{grown / MEBI:.0f} MiB"


def _kibibytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def rezipped(content, changes, *, compress):
    """A zip archive with other members in place of some, and some more."""
    stream = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w", how) as new:
        names = {name.partition("/")[2]: name for name in old.namelist()}
        root = next(iter(names.values())).partition("/")[0]
        for name in {**names, **changes}:
            new.writestr(f"{root}/{name}", changes.get(name) or old.read(names[name]))
    return stream.getvalue()


def zstd_without_a_size(total):
    """A zstd frame that does not say that it unpacks to `total` zeros, 128 KiB per four bytes."""
    frame = bytearray(b"\x28\xb5\x2f\xfd\x00\x58")
    block = 128 * 2**10
    count = -(-total // block)
    for number in range(count):
        header = block << 3 | 1 << 1 | (number == count - 1)
        frame += header.to_bytes(3, "little") + b"\0"
    return bytes(frame)


def zlib_of_zeros(total):
    """Written without `total` bytes of memory."""
    packer = zlib.compressobj(9)
    pieces = [packer.compress(bytes(MEBI)) for _ in range(total // MEBI)]
    return b"".join([*pieces, packer.flush()])


def one_tile_tiff(path, compression, tile, *, side=256):
    """A TIFF of one page, whose only tile is the bytes `tile`."""
    short, long = 3, 4
    tags = {
        256: (long, side),
        257: (long, side),
        258: (short, 8),
        259: (short, compression),
        262: (short, 1),
        277: (short, 1),
        322: (long, side),
        323: (long, side),
        324: (long, 8 + 2 + 12 * 11 + 4),
        325: (long, len(tile)),
        339: (short, 1),
    }
    content = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    for code, (kind, value) in sorted(tags.items()):
        content += struct.pack("<HHI", code, kind, 1)
        content += struct.pack("<I" if kind == long else "<Hxx", value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content + struct.pack("<I", 0) + tile)
    return path.parent


def npy(header, data=bytes(64)):
    """A .npy file with a header of one's own."""
    text = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def ramp(shape):
    """Voxels that differ."""
    return np.arange(np.prod(shape), dtype=np.uint32).reshape(shape).astype(np.uint8)
