from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from orthoflow.errors import BadInput, StoreRefused
from orthoflow.show.png import encode, require_writable, with_shades, write_png


def noise(rows=300, columns=400):
    return np.random.default_rng(0).integers(0, 256, (rows, columns, 3), np.uint8)


def read(source):
    return np.rint(imread(source, format="png")[..., :3] * 255).astype(np.uint8)


def test_pixels_come_back():
    np.testing.assert_array_equal(read(io.BytesIO(encode(noise()))), noise())


def test_the_same_pixels_are_the_same_bytes_and_nothing_else_is_stored():
    data = encode(noise())
    assert data == encode(noise())
    assert b"tEXt" not in data
    assert b"tIME" not in data


def test_a_large_picture_loses_shades_not_pixels(tmp_path):
    write_png(tmp_path / "a.png", noise(), max_bytes=len(encode(noise())) - 1)
    found = read(tmp_path / "a.png")
    np.testing.assert_array_equal(found, with_shades(noise(), 5))
    assert np.abs(found.astype(int) - noise()).max() <= 5


def test_a_failed_write_leaves_the_old_picture_and_no_other_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_png(path, noise(3, 3))
    before = path.read_bytes()

    def full(self, data):
        with open(self, "wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreRefused, match=r"a\.png cannot be written: No space left"):
        write_png(path, noise(5, 5))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_appears_only_when_the_file_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    seen = []
    rename = Path.replace

    def watched(self, target):
        seen.append((self.parent == path.parent, path.exists(), self.read_bytes()))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    write_png(path, noise(3, 3))
    assert seen == [(True, False, path.read_bytes())]


def test_refusals(tmp_path):
    with pytest.raises(BadInput, match="none does not exist; create it first"):
        require_writable(tmp_path / "none" / "a.png")
    with pytest.raises(BadInput, match=r"must end in \.png"):
        require_writable(tmp_path / "a.jpg")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(BadInput, match="is a folder"):
        require_writable(tmp_path / "folder.png")
    assert require_writable(str(tmp_path / "A.PNG")) == tmp_path / "A.PNG"
