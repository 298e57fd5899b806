"""Outputs: valid OME-Zarr in both versions, whole shards only, never over something else."""

from __future__ import annotations

import hashlib
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import ome_zarr_models
import ome_zarr_models.v04
import ome_zarr_models.v05
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from orthoflow.errors import BadInput, BlockFailed, StoreRefused
from orthoflow.geometry.box import Box, split
from orthoflow.geometry.levels import pyramid_levels
from orthoflow.geometry.output import ArraySpec, OutputSpec
from orthoflow.stores import objects, ome
from orthoflow.stores.documents import documents
from orthoflow.stores.multiscales import image_metadata
from orthoflow.stores.objects import list_names, read_many, write_object
from orthoflow.stores.ome import (
    check_record,
    create_output,
    has_record,
    read_level,
    read_record,
    write_box,
    write_record,
)
from orthoflow.stores.urls import locate
from orthoflow.stores.volumes import describe, find_volume, read_box

SHAPE = (20, 50, 30)
VOXEL = (40.0, 8.0, 8.0)
RECORD = {"fingerprint": "ab" * 32, "plan": {"overlap": 0.25}}
OTHER = {"fingerprint": "cd" * 32}


def make_spec(version="0.5", *, voxel=VOXEL, unit="nanometer", paths=None, shard=32):
    shard = 16 if version == "0.4" else shard
    levels = pyramid_levels(SHAPE, voxel, (16, 16, 16), (shard,) * 3)
    arrays = {
        "labels/segmentation": ArraySpec("labels/segmentation", "labels", "uint32", 0, levels),
        "labels/classes": ArraySpec("labels/classes", "labels", "uint8", 0, levels),
        "probabilities": ArraySpec("probabilities", "image", "uint8", 3, levels),
        "disagreement": ArraySpec("disagreement", "image", "uint8", 0, levels),
        "stacks/xy": ArraySpec("stacks/xy", "labels", "uint32", 0, levels),
        "": ArraySpec("", "image", "uint16", 0, levels),
    }
    chosen = tuple(arrays[path] for path in paths or arrays if paths or path)
    return OutputSpec(chosen, version, voxel, unit, (100.0, 20.0, 30.0), 1)


def fill(url, spec, volume):
    """Write the first array of an output, shard by shard."""
    array, stamps = spec.arrays[0], []
    for box in split(Box.whole(SHAPE), array.levels[0].shard):
        stamps += write_box(url, spec, array.path, 0, box, volume[(..., *box.slices)]).objects
    return stamps


def group_at(url, path, version):
    return zarr.open_group(str(url), path=path, mode="r", zarr_format=3 if version == "0.5" else 2)


@pytest.fixture(params=["0.5", "0.4"])
def version(request):
    return request.param


@pytest.fixture
def url(tmp_path):
    return tmp_path / "out.zarr"


def test_a_published_validator_accepts_every_group(url, version):
    spec = make_spec(version)
    create_output(url, spec, RECORD)
    models = ome_zarr_models.v05 if version == "0.5" else ome_zarr_models.v04
    root = models.Image.from_zarr(group_at(url, "", version))
    assert len((root.ome_attributes if version == "0.5" else root.attributes).multiscales) == 1
    labels = models.Labels.from_zarr(group_at(url, "labels", version))
    listed = labels.ome_attributes if version == "0.5" else labels.attributes
    assert listed.labels == ["segmentation", "classes"]
    for array in spec.arrays:
        group = group_at(url, array.path, version)
        models.Image.from_zarr(group)
        if array.kind == "labels":
            image = models.ImageLabel.from_zarr(group)
            attributes = image.ome_attributes if version == "0.5" else image.attributes
            assert attributes.image_label is not None
    opened = ome_zarr_models.open_ome_zarr(group_at(url, "", version))
    assert isinstance(opened, models.Image)


