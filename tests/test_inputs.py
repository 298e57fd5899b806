"""Whatever a user hands over as a volume becomes facts and voxels (c, z, y, x)."""

from __future__ import annotations

import pickle

import dask.array as da
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr

import orthoflow as of
from orthoflow.geometry.box import Box
from orthoflow.inputs import find_source
from orthoflow.options import Options
from tests import nets

SHAPE = (5, 6, 7)
BOX = Box((1, 2, 3), (4, 6, 5))


def source_of(volume, **options):
    return find_source(volume, Options.from_mapping(options))


@pytest.fixture
def volume():
    return nets.blobs(SHAPE)


@pytest.fixture
def channels(tmp_path):
    """Two channels on disk."""
    path = tmp_path / "two.zarr"
    axes = ["c", "z", "y", "x"]
    array = zarr.create_array(
        path, shape=(2, *SHAPE), chunks=(1, 3, 3, 3), dtype="u2", dimension_names=axes
    )
    array[:] = nets.blobs((2, *SHAPE), dtype=np.uint16)
    return path


@pytest.mark.parametrize("make", [np.asarray, lambda v: da.from_array(v, chunks=3), xr.DataArray])
def test_arrays_in_memory(make, volume):
    given = make(volume)
    if isinstance(given, xr.DataArray):
        given = given.rename({"dim_0": "z", "dim_1": "y", "dim_2": "x"})
    source = source_of(given)
    assert (source.facts.shape, source.facts.channels) == (SHAPE, 1)
    assert (source.facts.dtype, source.facts.voxel_size) == ("uint8", None)
    assert source.ref is None
    np.testing.assert_array_equal(source.read(BOX), volume[None, 1:4, 2:6, 3:5])


def test_files_of_every_kind(volume, tmp_path):
    np.save(tmp_path / "v.npy", volume)
    tifffile.imwrite(tmp_path / "v.tif", volume)
    zarr.create_array(tmp_path / "v.zarr", shape=SHAPE, chunks=(2, 3, 4), dtype="u1")[:] = volume
    for name in ("v.npy", "v.tif", "v.zarr"):
        source = source_of(tmp_path / name)
        assert source.facts.shape == SHAPE
        assert source.array is None
        np.testing.assert_array_equal(source.read(BOX), volume[None, 1:4, 2:6, 3:5])
        np.testing.assert_array_equal(of.open_volume(tmp_path / name).values, volume)


def test_axes_in_any_order(volume):
    expected = volume[None, 1:4, 2:6, 3:5]
    turned = source_of(volume.transpose(2, 0, 1), axes="xzy")
    np.testing.assert_array_equal(turned.read(BOX), expected)
    last = np.stack([volume, 255 - volume], -1)
    both = source_of(last, axes="zyxc")
    assert (both.facts.channels, both.facts.shape) == (2, SHAPE)
    np.testing.assert_array_equal(both.read(BOX)[1:], 255 - expected)
    named = xr.DataArray(volume.transpose(1, 2, 0), dims=("y", "x", "z"))
    np.testing.assert_array_equal(source_of(named).read(BOX), expected)
    foreign = xr.DataArray(volume, dims=("plane", "row", "column"))
    np.testing.assert_array_equal(source_of(foreign).read(BOX), expected)
    for axes in ("zy", "zyxx", "tzyx", "zzz"):
        with pytest.raises(of.BadInput, match="axes"):
            source_of(volume, axes=axes)


def test_one_channel_of_several(channels):
    stored = zarr.open_array(channels)[:]
    opened = of.open_volume(channels)
    assert opened.dims == ("c", "z", "y", "x")
    for given in (channels, opened, opened * 1, stored, da.from_array(stored)):
        source = source_of(given, channel=1)
        assert source.facts.channels == 1
        np.testing.assert_array_equal(source.read(BOX), stored[1:, 1:4, 2:6, 3:5])
        with pytest.raises(of.BadInput, match="channel 2"):
            source_of(given, channel=2)
    alone = of.open_volume(channels, channel=0)
    assert alone.dims == ("z", "y", "x")
    np.testing.assert_array_equal(alone.values, stored[0])


def placed(volume, **coordinates):
    coords = {
        axis: (axis, np.asarray(places, float), {"units": unit} if unit else {})
        for axis, (places, unit) in coordinates.items()
    }
    return xr.DataArray(volume, dims=("z", "y", "x"), coords=coords)


def even(first, step, count):
    return first + step * np.arange(count)


