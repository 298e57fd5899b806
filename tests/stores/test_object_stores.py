"""What every store has to keep, asked of each: a disk, memory, moto, Ceph, rclone."""

from __future__ import annotations

import math
import threading
import uuid
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context

import numpy as np
import pytest
import zarr

from orthoflow.errors import BadInput, BlockImpossible, StoreRefused
from orthoflow.geometry.box import Box, split
from orthoflow.geometry.levels import pyramid_levels
from orthoflow.geometry.output import ArraySpec, OutputSpec
from orthoflow.stores.markers import (
    Marker,
    block_marker_name,
    create_marker,
    list_marker_names,
    read_markers,
)
from orthoflow.stores.objects import (
    create_object,
    delete_tree,
    enforces_create,
    list_names,
    list_objects,
    read_many,
    read_object,
    write_object,
)
from orthoflow.stores.ome import create_output, read_level, read_record, write_box, write_record
from orthoflow.stores.patience import patiently
from orthoflow.stores.sealed import digest_of
from orthoflow.stores.urls import exists, locate, probe_write
from orthoflow.stores.volumes import find_volume, read_box
from tests.proxy import Proxy
from tests.s3 import SECRET, Endpoint, new_bucket

SHAPE = (20, 50, 40)
CHUNK, SHARD = (8, 16, 16), (16, 32, 32)
FINGERPRINT = "0123456789abcdef" * 4
RECORD = {"fingerprint": FINGERPRINT, "plan": {"overlap": 0.25}}


@dataclass(frozen=True)
class Store:
    """A place to write, and what is known of the server behind it."""

    url: str
    endpoint: Endpoint | None = None


def s3(name):
    return pytest.param(name, marks=pytest.mark.s3)


STORES = ["disk", "memory", s3("moto"), s3("ceph"), s3("rclone")]


@pytest.fixture(scope="module", params=STORES)
def server(request):
    """Of the module, so that tests of one store follow each other and share its connections."""
    if request.param in {"disk", "memory"}:
        yield request.param
    else:
        with request.getfixturevalue(request.param).connected() as endpoint:
            yield endpoint


@pytest.fixture
def store(server, tmp_path):
    if server == "disk":
        return Store(str(tmp_path / "store"))
    if server == "memory":
        return Store(f"memory://{uuid.uuid4().hex}")
    return Store(new_bucket(), server)


def only(*names):
    return pytest.mark.parametrize("server", names, indirect=True)


watched = pytest.mark.parametrize("faulty", [s3("moto"), s3("ceph"), s3("rclone")], indirect=True)


def volume(dtype="uint8"):
    return np.random.default_rng(5).integers(0, 200, SHAPE).astype(dtype)


def make_spec():
    levels = pyramid_levels(SHAPE, None, CHUNK, SHARD, count=2)
    labels = ArraySpec("labels/cells", "labels", "uint32", 0, levels)
    image = ArraySpec("probabilities", "image", "uint8", 2, levels)
    return OutputSpec((labels, image), "0.5", None, None, (0.0, 0.0, 0.0), 1)


def voxels_of(array):
    lead = (array.classes,) if array.classes else ()
    return np.random.default_rng(9).integers(0, 200, (*lead, *SHAPE)).astype(array.dtype)


def boxes(array):
    return list(split(Box.whole(SHAPE), array.levels[0].shard))


def fill(url, spec, array):
    """Every box of an array; the stamps of what was stored."""
    stamps = []
    for box in boxes(array):
        data = voxels_of(array)[(..., *box.slices)]
        stamps += write_box(url, spec, array.path, 0, box, data).objects
    return stamps


def stored_below(url):
    """Every object below a URL, by its relative name."""
    fs, root = locate(url).filesystem()
    return {path.removeprefix(root).strip("/"): fs.cat_file(path) for path in fs.find(root)}


# -------------------------------------------------------------------------------------- objects