def test_plain_zarr_reads_what_was_written(url, version):
    spec = make_spec(version)
    create_output(url, spec, RECORD)
    rng = np.random.default_rng(0)
    for array in spec.arrays:
        lead = (array.classes,) if array.classes else ()
        volume = rng.integers(0, 200, (*lead, *SHAPE)).astype(array.dtype)
        fill(url, replace(spec, arrays=(array,)), volume)
        stored = group_at(url, array.path, version)["0"]
        np.testing.assert_array_equal(stored[...], volume)
        np.testing.assert_array_equal(read_level(url, array.path, 0), volume)
        box = Box((3, 4, 5), (17, 40, 21))
        expected = volume[(..., *box.slices)]
        np.testing.assert_array_equal(read_level(url, array.path, 0, box), expected)
        assert stored.dtype == array.dtype
        assert stored.chunks[-3:] == (16, 16, 16)


def test_the_root_shows_the_first_image_and_else_the_labels(url, tmp_path, version):
    create_output(url, make_spec(version), RECORD)
    facts = describe(find_volume(url))
    assert find_volume(url).array == "probabilities/0"
    assert (facts.channels, facts.voxel_size, facts.unit) == (3, VOXEL, "nanometer")
    create_output(tmp_path / "l.zarr", make_spec(version, paths=["labels/segmentation"]), RECORD)
    assert find_volume(tmp_path / "l.zarr").array == "labels/segmentation/0"


def test_an_array_may_be_the_root_itself(url, version):
    spec = make_spec(version, paths=[""])
    create_output(url, spec, RECORD)
    volume = np.random.default_rng(0).integers(0, 2**16, SHAPE).astype("uint16")
    fill(url, spec, volume)
    ref = find_volume(url)
    assert ref.array == "0"
    np.testing.assert_array_equal(read_box(ref, Box.whole(SHAPE))[0], volume)
    models = ome_zarr_models.v05 if version == "0.5" else ome_zarr_models.v04
    models.Image.from_zarr(group_at(url, "", version))


def test_facts_of_every_level_come_back(url, version):
    spec = make_spec(version)
    create_output(url, spec, RECORD)
    for number, level in enumerate(spec.arrays[0].levels):
        facts = describe(find_volume(url, array="labels/segmentation", level=number))
        assert facts.shape == level.shape
        assert facts.voxel_size == tuple(v * f for v, f in zip(VOXEL, level.factors, strict=True))


@given(
    factor=st.tuples(*[st.sampled_from([1, 2, 4, 8])] * 3),
    voxel=st.tuples(*[st.sampled_from([0.5, 1.0, 40.0])] * 3),
    start=st.tuples(*[st.integers(-50, 50)] * 3),
)
def test_a_coarse_voxel_lies_over_the_voxels_it_covers(factor, voxel, start):
    """The centre of coarse voxel i is the mean centre of fine voxels i*f to (i+1)*f - 1."""
    levels = pyramid_levels(SHAPE, voxel, (8, 8, 8), (8, 8, 8), count=1)
    coarse = levels[0].__class__((1, 1, 1), factor, (1, 1, 1), (1, 1, 1))
    array = ArraySpec("a", "image", "uint8", 2, (levels[0], coarse))
    spec = OutputSpec((array,), "0.5", voxel, None, tuple(map(float, start)), 1)
    steps = image_metadata(spec, array)["datasets"][1]["coordinateTransformations"]
    scale, translation = steps[0]["scale"], steps[1]["translation"]
    assert (scale[0], translation[0]) == (1.0, 0.0)
    for axis in range(3):
        for i in (0, 3):
            fine = np.arange(i * factor[axis], (i + 1) * factor[axis])
            centre = (start[axis] + fine * voxel[axis]).mean()
            assert translation[1 + axis] + i * scale[1 + axis] == pytest.approx(centre)