def test_voxel_sizes_come_from_even_coordinates(volume):
    z, y, x = even(1, 2, 5), even(3, 0.5, 6), even(0, 0.25, 7)
    facts = source_of(placed(volume, z=(z, "um"), y=(y, "um"), x=(x, "um"))).facts
    assert facts.voxel_size == (2, 0.5, 0.25)
    assert facts.translation == (1, 3, 0)
    assert facts.unit == "micrometer"
    assert source_of(placed(volume, z=(z, None), y=(y, None), x=(x, None))).facts.unit is None
    given = placed(volume, z=(z, "um"), y=(y, "um"), x=(x, "um"))
    facts = source_of(given, voxel_size=(4, 1, 1)).facts
    assert (facts.voxel_size, facts.unit) == ((4, 1, 1), "micrometer")
    assert facts.translation == (2, 6, 0)  # the same voxels from the origin


@pytest.mark.parametrize(
    "other",
    [
        ([0, 1, 2, 4, 8], "um"),
        ([4, 3, 2, 1, 0], "um"),
        ([0, 0, 0, 0, 0], "um"),
        ([0, 1, 2, 3, 4], "nm"),
        ([0, 1, 2, 3, np.nan], "um"),
    ],
    ids=["uneven", "descending", "constant", "another unit", "a hole"],
)
def test_coordinates_that_state_no_voxel_size(other, volume):
    data = placed(volume, z=other, y=(even(0, 1, 6), "um"), x=(even(0, 1, 7), "um"))
    facts = source_of(data).facts
    assert (facts.voxel_size, facts.translation, facts.unit) == (None, (0, 0, 0), None)


def test_missing_or_single_coordinates_state_nothing(volume):
    some = placed(volume, y=(even(0, 1, 6), "um"))
    assert source_of(some).facts.voxel_size is None
    thin = placed(volume[:1], z=([3.0], "um"), y=(even(0, 1, 6), "um"), x=(even(0, 1, 7), "um"))
    assert source_of(thin).facts.voxel_size is None


def test_an_opened_volume_is_read_from_its_file(channels):
    opened = of.open_volume(channels)
    assert source_of(opened).ref is not None
    assert source_of(opened + 1).ref is None
    assert source_of(opened[:, 1:]).ref is None
    # What travels to workers is small and holds no voxels.
    assert len(pickle.dumps(source_of(opened).ref)) < 1000


def test_what_is_no_volume():
    for bad in (7, None, [[1, 2]], object()):
        with pytest.raises(of.BadInput, match="is no volume"):
            source_of(bad)
    with pytest.raises(of.BadInput, match="int64"):
        source_of(np.zeros((2, 2, 2), np.int64))


@pytest.mark.parametrize(("stated", "unit"), [("um", "micrometer"), (None, None)])
def test_units_of_coordinates_get_their_full_names(volume, stated, unit):
    attributes = {} if stated is None else {"units": stated}
    coords = {a: (a, np.arange(n) * 0.5, attributes) for a, n in zip("zyx", SHAPE, strict=True)}
    facts = source_of(xr.DataArray(volume, dims=tuple("zyx"), coords=coords)).facts
    assert (facts.voxel_size, facts.unit) == ((0.5, 0.5, 0.5), unit)


def test_a_unit_that_is_no_length_states_no_voxel_size(volume):
    coords = {
        a: (a, np.arange(n) * 2.0, {"units": "pixel"}) for a, n in zip("zyx", SHAPE, strict=True)
    }
    facts = source_of(xr.DataArray(volume, dims=tuple("zyx"), coords=coords)).facts
    assert (facts.voxel_size, facts.unit) == (None, None)


def test_chunks_that_are_not_stored(tmp_path):
    stored = zarr.create_array(tmp_path / "v.zarr", shape=SHAPE, chunks=(5, 6, 4), dtype="u1")
    stored[..., :4] = 1
    for given in (tmp_path / "v.zarr", of.open_volume(tmp_path / "v.zarr")):
        with pytest.raises(of.BlockFailed, match=r"chunk c/0/0/1 .* pass --missing-input fill"):
            source_of(given).read(BOX)
        filled = source_of(given, missing_input="fill")
        assert filled.ref.missing == "fill"
        np.testing.assert_array_equal(filled.read(BOX)[0], stored[1:4, 2:6, 3:5])
    opened = of.open_volume(tmp_path / "v.zarr", missing_input="fill")
    assert source_of(opened).ref.missing == "fill"
    np.testing.assert_array_equal(opened.values, stored[:])