def test_objects_are_stored_listed_and_removed(store):
    place = locate(f"{store.url}/tree")
    assert read_object(place.child("a")) is None
    assert list_names(place) == []
    assert list(list_objects(place)) == []
    contents = {"a": b"1", "b/c.json": b"{}", "b/d/e-1": b"", "b/c": b"x" * 70_000}
    for name, content in contents.items():
        write_object(place.child(name), content)
        assert read_object(place.child(name)) == content
    write_object(place.child("a"), b"22")
    assert read_object(place.child("a")) == b"22"
    write_object(locate(f"{store.url}/tree2/keep"), b"another's")
    assert list_names(place) == ["a", "b"]
    assert list_names(place.child("b")) == ["c", "c.json", "d"]
    assert read_object(place.child("b")) is None
    sizes = {"a": 2, "b/c.json": 2, "b/d/e-1": 0, "b/c": 70_000}
    assert dict(list_objects(place)) == dict(list_objects(place, ("", "b"))) == sizes
    names = ["b/c.json", "nothing", "b/d/e-1", "a"]
    assert [content for _, content in read_many(place, names, 100)] == [b"{}", None, b"", b"22"]
    delete_tree(place)
    assert list_names(place) == []
    assert not exists(place.url)
    assert read_object(locate(f"{store.url}/tree2/keep")) == b"another's"


@only("disk", s3("ceph"))
@pytest.mark.parametrize("megabytes", [24, 60, 110])
def test_large_objects_come_back(store, megabytes):
    """S3 stores the last one in parts."""
    size = megabytes * 10**6
    content = np.random.default_rng(size).bytes(size)
    place = locate(f"{store.url}/large")
    write_object(place, content)
    assert read_object(place, limit=2**30) == content
    fs, path = place.filesystem()
    assert fs.cat_file(path, start=-1000) == content[-1000:]
    assert fs.cat_file(path, start=size // 2, end=size // 2 + 9) == content[size // 2 :][:9]


def test_what_is_created_is_not_replaced(store):
    once = store.endpoint is None or store.endpoint.creates_once
    place = locate(f"{store.url}/created")
    assert create_object(place, b"first") is True
    assert create_object(place, b"second") is not once
    assert read_object(place) == (b"first" if once else b"second")
    assert enforces_create(locate(f"{store.url}/probe")) is once
    assert list_names(locate(f"{store.url}/probe")) == []


@only("disk", "memory", s3("moto"), s3("ceph"))
def test_of_many_at_once_a_single_one_creates(store):
    place = locate(f"{store.url}/lock")
    start = threading.Barrier(8)

    def create(number):
        start.wait()
        return create_object(place, b"%d" % number)

    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(create, range(8)))
    assert created.count(True) == 1
    assert read_object(place) == b"%d" % created.index(True)


def test_markers_are_created_once_and_listed(store):
    once = store.endpoint is None or store.endpoint.creates_once
    for number in [(0, 0, 0), (0, 1, 2)]:
        marker = Marker(block_marker_name(number), FINGERPRINT, "0:1,0:1,0:1", (), {"voxels": 1})
        assert create_marker(store.url, marker)
        assert create_marker(store.url, marker) is not once
    names = {"blocks/0-0-0", "blocks/0-1-2"}
    assert list_marker_names(store.url, FINGERPRINT) == names
    found = dict(read_markers(store.url, FINGERPRINT))
    assert set(found) == names
    assert all(isinstance(one, Marker) for one in found.values())


# -------------------------------------------------------------------------------------- outputs


def test_an_output_has_the_bytes_that_a_disk_has(store, tmp_path):
    spec = make_spec()
    targets = [f"{store.url}/out.zarr", str(tmp_path / "reference.zarr")]
    for target in targets:
        probe_write(target)
        assert not exists(target)
        create_output(target, spec, RECORD)
        for array in spec.arrays:
            stamps = fill(target, spec, array)
            stored = stored_below(target)
            assert stamps
            for stamp in stamps:
                assert stamp.size == len(stored[stamp.key])
                assert stamp.digest == digest_of(stored[stamp.key])
        write_record(target, "notes/one", {"1": 1})
    box = Box((3, 4, 5), (17, 40, 21))
    for array in spec.arrays:
        np.testing.assert_array_equal(read_level(targets[0], array.path, 0), voxels_of(array))
        part = read_level(targets[0], array.path, 0, box, spec=spec)
        np.testing.assert_array_equal(part, voxels_of(array)[(..., *box.slices)])
    assert read_record(targets[0], "run") == RECORD
    found, reference = map(stored_below, targets)
    assert len(reference) > 20
    assert found == reference