def test_nothing_is_claimed_of_an_unknown_voxel_size(url, version):
    create_output(url, make_spec(version, voxel=None, unit=None), RECORD)
    text = "".join(
        path.read_text()
        for path in url.rglob("*")
        if path.suffix == ".json" or path.name == ".zattrs"
    )
    assert "unit" not in text
    assert "meter" not in text
    facts = describe(find_volume(url, level=1))
    assert (facts.voxel_size, facts.unit) == (None, None)


def test_codecs_check_every_byte(url, version):
    spec = make_spec(version, paths=["labels/classes"])
    create_output(url, spec, RECORD)
    fill(url, spec, np.random.default_rng(0).integers(0, 9, SHAPE).astype("uint8"))
    ref = find_volume(url)
    chunks = [
        path
        for path in url.rglob("labels/classes/0/**/*")
        if path.is_file() and path.name[0].isdigit()
    ]
    path = chunks[0]
    clean = path.read_bytes()
    rng = np.random.default_rng(1)
    for place in rng.integers(0, len(clean), 60):
        broken = bytearray(clean)
        broken[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(broken))
        with pytest.raises((BlockFailed, BadInput)):
            read_box(ref, Box.whole(SHAPE))
    path.write_bytes(clean)
    read_box(ref, Box.whole(SHAPE))


def test_sharded_arrays_use_one_object_a_shard(url):
    spec = make_spec(paths=["labels/classes"])
    create_output(url, spec, RECORD)
    fill(url, spec, np.ones(SHAPE, "uint8"))
    files = [path for path in (url / "labels/classes/0/c").rglob("*") if path.is_file()]
    assert len(files) == len(list(split(Box.whole(SHAPE), (32, 32, 32)))) == 2
    codecs = json.loads((url / "labels/classes/0/zarr.json").read_text())["codecs"]
    inner = [codec["name"] for codec in codecs[0]["configuration"]["codecs"]]
    assert (codecs[0]["name"], inner) == ("sharding_indexed", ["bytes", "zstd", "crc32c"])
    assert codecs[0]["configuration"]["index_codecs"][-1]["name"] == "crc32c"


@pytest.mark.parametrize("value", [0, 7])
def test_homogeneous_chunks_come_back(url, version, value):
    spec = make_spec(version, paths=["labels/segmentation"])
    create_output(url, spec, RECORD)
    volume = np.full(SHAPE, value, "uint32")
    fill(url, spec, volume)
    np.testing.assert_array_equal(read_level(url, "labels/segmentation", 0), volume)


def test_voxels_of_zero_replace_what_was_there(url, version):
    spec = make_spec(version, paths=["labels/classes"])
    create_output(url, spec, RECORD)
    for value in (5, 0):
        fill(url, spec, np.full(SHAPE, value, "uint8"))
        assert (read_level(url, "labels/classes", 0) == value).all()


def test_written_bytes_are_counted(url):
    spec = make_spec(paths=["probabilities"])
    create_output(url, spec, RECORD)
    box = Box((0, 32, 0), (20, 50, 30))
    written = write_box(url, spec, "probabilities", 0, box, np.ones((3, *box.shape), "uint8"))
    assert written.nbytes == 3 * box.voxels


def test_stamps_are_of_the_bytes_that_are_stored(url, version):
    spec = make_spec(version, paths=["probabilities"])
    create_output(url, spec, RECORD)
    volume = np.random.default_rng(0).integers(1, 9, (3, *SHAPE)).astype("uint8")
    stamps = fill(url, spec, volume)
    chunks = [path for path in (url / "probabilities/0").rglob("*") if path.name.isdigit()]
    files = {str(path.relative_to(url)): path.read_bytes() for path in chunks if path.is_file()}
    assert len(stamps) == len(files) == 3 * len(list(split(Box.whole(SHAPE), level_shard(spec))))
    for stamp in stamps:
        assert stamp.size == len(files[stamp.key])
        assert stamp.digest == hashlib.blake2b(files[stamp.key], digest_size=16).hexdigest()


