"""The main job from a bucket to a bucket, in worker processes that build their own stores."""

from __future__ import annotations

from collections import Counter

import fsspec
import numpy as np
import pytest
import zarr

import orthoflow as of
from orthoflow.errors import StoreRefused
from orthoflow.geometry import levels
from orthoflow.plan import scale
from tests import nets
from tests.s3 import SECRET

SHAPE = (20, 36, 44)
OPTIONS = {"normalization": "zscore", "chunk": 8, "block": 16, "output": "both"}


@pytest.mark.s3
@pytest.mark.parametrize("cluster", ["synchronous", "processes"])
def test_a_bucket_gets_the_bytes_that_a_disk_gets(bucket, tmp_path, cluster):
    voxels = nets.blobs(SHAPE)
    zarr.create_array(f"{bucket}/in.zarr", data=voxels, chunks=(8, 16, 16))
    model = nets.plain()
    of.run(voxels, tmp_path / "out.zarr", model=model, cluster="synchronous", **OPTIONS)
    target = f"{bucket}/out.zarr"
    report = of.run(f"{bucket}/in.zarr", target, model=model, cluster=cluster, workers=2, **OPTIONS)
    assert report["failed"] == {}
    fs = fsspec.filesystem("s3")
    fs.invalidate_cache()
    stored = {p.removeprefix(target[5:]): fs.cat_file(p) for p in fs.find(target)}
    local = {
        str(p).removeprefix(str(tmp_path / "out.zarr")): p.read_bytes()
        for p in (tmp_path / "out.zarr").rglob("*")
        if p.is_file()
    }
    # Markers lie under the run's fingerprint, which names the input.
    data = [{name for name in found if "/orthoflow/" not in name} for found in (stored, local)]
    assert data[0] == data[1]
    chunks = {name for name in local if "/c/" in name}
    assert chunks
    for name in chunks:
        assert stored[name] == local[name], name
    assert not any(SECRET.encode() in content for content in stored.values())


@pytest.mark.s3
@pytest.mark.usefixtures("bucket")
def test_a_missing_bucket_stops_the_run_at_once():
    with pytest.raises(StoreRefused, match="no-such-bucket-here"):
        of.run(
            np.zeros(SHAPE, np.uint8),
            "s3://no-such-bucket-here/out.zarr",
            model=nets.plain(),
            cluster="synchronous",
        )


@pytest.mark.s3
@pytest.mark.parametrize(
    ("shards", "part", "chunk", "slab"), [(None, 1, 8, 0), ((16, 16, 32), 9, 4, 1)]
)
def test_a_run_asks_for_what_its_plan_says(faulty, monkeypatch, shards, part, chunk, slab):
    """Counted by a proxy in front of the bucket, request by request."""
    bucket, proxy = faulty
    array = zarr.create_array(
        f"{bucket}/in.zarr", shape=SHAPE, chunks=(8, 8, 16), shards=shards, dtype="uint8"
    )
    array[:] = nets.blobs(SHAPE) + 1
    options = {"chunk": chunk, "block": 16, "part": part, "cluster": "synchronous"}
    options["output"] = "labels" if slab else "both"
    if slab:
        monkeypatch.setattr(levels, "SLAB_BYTES", slab)
    model = of.Model.from_torch(nets.Pointwise(), outputs=2, divisor=8)
    plan = of.make_plan(f"{bucket}/in.zarr", model, **options)
    assert plan.facts.shards == shards
    proxy.forget()
    report = of.run(f"{bucket}/in.zarr", f"{bucket}/out.zarr", model=model, **options)
    assert report["complete"]
    asked = scale.requests_of(plan)
    keys = Counter()
    for one in proxy.seen():
        if "/c/" in one.key:
            keys[one.method, one.key.split("/")[0], "/0/c/" in one.key] += 1
    gets = sum(keys["GET", "in.zarr", level] for level in (False, True))
    assert gets == asked.input_gets
    assert keys["PUT", "out.zarr", True] + plan.block_count == asked.block_puts
    markers = [one for one in proxy.seen("PUT") if "/markers/" in one.key]
    assert keys["PUT", "out.zarr", False] + len(markers) == asked.pyramid_puts + plan.block_count
    gets = sum(keys["GET", "out.zarr", level] for level in (False, True))
    assert gets == asked.pyramid_gets
    assert abs(len(proxy.seen("PUT")) - asked.puts) <= 3