def test_an_output_is_joined_and_replaced(store):
    spec, url = make_spec(), f"{store.url}/out.zarr"
    assert create_output(url, spec, RECORD) == RECORD
    fill(url, spec, spec.arrays[0])
    later = {**RECORD, "plan": {}}
    assert create_output(url, spec, later, join=True) == RECORD
    with pytest.raises(BadInput, match="exists already"):
        create_output(url, spec, later)
    write_object(locate(f"{store.url}/out.zarr2/keep"), b"another's")
    assert create_output(url, spec, later, overwrite=True) == later
    assert (read_level(url, spec.arrays[0].path, 0) == 0).all()
    assert read_object(locate(f"{store.url}/out.zarr2/keep")) == b"another's"


@only("disk", s3("moto"), s3("ceph"), s3("rclone"))
@pytest.mark.slow
def test_two_processes_write_one_output(store):
    spec, url = make_spec(), f"{store.url}/out.zarr"
    create_output(url, spec, RECORD)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        written = [
            pool.submit(write_box, url, spec, array.path, 0, box, data[(..., *box.slices)])
            for array, data in ((one, voxels_of(one)) for one in spec.arrays)
            for box in boxes(array)
        ]
        for one in written:
            one.result()
    for array in spec.arrays:
        np.testing.assert_array_equal(read_level(url, array.path, 0), voxels_of(array))


# --------------------------------------------------------------------------------------- inputs

LAYOUTS = pytest.mark.parametrize(
    ("zarr_format", "shards"), [(2, None), (3, None), (3, SHARD)], ids=["v2", "v3", "v3-shards"]
)


def make_input(url, zarr_format, shards):
    zarr.create_array(
        locate(url).zarr_store(read_only=False),
        data=volume("uint16") + 1,
        chunks=CHUNK,
        shards=shards,
        zarr_format=zarr_format,
    )
    return find_volume(url)


@LAYOUTS
def test_inputs_are_read(store, zarr_format, shards):
    ref = make_input(f"{store.url}/in.zarr", zarr_format, shards)
    for box in (Box((1, 3, 5), (19, 49, 21)), Box((8, 16, 16), (16, 32, 32)), Box.whole(SHAPE)):
        for one in (ref, replace(ref, document="")):
            expected = volume("uint16")[box.slices] + 1
            np.testing.assert_array_equal(read_box(one, box)[0], expected)


@LAYOUTS
def test_an_absent_chunk_is_told_from_a_store_that_does_not_give_it(store, zarr_format, shards):
    ref = make_input(f"{store.url}/in.zarr", zarr_format, shards)
    fs, root = ref.place.filesystem()
    key = {(2, None): "1.0.0", (3, None): "c/1/0/0", (3, SHARD): "c/1/0/0"}[zarr_format, shards]
    fs.rm_file(f"{root}/{ref.array}/{key}".replace("//", "/"))
    box = Box((16, 0, 0), (20, 9, 9)) if shards else Box((8, 0, 0), (12, 9, 9))
    with pytest.raises(BlockImpossible, match=key):
        read_box(ref, box)
    filled = []
    assert (read_box(replace(ref, missing="fill"), box, filled=filled) == 0).all()
    assert len(filled) == 1
    assert filled[0].endswith(key)


# -------------------------------------------------------------------------------------- refusals