def level_shard(spec):
    return spec.arrays[0].levels[0].shard


def test_background_is_not_stored_and_what_was_there_goes(url, version):
    spec = make_spec(version, paths=["labels/classes"])
    create_output(url, spec, RECORD)
    volume = np.ones(SHAPE, "uint8")
    everywhere = fill(url, spec, volume)
    volume[:, 32:] = 0
    stamps = fill(url, spec, volume)
    gone = {one.key for one in everywhere} - {one.key for one in stamps}
    assert gone
    assert not any((url / key).exists() for key in gone)
    assert all((url / one.key).exists() for one in stamps)
    assert fill(url, spec, np.zeros(SHAPE, "uint8")) == []
    assert not any((url / one.key).exists() for one in everywhere)


@pytest.mark.s3
def test_a_shard_is_one_put_and_nothing_else_is_asked(faulty, version):
    bucket, proxy = faulty
    url, spec = f"{bucket}/out.zarr", make_spec(version, paths=["probabilities"])
    create_output(url, spec, RECORD)
    proxy.forget()
    volume = np.ones((3, *SHAPE), "uint8")
    volume[2] = 0
    box = Box((0, 32, 0), (20, 50, 30))
    written = write_box(url, spec, "probabilities", 0, box, volume[(..., *box.slices)])
    shards = len(list(split(box, level_shard(spec))))
    asked = [(one.method, one.key.removeprefix("out.zarr/")) for one in proxy.seen()]
    assert sorted(key for method, key in asked if method == "PUT") == [
        one.key for one in written.objects
    ]
    assert len(written.objects) == 2 * shards
    # Where there is nothing but background: one request, that tells if anything was there.
    assert sum(method == "DELETE" for method, _ in asked) == shards
    assert len(asked) == 3 * shards


@pytest.mark.s3
def test_levels_are_read_without_asking_for_metadata(faulty, version):
    bucket, proxy = faulty
    url, spec = f"{bucket}/out.zarr", make_spec(version, paths=["labels/classes"])
    create_output(url, spec, RECORD)
    volume = np.random.default_rng(0).integers(1, 9, SHAPE).astype("uint8")
    stamps = fill(url, spec, volume)
    proxy.forget()
    got = read_level(url, "labels/classes", 0, spec=spec)
    np.testing.assert_array_equal(got, volume)
    asked = sorted((one.method, one.key) for one in proxy.seen())
    assert asked == sorted(("GET", f"out.zarr/{one.key}") for one in stamps)


@pytest.mark.s3
def test_a_bucket_that_is_gone_is_no_background(bucket):
    spec = make_spec(paths=["labels/classes"])
    with pytest.raises(StoreRefused, match="no such bucket"):
        read_level(f"{bucket}-gone/out.zarr", "labels/classes", 0, spec=spec)


def test_a_damaged_shard_is_never_voxels(url):
    spec = make_spec(paths=["labels/classes"])
    create_output(url, spec, RECORD)
    (stamp, *_) = fill(url, spec, np.ones(SHAPE, "uint8"))
    for content in (b"", b"torn", (url / stamp.key).read_bytes()[:-1]):
        (url / stamp.key).write_bytes(content)
        with pytest.raises(BlockFailed, match="labels/classes/0"):
            read_level(url, "labels/classes", 0, spec=spec)


def test_a_write_reads_no_voxels_and_ignores_torn_shards(url, version, monkeypatch):
    spec = make_spec(version, paths=["labels/classes"])
    create_output(url, spec, RECORD)
    volume = np.random.default_rng(0).integers(1, 9, SHAPE).astype("uint8")
    fill(url, spec, volume)
    chunks = [
        path
        for path in url.rglob("labels/classes/0/**/*")
        if path.is_file() and path.name[0].isdigit()
    ]
    for path in chunks:
        path.write_bytes(b"torn")
    read = []
    real = zarr.storage.LocalStore.get

    async def counting(self, key, prototype=None, byte_range=None):
        read.append(key)
        return await real(self, key, prototype, byte_range)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", counting)
    fill(url, spec, volume)
    assert read == []
    monkeypatch.undo()
    np.testing.assert_array_equal(read_level(url, "labels/classes", 0), volume)
    assert list(url.rglob("*.partial")) == []


