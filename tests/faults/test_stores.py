"""A store that is overloaded, breaks off, hangs, or no longer lets one in; and what it is asked."""

from __future__ import annotations

import logging
import time

import numpy as np
import pytest
import zarr

from orthoflow.errors import StoreRefused
from tests import nets
from tests.faults import traps
from tests.faults.fleet import wait_until
from tests.faults.scene import ALONE, SIDE, SMALL, TILES, Scene, assert_same, volume_with_orders

pytestmark = pytest.mark.s3

FEW = 24
"""Blocks of a small volume."""


@pytest.fixture
def local(clean):
    """Objects of a run on disk."""
    return clean(ALONE, SMALL)[0]


@pytest.fixture
def remote(faulty, tmp_path, moto, monkeypatch):
    """A scene in a bucket, and the proxy in front of it."""
    url, proxy = faulty
    # The client below would try five times by itself: what is tested is who asks it.
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    zarr.create_array(f"{url}/in.zarr", data=volume_with_orders(SMALL), chunks=(SIDE,) * 3)
    proxy.forget()
    scene = Scene(tmp_path, f"{url}/in.zarr", output=f"{url}/out.zarr")
    scene.environment = {**moto.at(proxy.url).environment(), "AWS_MAX_ATTEMPTS": "1"}
    yield scene, proxy
    proxy.heal()
    scene.end()


class At:
    """Does something once, when so many blocks are done."""

    def __init__(self, done, deed):
        self.done, self.deed, self.began = done, deed, None

    def __call__(self, progress):
        if self.began is None and progress.done >= self.done:
            self.began = time.monotonic()
            self.deed()


def storm(seconds, remote, local, caplog):
    scene, proxy = remote
    faults = []
    at = At(8, lambda: faults.append(proxy.inject("status", status=503, lasting=seconds)))
    caplog.set_level(logging.WARNING, "orthoflow")
    report = scene.run(progress=at)
    assert report["failed"] == {}
    assert report["retries"] == 0
    assert faults[0].hits > 2
    assert scene.tiles == FEW * TILES
    assert_same(scene.objects(), local)
    return faults[0], [r.getMessage() for r in caplog.records if "does not answer" in r.message]


def test_f14_a_storm_of_503_is_waited_out(remote, local, caplog, monkeypatch):
    monkeypatch.setattr("orthoflow.stores.patience._warnings._due", 0.0)
    fault, said = storm(1.0, remote, local, caplog)
    assert len(said) == 1
    # Growing pauses: after 0.1, 0.2 and 0.4 s at the earliest, and then it is over.
    assert fault.hits <= 4


@pytest.mark.slow
def test_f14_a_minute_of_503(remote, local, caplog, monkeypatch):
    """With the client as it is."""
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    monkeypatch.setattr("orthoflow.stores.patience._warnings._due", 0.0)
    fault, said = storm(60.0, remote, local, caplog)
    assert 1 <= len(said) <= 2
    # Growing pauses: a store that drowns is not asked a thousand times.
    assert fault.hits < 200


def test_f14_patience_ends(remote):
    scene, proxy = remote
    at = At(4, lambda: proxy.inject("status", status=503))
    with pytest.raises(StoreRefused, match=r"does not answer for \d+ s .*patience"):
        scene.run(progress=at, patience=1.0)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "reset", "keys": "*/c/*"},
        {"kind": "lose", "keys": "*/out.zarr/*/c/*"},
        {"kind": "lose", "keys": "*/blocks/*"},
        {"kind": "truncate", "keys": "*/in.zarr/c/*"},
        {"kind": "status", "status": 500, "keys": "*/c/*"},
        {"kind": "status", "status": 503, "keys": "*/blocks/*"},
    ],
    ids=lambda fault: "-".join(map(str, fault.values())),
)
def test_f15_broken_requests_are_made_again(remote, local, fault):
    scene, proxy = remote
    made = []
    at = At(1, lambda: made.append(proxy.inject(**fault, share=0.3, count=6, seed=5)))
    report = scene.run(progress=at)
    assert report["failed"] == {}
    # Requests are made again, not blocks.
    assert report["retries"] == 0
    assert made[0].hits > 3
    assert scene.tiles == FEW * TILES
    assert_same(scene.objects(), local)
    assert scene.command(["verify", scene.output]).wait() == 0