@contextmanager
def mistyped(store, name):
    """The same store through a counting proxy, with one wrong credential."""
    with (
        Proxy(store.endpoint.url) as proxy,
        store.endpoint.at(proxy.url).connected(),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv(name, "mistyped")
        yield proxy


@only(s3("ceph"), s3("rclone"))
@pytest.mark.parametrize("wrong", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
@pytest.mark.slow
def test_wrong_credentials_are_refused_at_once(store, wrong):
    """At once: a few requests for a call, where a busy server would be asked again and again."""
    spec, url = make_spec(), f"{store.url}/out.zarr"
    create_output(url, spec, RECORD)
    ref = make_input(f"{store.url}/in.zarr", 3, None)
    array, place = spec.arrays[1], locate(url)
    box = boxes(array)[0]
    data = voxels_of(array)[(..., *box.slices)]
    calls = {
        "probe": lambda: probe_write(url),
        "find": lambda: find_volume(url),
        "exists": lambda: exists(url),
        "list": lambda: list_names(place),
        "read": lambda: read_object(place.child("zarr.json")),
        "write": lambda: write_object(place.child("x"), b"x"),
        "create": lambda: create_object(place.child("x"), b"x"),
        "remove": lambda: delete_tree(place),
        "markers": lambda: list_marker_names(url, FINGERPRINT),
        "new output": lambda: create_output(f"{store.url}/other.zarr", spec, RECORD),
        "read box": lambda: read_box(ref, Box((0, 0, 0), CHUNK)),
        "write box": lambda: write_box(url, spec, array.path, 0, box, data),
    }
    with mistyped(store, wrong) as proxy:
        for name, call in calls.items():
            proxy.forget()
            with pytest.raises(StoreRefused, match="credentials") as caught:
                patiently(call, seconds=3600, doing=name)
            assert "\n" not in str(caught.value), name
            assert SECRET not in str(caught.value), name
            # Of several at once the first that is refused ends the call.
            assert {one.status for one in proxy.seen()} <= {400, 403, None}, name
            assert 1 <= len(proxy.seen()) <= 3, name
    assert read_record(url, "run") == RECORD


@only(s3("moto"), s3("ceph"), s3("rclone"))
def test_a_missing_bucket_is_refused(store):
    place = locate(f"s3://{store.url[5:]}-none/out.zarr")
    for call in (
        lambda: probe_write(place.url),
        lambda: write_object(place.child("x"), b"x"),
        lambda: create_object(place.child("x"), b"x"),
        lambda: create_output(place.url, make_spec(), RECORD),
    ):
        with pytest.raises(StoreRefused, match="no such bucket"):
            call()


# -------------------------------------------------------------------------------------- requests


def chunks_touched(box, chunk):
    return math.prod(
        -(-stop // side) - start // side
        for start, stop, side in zip(box.start, box.stop, chunk, strict=True)
    )


@watched
@LAYOUTS
def test_a_box_costs_a_get_for_each_chunk_and_no_other_request(faulty, zarr_format, shards):
    bucket, proxy = faulty
    ref = make_input(f"{bucket}/in.zarr", zarr_format, shards)
    for box in (Box((1, 3, 5), (19, 49, 21)), Box((8, 16, 16), (16, 32, 32)), Box.whole(SHAPE)):
        proxy.forget()
        np.testing.assert_array_equal(read_box(ref, box)[0], volume("uint16")[box.slices] + 1)
        chunks = chunks_touched(box, CHUNK)
        # Of each shard its index is read first.
        indices = chunks_touched(box, shards) if shards else 0
        assert len(proxy.seen("GET")) <= 1.05 * chunks + indices
        assert len(proxy.seen("GET", suffix=True)) <= indices
        assert len(proxy.seen()) == len(proxy.seen("GET"))


@watched
def test_a_box_is_written_with_a_put_for_each_shard_and_one_for_its_marker(faulty):
    bucket, proxy = faulty
    spec, url = make_spec(), f"{bucket}/out.zarr"
    create_output(url, spec, RECORD)
    for array in spec.arrays:
        for box in (boxes(array)[0], Box.whole(SHAPE)):
            proxy.forget()
            data = voxels_of(array)[(..., *box.slices)]
            objects = write_box(url, spec, array.path, 0, box, data).objects
            shards = chunks_touched(box, SHARD) * (array.classes or 1)
            assert len(objects) == shards
            name = block_marker_name((box.shape[0], *box.start[1:]))
            create_marker(url, Marker(name, FINGERPRINT, str(box), objects, {}))
            # A store under load may drop a connection, and is asked again.
            assert len({one.path for one in proxy.seen("PUT")}) == shards + 1
            assert len(proxy.seen()) == len(proxy.seen("PUT")) <= shards + 2
            assert len({one.path for one in proxy.seen() if one.conditional}) == 1


@watched
def test_an_object_is_stored_with_one_request_up_to_100_megabytes(faulty):
    bucket, proxy = faulty
    content = bytes(60 * 10**6)
    write_object(locate(f"{bucket}/large"), content)
    assert [(one.method, one.size >= len(content)) for one in proxy.seen()] == [("PUT", True)]