@pytest.mark.parametrize(
    ("box", "said"),
    [
        (Box((0, 0, 0), (20, 16, 30)), r"0:16 on axis y .* multiple of 32"),
        (Box((0, 16, 0), (20, 50, 30)), r"16:50 on axis y"),
        (Box((0, 32, 0), (20, 64, 30)), r"32:64 on axis y .* within 50"),
        (Box((0, 0, 0), (16, 32, 30)), r"0:16 on axis z"),
    ],
)
def test_boxes_that_cut_a_shard_are_refused(url, box, said):
    spec = make_spec(paths=["labels/classes"])
    create_output(url, spec, RECORD)
    with pytest.raises(BadInput, match=said):
        write_box(url, spec, "labels/classes", 0, box, np.ones(box.shape, "uint8"))
    assert not (url / "labels/classes/0/c").exists()


def test_data_that_does_not_fit_is_refused(url):
    spec = make_spec(paths=["labels/classes"])
    create_output(url, spec, RECORD)
    whole = Box.whole(SHAPE)
    for data in (np.ones(SHAPE, "uint16"), np.ones((1, *SHAPE), "uint8"), np.ones((1, 1, 1))):
        with pytest.raises(BadInput, match="does not fit"):
            write_box(url, spec, "labels/classes", 0, whole, data)
    with pytest.raises(BadInput, match="no level 9"):
        write_box(url, spec, "labels/classes", 9, whole, np.ones(SHAPE, "uint8"))
    with pytest.raises(BadInput, match="beyond"):
        read_level(url, "labels/classes", 0, Box((0, 0, 0), (20, 50, 31)))


def test_specs_that_cannot_be_stored_create_nothing(url):
    levels = pyramid_levels(SHAPE, None, (16,) * 3, (32,) * 3)
    for arrays, version, said in (
        ((), "0.5", "no arrays"),
        ((ArraySpec("a", "image", "uint8", 0, levels),), "0.4", "has no shards"),
        ((ArraySpec("a", "labels", "float32", 0, levels),), "0.5", "whole numbers"),
    ):
        with pytest.raises(BadInput, match=said):
            create_output(url, OutputSpec(arrays, version, None, None, (0.0,) * 3, 1), RECORD)
    with pytest.raises((ValueError, TypeError)):
        create_output(url, make_spec(), {**RECORD, "unstorable": object()})
    for record in ({}, {"fingerprint": None}, {"fingerprint": ""}):
        with pytest.raises(BadInput, match="has no fingerprint"):
            create_output(url, make_spec(), record)
    assert not url.exists()


def test_an_existing_output_stays_unless_asked(url, version):
    spec = make_spec(version, paths=["labels/classes"])
    create_output(url, spec, RECORD)
    fill(url, spec, np.ones(SHAPE, "uint8"))
    with pytest.raises(BadInput, match=r"exists already \(the output of a run\); pass --overwrite"):
        create_output(url, spec, RECORD)
    assert (read_level(url, "labels/classes", 0) == 1).all()
    create_output(url, spec, OTHER, overwrite=True)
    assert (read_level(url, "labels/classes", 0) == 0).all()
    assert read_record(url, "run") == OTHER


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_no_run_made_is_never_removed(url, overwrite):
    url.mkdir()
    (url / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match=r"thesis\.txt|by hand"):
        create_output(url, make_spec(), RECORD, overwrite=overwrite)
    assert (url / "thesis.txt").read_text() == "years of work"


