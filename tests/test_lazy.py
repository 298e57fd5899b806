"""`predict` and `segment`: what `run` writes, computed no further than somebody looks."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from dask.highlevelgraph import HighLevelGraph

import orthoflow as of
from orthoflow import work
from tests import nets

SHAPE = (12, 20, 28)
OPTIONS = {"chunk": 8, "block": 8, "tile": 12, "normalization": "zscore"}


@pytest.fixture(scope="module")
def volume():
    return nets.blobs(SHAPE)


@pytest.fixture(scope="module")
def path(volume, tmp_path_factory):
    """The volume as OME-Zarr with voxels of 0.5 x 0.2 x 0.2 micrometres."""
    place = tmp_path_factory.mktemp("in") / "v.zarr"
    scale = {"type": "scale", "scale": [0.5, 0.2, 0.2]}
    shift = {"type": "translation", "translation": [5.0, 1.0, 2.0]}
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    dataset = {"path": "0", "coordinateTransformations": [scale, shift]}
    ome = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [dataset]}]}
    group = zarr.create_group(place, attributes={"ome": ome})
    group.create_array("0", shape=SHAPE, chunks=(5, 9, 9), dtype="u1")[:] = volume
    return place


@pytest.fixture(scope="module")
def expected(volume):
    return nets.everything(volume, nets.plain(), **OPTIONS)


@pytest.fixture
def counted(monkeypatch):
    """Blocks whose patches were run."""
    blocks = []
    infer = work.infer

    def counting(job, part, block, voxels=None):
        blocks.append(str(block))
        return infer(job, part, block, voxels)

    monkeypatch.setattr(work, "infer", counting)
    return blocks


def given(kind, volume, path):
    """The same volume, handed over in every way there is."""
    opened = of.open_volume(path)
    dims = ("z", "y", "x")
    return {
        "path": path,
        "string": str(path),
        "opened": opened,
        "numpy": volume,
        "dask": da.from_array(volume, chunks=(5, 7, 28)),
        "xarray": xr.DataArray(volume, dims=dims),
        "turned": xr.DataArray(volume.transpose(2, 0, 1), dims=("x", "z", "y")),
        "with a channel": xr.DataArray(volume[None], dims=("c", *dims)),
        "wider": opened.astype("uint16"),
        "lazy": opened * 1,
    }[kind]


KINDS = ["path", "string", "opened", "numpy", "dask", "xarray", "turned", "with a channel"]
KINDS += ["wider", "lazy"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_lazy_results_equal_what_run_writes(kind, scheduler, volume, path, expected, tmp_path):
    model, source = nets.plain(), given(kind, volume, path)
    labels = of.segment(source, model, **OPTIONS).compute(scheduler=scheduler)
    np.testing.assert_array_equal(labels.values, expected["labels"])
    logits = of.predict(source, model, **OPTIONS).compute(scheduler=scheduler)
    for name in ("xy", "xz", "yz", "consensus"):
        np.testing.assert_array_equal(logits[name].values, expected[f"logits/{name}"])
    of.run(source, tmp_path / "out", model=model, cluster="synchronous", **OPTIONS)
    written = nets.read(tmp_path / "out", "labels/segmentation/0")
    np.testing.assert_array_equal(written, expected["labels"])


@pytest.mark.parametrize("part", [1, 2, 100])
@pytest.mark.parametrize("block", [8, 16, (16, 24, 8)])
def test_neither_blocks_nor_parts_show(part, block, volume, expected):
    options = {**OPTIONS, "part": part, "block": block}
    labels = of.segment(volume, nets.plain(), **options)
    np.testing.assert_array_equal(labels.compute(scheduler="sync").values, expected["labels"])


@pytest.mark.slow
def test_a_client_computes_the_same(volume, path, expected):
    from distributed import Client

    with Client(processes=False, n_workers=1, dashboard_address="127.0.0.1:0"):
        for kind in ("path", "opened", "numpy", "lazy"):
            labels = of.segment(given(kind, volume, path), nets.plain(), part=2, **OPTIONS)
            np.testing.assert_array_equal(labels.compute().values, expected["labels"])


def test_nothing_runs_before_somebody_asks(volume, path, counted):
    for source in (volume, path, of.open_volume(path) + 1):
        of.segment(source, nets.plain(), **OPTIONS)
        of.predict(source, nets.plain(), **OPTIONS)
    assert counted == []


def test_a_slice_computes_only_its_blocks(volume, expected, counted):
    labels = of.segment(volume, nets.plain(), **OPTIONS)
    found = labels[3:5, 9:12, 17:30].compute(scheduler="synchronous")
    np.testing.assert_array_equal(found, expected["labels"][3:5, 9:12, 17:30])
    assert sorted(counted) == ["0:8,8:16,16:24", "0:8,8:16,24:28"]
    counted.clear()
    logits = of.predict(volume, nets.plain(), **OPTIONS)
    found = logits["xz"][0, 11, 0, :8].compute(scheduler="synchronous")
    np.testing.assert_array_equal(found, expected["logits/xz"][0, 11, 0, :8])
    assert counted == ["8:12,0:8,0:8"]


def test_a_slice_calls_the_network_for_its_own_patches_only(volume):
    model = of.Model.from_torch(nets.Counting(), tile=(12, 12), reach=1, stride=1)
    options = {**OPTIONS, "orientations": ("xy",), "overlap": 0}
    labels = of.segment(volume, model, **options)
    labels[0, 0, 0].compute(scheduler="synchronous")  # loads the network, and tries it out
    nets.CALLS.clear()
    labels[2, :8, :8].compute(scheduler="synchronous")
    planes = 8  # of one block of 8 x 8 x 8, which one patch of 12 x 12 covers
    assert sum(shape[0] for shape in nets.CALLS) == planes
    nets.CALLS.clear()
    labels.compute(scheduler="synchronous")
    assert sum(shape[0] for shape in nets.CALLS) > 12 * 2 * 3


def test_a_slice_of_a_region_is_in_the_regions_own_places(volume, expected):
    labels = of.segment(volume, nets.plain(), roi="3:12,5:20,7:27", **OPTIONS)
    assert labels.shape == (9, 15, 20)
    np.testing.assert_array_equal(labels.z, np.arange(3, 12))
    found = labels.sel(z=5, y=slice(6, 9)).compute(scheduler="synchronous")
    np.testing.assert_array_equal(found, expected["labels"][5, 6:10, 7:27])


def test_the_results_of_one_graph_are_shared(volume, counted):
    """All variables of a dataset together run every patch once."""
    of.predict(volume, nets.plain(), **OPTIONS).compute(scheduler="synchronous")
    assert len(counted) == len(set(counted)) == 2 * 3 * 4


def test_the_graph_can_be_looked_at(volume):
    labels = of.segment(volume, nets.plain(), part=2, **OPTIONS)
    graph = labels.data.__dask_graph__()
    assert isinstance(graph, HighLevelGraph)
    graph.validate()
    assert any(name.startswith("labels-") for name in graph.layers)
    named = {key[0].partition("-")[0] for key in graph.to_dict() if isinstance(key, tuple)}
    assert {"infer", "rim", "labels"} <= named
    assert "HighLevelGraph" in graph._repr_html_()
    # Lazy arrays can be asked for anything that Dask arrays can.
    both = (labels.data == 1).sum() + (labels.data == 0).sum()
    assert both.compute(scheduler="synchronous") == volume.size


def test_two_lazy_results_do_not_share_keys(volume):
    first = of.segment(volume, nets.plain(), **OPTIONS)
    second = of.segment(255 - volume, nets.plain(), **OPTIONS)
    a, b = dask.compute(first.data, second.data, scheduler="synchronous")
    assert not set(first.data.__dask_graph__()) & set(second.data.__dask_graph__())
    assert (a != b).any()


def test_changed_volumes_are_not_read_from_their_file(volume, path):
    """A DataArray remembers its file only while it is the very array that was opened."""
    model, opened = nets.plain(), of.open_volume(path)
    changes = {
        "arithmetic": (255 - opened, 255 - volume),
        "slice": (opened[2:, :16, 5:25], volume[2:, :16, 5:25]),
        "a step": (opened[:, ::2], volume[:, ::2]),
        "flip": (opened[::-1], volume[::-1]),
        "where": (opened.where(opened > 100, 0).astype("u1"), np.where(volume > 100, volume, 0)),
        "transposed": (opened.transpose("x", "y", "z"), volume),
        "loaded and changed": (changed_in_place(opened), np.maximum(volume, 50)),
        "copied data": (opened.copy(data=255 - opened.data), 255 - volume),
    }
    for name, (given, array) in changes.items():
        found = of.segment(given, model, **OPTIONS).compute(scheduler="synchronous").values
        wanted = (
            of.segment(np.ascontiguousarray(array), model, **OPTIONS)
            .compute(scheduler="synchronous")
            .values
        )
        np.testing.assert_array_equal(found, wanted, err_msg=name)


def changed_in_place(opened):
    loaded = opened.compute(scheduler="synchronous")
    loaded.values[:] = np.maximum(loaded.values, 50)
    return loaded


def test_coordinates_and_voxel_sizes_survive(path):
    model, opened = nets.plain(), of.open_volume(path)
    np.testing.assert_allclose(opened.z, 5.0 + 0.5 * np.arange(12))
    labels = of.segment(opened, model, **OPTIONS)
    logits = of.predict(path, model, roi="2:,4:,6:", **OPTIONS)
    for axis, first, step, skipped in [("z", 5.0, 0.5, 2), ("y", 1.0, 0.2, 4), ("x", 2.0, 0.2, 6)]:
        np.testing.assert_allclose(labels[axis], opened[axis])
        assert labels[axis].attrs["units"] == "micrometer"
        np.testing.assert_allclose(logits[axis][0], first + skipped * step)
    part = of.segment(opened[4:, 2:], model, **OPTIONS)
    np.testing.assert_allclose(part.z, opened.z[4:])
    np.testing.assert_allclose(part.y, opened.y[2:])
    assert part.z.attrs["units"] == "micrometer"
    xr.testing.assert_equal(labels.z, opened.z)


def test_what_is_written_of_a_slice_lies_where_it_came_from(path, tmp_path):
    opened = of.open_volume(path)[4:, 2:]
    of.run(opened, tmp_path / "out", model=nets.plain(), cluster="synchronous", **OPTIONS)
    found = of.open_volume(tmp_path / "out", array="labels/segmentation")
    for axis in "zyx":
        np.testing.assert_allclose(found[axis], opened[axis])


def test_classes_are_named(volume):
    logits = of.predict(volume, nets.plain(outputs=3), **OPTIONS)
    assert logits.sizes == {"class": 3, "z": 12, "y": 20, "x": 28}
    assert list(logits["class"].values) == ["0", "1", "2"]
    assert list(of.predict(volume, nets.plain(), **OPTIONS)["class"].values) == ["foreground"]


def test_bad_wishes_are_refused_at_once(volume):
    with pytest.raises(of.BadInput, match="overlap"):
        of.segment(volume, nets.plain(), overlap=2)
    with pytest.raises(of.BadInput, match="did you mean"):
        of.predict(volume, nets.plain(), overlp=0.5)


def test_a_failing_block_is_an_error_where_it_is_asked_for(volume):
    broken = volume.astype(np.float32)
    broken[0, 0, 0] = np.nan
    labels = of.segment(broken, nets.plain(), chunk=8, block=8, tile=8, orientations=("xy",))
    labels[8:].compute(scheduler="synchronous")
    with pytest.raises(of.BlockFailed, match="NaN"):
        labels[:2].compute(scheduler="synchronous")
