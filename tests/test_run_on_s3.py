"""The main job from a bucket to a bucket, in worker processes that build their own stores."""

from __future__ import annotations

import fsspec
import numpy as np
import pytest
import zarr

import orthoflow as of
from orthoflow.errors import StoreRefused
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