def test_a_file_or_a_link_in_the_way_is_refused(url, tmp_path):
    url.write_text("a file")
    for overwrite in (False, True):
        with pytest.raises(BadInput, match=r"exists already|by hand"):
            create_output(url, make_spec(), RECORD, overwrite=overwrite)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(BadInput, match="symbolic link"):
        create_output(tmp_path / "link", make_spec(), RECORD)


def test_an_empty_folder_is_used(url):
    url.mkdir()
    create_output(url, make_spec(), RECORD)
    assert has_record(url, "run")


def dying_after(monkeypatch, calls):
    """Let `stores.ome` write as many objects, then stop it."""
    left = iter(range(calls))

    def until(real):
        def call(*given):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real(*given)

        return call

    for name in ("write_object", "create_object", "delete_object", "delete_tree"):
        monkeypatch.setattr(ome, name, until(getattr(objects, name)))


def files_of(url):
    return {str(path.relative_to(url)): path.read_bytes() for path in url.rglob("*.*")}


def test_a_creation_that_was_killed_anywhere_is_completed_or_replaced(tmp_path, monkeypatch):
    spec = make_spec(paths=["labels/classes"])
    create_output(tmp_path / "clean", spec, RECORD)
    clean = files_of(tmp_path / "clean")
    calls = len(documents(spec)) + 3
    for stopped in range(1, calls):
        for again in ({"join": True}, {"overwrite": True}):
            url = tmp_path / f"{stopped}{next(iter(again))}"
            with monkeypatch.context() as patch:
                dying_after(patch, stopped)
                with pytest.raises(KeyboardInterrupt):
                    create_output(url, spec, RECORD)
            if not has_record(url, "run"):
                with pytest.raises(BadInput, match=r"exists already .*--overwrite or --resume"):
                    create_output(url, spec, RECORD)
            assert create_output(url, spec, RECORD, **again) == RECORD
            left = (
                {"orthoflow/creating.json"} if stopped == calls - 1 and "join" in again else set()
            )
            assert set(files_of(url)) - left == set(clean)
            assert {name: files_of(url)[name] for name in clean} == clean


def test_a_replacement_that_was_killed_anywhere_is_joined_by_nobody(tmp_path, monkeypatch):
    spec, array = make_spec(paths=["labels/classes"]), "labels/classes"
    stopped, ended = 0, False
    while not ended:
        url = tmp_path / str(stopped)
        create_output(url, spec, RECORD)
        write_record(url, "markers/one", {"of": "the first"})
        fill(url, spec, np.ones(SHAPE, "uint8"))
        with monkeypatch.context() as patch:
            dying_after(patch, stopped)
            try:
                create_output(url, spec, OTHER, overwrite=True)
                ended = True
            except KeyboardInterrupt:
                stopped += 1
        refused = ""
        try:
            record = create_output(url, spec, OTHER, join=True)
        except BadInput as error:
            refused = str(error)
            record = create_output(url, spec, OTHER, overwrite=True)
        assert not refused or "pass --overwrite" in refused
        if record == OTHER:
            assert not has_record(url, "markers/one")
            assert (read_level(url, array, 0) == 0).all()
        else:
            assert record == RECORD
            assert (read_level(url, array, 0) == 1).all()
    assert stopped > 5


def test_locks_are_held_before_and_while_an_output_is_replaced(url):
    spec = make_spec(paths=["labels/classes"])
    for again in ({}, {"overwrite": True}, {"join": True}):
        write_object(locate(url).child("orthoflow/locks/run.json"), b"held")
        create_output(url, spec, RECORD, **again)
        assert (url / "orthoflow/locks/run.json").read_bytes() == b"held"


