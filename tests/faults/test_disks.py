"""Objects that are missing, damaged, torn, or do not fit on the disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.faults.drive import typed
from tests.faults.scene import (
    ALONE,
    SHARDED,
    SIDE,
    SMALL,
    TILES,
    Scene,
    assert_same,
    of_block,
)


@pytest.fixture
def own(scene, tmp_path):
    """The scene with an input of its own, to be damaged: zstd, and a checksum over it."""
    path = tmp_path / "own.zarr"
    codecs = [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]
    voxels = zarr.open_array(scene.source)[:]
    zarr.create_array(path, data=voxels, chunks=(SIDE,) * 3, compressors=codecs)
    scene.source = str(path)
    return scene


CHUNK = "c/1/2/3"
BLOCK = "8:16,16:24,24:32"


def chunk_of(scene):
    return Path(scene.source) / CHUNK


def test_f18_a_missing_chunk_fails_its_block_and_is_named(own, expected):
    chunk = chunk_of(own)
    content = chunk.read_bytes()
    chunk.unlink()
    report = own.run()
    assert list(report["failed"]) == [BLOCK]
    assert f"chunk {CHUNK} of " in report["failed"][BLOCK]
    assert "--missing-input fill" in report["failed"][BLOCK]
    assert (report["retries"], report["blocks"]) == (0, own.blocks - 1)
    chunk.write_bytes(content)
    assert own.run(retry_failed=True)["failed"] == {}
    assert_same(own.objects(), expected)


def test_f18_a_missing_chunk_is_filled_if_one_says_so(own, tmp_path):
    chunk_of(own).unlink()
    report = own.run(missing_input="fill")
    assert report["failed"] == {}
    assert report["chunks_filled"] == 1
    zeros = Scene(tmp_path / "zeros", str(tmp_path / "zeros.zarr"))
    zarr.create_array(zeros.source, data=zarr.open_array(own.source)[:], chunks=(SIDE,) * 3)
    zarr.open_array(zeros.source)[8:16, 16:24, 24:32] = 0
    assert zeros.run(missing_input="fill")["failed"] == {}
    assert_same(own.objects(), zeros.objects())


def flip(content):
    return content[:20] + bytes([content[20] ^ 4]) + content[21:]


@pytest.mark.parametrize("damage", [flip, lambda content: content[:50], lambda _: b""])
def test_f19_a_damaged_chunk_fails_its_block_and_is_named(own, expected, damage):
    chunk = chunk_of(own)
    content = chunk.read_bytes()
    chunk.write_bytes(damage(content))
    report = own.run(retries=0)
    assert list(report["failed"]) == [BLOCK]
    assert f"chunk {CHUNK} of " in report["failed"][BLOCK]
    assert report["blocks"] == own.blocks - 1
    chunk.write_bytes(content)
    assert own.run(retry_failed=True)["failed"] == {}
    assert_same(own.objects(), expected)


def damage_object(scene, name, deed):
    path = Path(scene.output) / name
    content = path.read_bytes()
    if deed == "delete":
        path.unlink()
    else:
        path.write_bytes(flip(content) if deed == "flip" else content[:-7])


@pytest.mark.parametrize("deed", ["flip", "cut", "delete"])
def test_f20_a_damaged_result_is_found_and_made_again(scene, expected, deed):
    scene.run()
    names = sorted(name for name in expected if "/0/c/" in name or "/1/c/" in name)
    chosen = [names[len(names) // 3], next(n for n in names if n.startswith("labels")), names[-1]]
    for name in chosen:
        damage_object(scene, name, deed)
    driver = scene.command(["verify", scene.output])
    assert driver.wait() == 3
    said = driver.said + (driver.folder / "out").read_text()
    assert all(name in said for name in chosen)
    assert scene.command(["verify", scene.output, "--requeue"]).wait() == 3
    assert len(scene.done()) < scene.blocks
    tiles = scene.tiles
    assert scene.run(resume=True)["failed"] == {}
    assert scene.tiles - tiles <= len(chosen) * TILES
    assert_same(scene.objects(), expected)
    assert scene.command(["verify", scene.output]).wait() == 0


@contextmanager
def small_disk(folder, size):
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        yield None if made.returncode == 0 else made.stderr.strip() or "mount failed"
    finally:
        if made.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_up(disk, left):
    """Leave so many bytes free."""
    space = os.statvfs(disk)
    with open(disk / "ballast", "wb") as file:
        file.write(bytes(space.f_bavail * space.f_frsize - left))


def test_f21_a_full_disk_stops_the_run_which_goes_on_when_there_is_room(
    scene, expected, tmp_path, require_service
):
    disk = tmp_path / "disk"
    with small_disk(disk, "4m") as reason:
        require_service("tmpfs", reason)
        scene.output = str(disk / "out.zarr")
        fill_up(disk, left=2**18)
        driver = scene.drive()
        assert driver.wait() == 4
        assert "No space left on device" in driver.said
        assert driver.said.count("\n") == 1
        assert 0 < len(scene.done()) < scene.blocks
        for name, content in scene.objects().items():
            assert content == expected[name], name
        (disk / "ballast").unlink()
        driver = scene.drive(resume=True)
        assert driver.wait() == 0, driver.said
        assert_same(scene.objects(), expected)
        assert scene.tiles <= (scene.blocks + 1) * TILES


@pytest.mark.parametrize(
    "scene", [(ALONE, SMALL), (SHARDED, SMALL)], indirect=True, ids=["alone", "sharded"]
)
def test_f22_what_lies_torn_at_a_blocks_place_is_overwritten_unread(scene, expected):
    """As an older program may have left it: cut, and longer than what belongs there."""
    scene.order(222, "raise", "always")
    scene.run(retries=0)
    number = scene.places[222]
    names = sorted(of_block(number, expected) | {name for name in expected if "/1/c/" in name})
    assert len(names) > 2
    for nth, name in enumerate(names):
        path = Path(scene.output) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(expected[name][:10] if nth % 2 else expected[name] + bytes(100))
        path.with_name(f"{path.name}.{'0123456789abcdef' * 2}.partial").write_bytes(b"half")
    (Path(scene.output) / "orthoflow" / f"run.json.{'0123' * 8}.partial").write_bytes(b"half")
    scene.order(222, "none")
    shutil.rmtree(scene.traps / "orders")
    (scene.traps / "orders").mkdir()
    assert scene.run(retry_failed=True)["failed"] == {}
    assert_same(scene.objects(), expected)
    assert scene.partials() == []


def test_f22_a_torn_place_of_a_block_that_is_all_background(own):
    """Nothing is stored for it, so what lies there has to go."""
    voxels = zarr.open_array(own.source)[:]
    voxels[8:16, 16:24, 24:32] = 1
    zarr.create_array(own.source, data=voxels, chunks=(SIDE,) * 3, overwrite=True)
    damaged = chunk_of(own)
    content = damaged.read_bytes()
    damaged.unlink()
    report = own.run()
    assert list(report["failed"]) == [BLOCK]
    planted = Path(own.output) / "labels/segmentation/0" / CHUNK
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_bytes(b"torn")
    damaged.write_bytes(content)
    assert own.run(retry_failed=True)["failed"] == {}
    assert not planted.exists()
    found = zarr.open_array(own.output, path="labels/segmentation/0", mode="r")[:]
    assert np.all(found[8:16, 16:24, 24:32] == 0)
    assert own.command(typed("verify", own.output)).wait() == 0