@pytest.mark.parametrize("keys", ["*/locks/*", "*/run.json", "*/report.json"])
def test_f15_a_driver_that_cannot_reach_the_store_says_so(remote, local, keys):
    scene, proxy = remote
    proxy.inject("reset", keys=keys)
    driver = scene.drive(patience=1)
    assert driver.wait() == 4
    assert driver.said.count("\n") == 1, driver.said
    assert "does not answer" in driver.said
    proxy.heal()
    assert scene.drive(resume=True).wait() == 0
    assert_same(scene.objects(), local)


def test_f16_rejected_credentials_stop_the_run_which_goes_on_with_new_ones(remote, local):
    scene, proxy = remote
    at = At(8, lambda: proxy.inject("status", status=403))
    with pytest.raises(StoreRefused) as caught:
        scene.run(progress=at)
    assert time.monotonic() - at.began < 10
    bucket = "/".join(scene.output.split("/")[:3])
    assert f"credentials rejected for {bucket}" in str(caught.value)
    proxy.heal()
    assert 8 <= len(scene.done()) < FEW
    assert scene.run(resume=True)["failed"] == {}
    assert scene.tiles <= (FEW + 1) * TILES
    assert_same(scene.objects(), local)


def test_f16_the_command_ends_with_code_4(remote, local):
    scene, proxy = remote
    traps.slow_down(scene.traps, 0.02)
    driver = scene.drive(cluster="threads", workers=2)
    wait_until(lambda: len(scene.done()) > 4)
    proxy.inject("status", status=403)
    began = time.monotonic()
    assert driver.wait(30) == 4
    assert time.monotonic() - began < 10
    assert driver.said.count("\n") == 1, driver.said
    assert "credentials rejected for s3://" in driver.said
    assert "canary" not in driver.said
    proxy.heal()
    assert scene.drive(resume=True).wait() == 0
    assert_same(scene.objects(), local)


def test_f17_hung_connections_are_given_up_and_made_again(remote, local):
    scene, proxy = remote
    hung = []
    inject = {"seconds": 20, "share": 0.3, "count": 3, "seed": 2, "keys": "*/c/*"}
    at = At(1, lambda: hung.append(proxy.inject("hang", **inject)))
    report = scene.run(progress=at, storage_option={"read_timeout": "0.5"})
    assert hung[0].hits == 3
    assert time.monotonic() - at.began < 20
    assert report["failed"] == {}
    assert report["retries"] == 0
    assert_same(scene.objects(), local)


# -------------------------------------------------------------------------- what a store is asked


def test_a_block_costs_its_chunks_its_objects_and_a_marker(remote):
    scene, proxy = remote
    scene.run(levels=1)
    chunks = proxy.seen("GET", keys="*/in.zarr/c/*")
    assert len(chunks) == FEW
    for path in ("*/labels/segmentation/0/c/*", "*/probabilities/0/c/*", "*/blocks/*"):
        assert len(proxy.seen("PUT", keys=path)) == FEW, path
        assert len({one.path for one in proxy.seen("PUT", keys=path)}) == FEW
        assert proxy.seen("GET", keys=path) == []
    assert proxy.seen("HEAD", keys="*/c/*") == []
    assert all(one.conditional for one in proxy.seen("PUT", keys="*/blocks/*"))
    metadata = proxy.seen(keys="*/in.zarr/*zarr.json")
    assert len(metadata) <= 8


def test_empty_blocks_cost_a_read_and_a_marker(remote):
    scene, proxy = remote
    voxels = np.full(SMALL, 7, np.uint8)
    voxels[:8, :8, :8] = nets.blobs((8, 8, 8), top=100)
    zarr.create_array(scene.source, data=voxels, chunks=(SIDE,) * 3, overwrite=True)
    proxy.forget()
    report = scene.run(levels=1)
    assert report["failed"] == {}
    assert scene.tiles == TILES
    assert len(proxy.seen("GET", keys="*/in.zarr/c/*")) == FEW
    assert len(proxy.seen("PUT", keys="*/out.zarr/*/c/*")) == 2
    assert len(proxy.seen("PUT", keys="*/blocks/*")) == FEW
    asked = [one for one in proxy.seen() if "out.zarr" in one.path and "/c/" in one.path]
    # Nothing is stored for them; whether something torn lies there has to be asked or cleared.
    assert len(asked) <= 2 + 2 * FEW