@pytest.mark.parametrize("base", ["disk", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def test_any_number_joins_at_once_and_one_record_stands(request, tmp_path, base):
    roots = {"disk": str(tmp_path), "memory": f"memory://{uuid.uuid4().hex}"}
    url = f"{roots.get(base) or request.getfixturevalue('bucket')}/out.zarr"
    spec = make_spec()
    with ThreadPoolExecutor(6) as pool:
        made = [
            pool.submit(create_output, url, spec, {**RECORD, "by": n}, join=True) for n in range(6)
        ]
        records = [one.result() for one in made]
    assert all(record == read_record(url, "run") for record in records)
    stored = dict(read_many(locate(url), documents(spec), 10**6))
    assert stored == documents(spec)
    assert list_names(locate(url).child("orthoflow")) == ["run.json"]


def test_who_joins_with_other_settings_changes_nothing(url):
    spec, other = make_spec(paths=["labels/classes"]), make_spec(paths=["stacks/xy"])
    create_output(url, spec, RECORD)
    before = files_of(url)
    assert create_output(url, other, OTHER, join=True) == RECORD
    assert files_of(url) == before


def test_an_output_that_is_being_made_is_joined_with_its_own_settings_only(url, monkeypatch):
    spec, other = make_spec(paths=["labels/classes"]), make_spec(paths=["stacks/xy"])
    with monkeypatch.context() as patch:
        dying_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            create_output(url, spec, RECORD)
    before = files_of(url)
    with pytest.raises(BadInput, match="begun with other settings"):
        create_output(url, other, OTHER, join=True)
    assert files_of(url) == before


def test_who_comes_between_the_record_and_the_end_finds_the_record(url, monkeypatch):
    """It has just looked and seen nothing; the other has finished meanwhile."""
    spec, other = make_spec(paths=["labels/classes"]), make_spec(paths=["stacks/xy"])
    real = ome.create_object

    def late(place, content):
        monkeypatch.setattr(ome, "create_object", real)
        create_output(url, spec, RECORD)
        return real(place, content)

    monkeypatch.setattr(ome, "create_object", late)
    assert create_output(url, other, OTHER, join=True) == RECORD
    assert not (url / "stacks").exists()
    assert [path.name for path in (url / "orthoflow").iterdir()] == ["run.json"]


def test_what_others_write_just_now_is_in_nobodys_way(url):
    spec = make_spec(paths=["labels/classes"])
    partial = f"orthoflow/creating.json.{uuid.uuid4().hex}.partial"
    write_object(locate(url).child(partial), b"half")
    assert create_output(url, spec, RECORD, join=True) == RECORD


def test_a_listing_that_missed_the_record_is_not_believed(url, monkeypatch):
    spec = make_spec(paths=["labels/classes"])
    create_output(url, spec, RECORD)
    real = ome.list_names
    monkeypatch.setattr(
        ome, "list_names", lambda place: real(place) if place.url == str(url) else []
    )
    assert create_output(url, spec, OTHER, join=True) == RECORD


def test_two_that_do_not_join_make_one_output(url, monkeypatch):
    spec = make_spec(paths=["labels/classes"])
    real = ome.create_object

    def late(place, content):
        monkeypatch.setattr(ome, "create_object", real)
        create_output(url, spec, RECORD)
        return real(place, content)

    monkeypatch.setattr(ome, "create_object", late)
    with pytest.raises(BadInput, match="by another run"):
        create_output(url, spec, OTHER)
    assert read_record(url, "run") == RECORD


def test_foreign_folders_are_not_joined(url):
    url.mkdir()
    (url / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match=r"holding thesis\.txt"):
        create_output(url, make_spec(), RECORD, join=True)
    assert [path.name for path in url.iterdir()] == ["thesis.txt"]


def test_records_are_json_objects_of_bounded_size(url, monkeypatch):
    write_record(url, "notes/b0", {"size": "ab"})
    assert read_record(url, "notes/b0") == {"size": "ab"}
    with pytest.raises(BadInput, match=r"no record at .*orthoflow/run\.json"):
        read_record(url, "run")
    for content, said in ((b"[1]", "a JSON list"), (b"{", "not valid JSON")):
        (url / "orthoflow" / "run.json").write_bytes(content)
        with pytest.raises(BadInput, match=said):
            read_record(url, "run")
    (url / "orthoflow" / "run.json").write_bytes(b"[" * 100_000)
    with pytest.raises(BadInput, match="not valid JSON"):
        read_record(url, "run")
    with pytest.raises(ValueError, match="JSON"):
        write_record(url, "run", {"loss": float("nan")})
    with pytest.raises(BadInput, match="none called 'digest'"):
        write_record(url, "run", {"digest": "ab"})
    monkeypatch.setattr("orthoflow.stores.ome.RECORD_LIMIT", 10)
    with pytest.raises(BadInput, match="at most 10"):
        write_record(url, "big", {"x": "y" * 20})
    with pytest.raises(BadInput, match="at most 10"):
        read_record(url, "notes/b0")


def test_a_record_that_was_changed_is_refused_by_name(url):
    write_record(url, "run", {"overlap": 0.25, "deep": {"threshold": 0.5}})
    path = url / "orthoflow" / "run.json"
    stored = path.read_bytes()
    path.write_bytes(stored.replace(b"0.25", b"0.75"))
    with pytest.raises(BadInput, match=r"run\.json was changed since it was written"):
        read_record(url, "run")
    laid_out = json.dumps(json.loads(stored), indent=4).encode()
    for same in (stored, laid_out, b'{"made": "before records had digests"}'):
        path.write_bytes(same)
        read_record(url, "run")
    check_record(stored, "run.json")
    for other in (laid_out, b'{"made": "before"}'):
        with pytest.raises(BadInput, match=r"run\.json was changed"):
            check_record(other, "run.json")


@pytest.mark.parametrize("name", ["", "../run", "a/../b", "/etc/x", "a//b", "a b", ".hidden"])
def test_record_names_stay_inside(url, name):
    with pytest.raises(BadInput, match="record name"):
        write_record(url, name, {})
    assert not url.exists()


def test_a_record_is_seen_whole_or_not_at_all(url, monkeypatch):
    write_record(url, "run", {"first": 1})

    def dying(*_):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(objects.os, "replace", dying)
    with pytest.raises(StoreRefused, match="no space left"):
        write_record(url, "run", {"second": 2})
    assert read_record(url, "run") == {"first": 1}


def test_a_full_or_forbidden_disk_is_one_error(url, monkeypatch):
    spec = make_spec(paths=["labels/classes"])
    create_output(url, spec, RECORD)

    async def refuse(*_, **__):
        raise PermissionError(13, "permission denied")

    monkeypatch.setattr(zarr.storage.LocalStore, "set", refuse)
    with pytest.raises(StoreRefused, match="permission denied"):
        write_box(url, spec, "labels/classes", 0, Box.whole(SHAPE), np.ones(SHAPE, "uint8"))


def test_outputs_live_in_any_store(tmp_path):
    url = f"memory://{tmp_path.as_posix().strip('/')}/out.zarr"
    spec = make_spec()
    create_output(url, spec, RECORD)
    volume = np.random.default_rng(0).integers(0, 9, SHAPE).astype("uint32")
    fill(url, spec, volume)
    np.testing.assert_array_equal(read_level(url, "labels/segmentation", 0), volume)
    with pytest.raises(BadInput, match="exists already"):
        create_output(url, spec, RECORD)
    create_output(url, spec, RECORD, overwrite=True)
    assert (read_level(url, "labels/segmentation", 0) == 0).all()
    assert read_record(url, "run") == RECORD
    assert Path(url.removeprefix("memory:/")).exists() is False


def test_web_servers_are_read_only():
    with pytest.raises(BadInput, match="read only"):
        create_output("https://example.org/out.zarr", make_spec(), RECORD)
