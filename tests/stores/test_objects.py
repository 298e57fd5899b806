"""Small objects: whole or not at all, created once, listed and read many at a time."""

from __future__ import annotations

import errno
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError

from orthoflow.errors import BadInput, StoreRefused
from orthoflow.stores import objects
from orthoflow.stores.objects import (
    create_object,
    delete_object,
    delete_tree,
    enforces_create,
    list_names,
    list_objects,
    read_json,
    read_many,
    read_object,
    write_object,
)
from orthoflow.stores.urls import locate


def s3(name):
    return pytest.param(name, marks=pytest.mark.s3)


@pytest.fixture(params=["disk", "memory", s3("moto"), s3("ceph")])
def place(request, tmp_path):
    """A folder that is not there yet."""
    if request.param == "disk":
        yield locate(tmp_path / "deep" / "folder")
    elif request.param == "memory":
        yield locate(f"memory://{uuid.uuid4().hex}/folder")
    else:
        name = "bucket" if request.param == "moto" else "ceph_bucket"
        yield locate(f"{request.getfixturevalue(name)}/folder")


def test_what_is_created_stays(place):
    one = place.child("a/b.json")
    assert create_object(one, b"first") is True
    assert create_object(one, b"second") is False
    assert read_object(one) == b"first"
    write_object(one, b"third")
    assert create_object(one, b"fourth") is False
    delete_object(one)
    assert create_object(one, b"") is True
    assert create_object(one, b"fifth") is False
    assert read_object(one) == b""
    assert [name for name, _ in list_objects(place)] == ["a/b.json"]


def test_of_many_that_create_at_once_one_does(place):
    one = place.child("x")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: create_object(one, b"%d" % n), range(8)))
    assert sum(made) == 1
    assert read_object(one) == b"%d" % made.index(True)
    assert list_names(place) == ["x"]


def test_memory_creates_once_though_it_looks_first_and_writes_then(monkeypatch):
    one = locate(f"memory://{uuid.uuid4().hex}/x")
    fs, _ = one.filesystem()
    real = type(fs).exists

    def slow(self, path, **how):
        there = real(self, path, **how)
        time.sleep(0.01)
        return there

    monkeypatch.setattr(type(fs), "exists", slow)
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: create_object(one, b"x"), range(4))) == 1


def test_every_store_here_enforces_it_and_the_probe_leaves_nothing(place):
    assert enforces_create(place)
    assert list_names(place) == []


def test_a_store_that_creates_twice_is_found_out(monkeypatch):
    place = locate(f"memory://{uuid.uuid4().hex}")
    fs, _ = place.filesystem()
    real = type(fs).pipe_file
    monkeypatch.setattr(
        type(fs), "pipe_file", lambda self, path, value, **_: real(self, path, value)
    )
    assert not enforces_create(place)
    assert list_names(place) == []


def refusal(code):
    response = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {}}
    error = OSError(errno.EINVAL, "no")
    error.__cause__ = ClientError(response, "PutObject")
    return error


def answering(monkeypatch, *answers):
    """Let the memory store answer so to creations, in turn; None is what it really does."""
    place = locate(f"memory://{uuid.uuid4().hex}").child("x")
    fs, _ = place.filesystem()
    real, left, asked = type(fs).pipe_file, list(answers), []

    def pipe_file(self, path, value, mode):
        asked.append(mode)
        answer = left.pop(0)
        if answer is not None:
            raise answer
        real(self, path, value, mode=mode)

    monkeypatch.setattr(type(fs), "pipe_file", pipe_file)
    monkeypatch.setattr(objects, "_CREATE_WAIT", 0)
    return place, asked


@pytest.mark.parametrize(
    "error", [FileExistsError(), refusal("PreconditionFailed"), refusal("412")]
)
def test_every_way_of_saying_that_it_is_there_is_understood(monkeypatch, error):
    place, asked = answering(monkeypatch, error)
    assert create_object(place, b"x") is False
    assert asked == ["create"]


def test_two_at_once_try_again(monkeypatch):
    conflict = refusal("ConditionalRequestConflict")
    place, asked = answering(monkeypatch, conflict, conflict, None)
    assert create_object(place, b"x") is True
    assert len(asked) == 3
    place, asked = answering(monkeypatch, conflict, FileExistsError())
    assert create_object(place, b"x") is False
    place, asked = answering(monkeypatch, *[conflict] * 9)
    with pytest.raises(OSError, match="no"):
        create_object(place, b"x")
    assert len(asked) == 5


def test_other_refusals_are_no_conflict(monkeypatch):
    place, _ = answering(monkeypatch, refusal("InvalidRequest"))
    with pytest.raises(OSError, match="no"):
        create_object(place, b"x")
    place, _ = answering(monkeypatch, PermissionError(13, "forbidden"))
    with pytest.raises(StoreRefused, match="forbidden"):
        create_object(place, b"x")


def no_links(number):
    def link(*_):
        raise OSError(number, os.strerror(number))

    return link


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_file_systems_without_hard_links_create_once_too(tmp_path, monkeypatch, number):
    monkeypatch.setattr(objects.os, "link", no_links(number))
    one = locate(tmp_path / "x")
    assert create_object(one, b"first") is True
    assert create_object(one, b"second") is False
    assert (tmp_path / "x").read_bytes() == b"first"
    assert enforces_create(locate(tmp_path))
    assert os.listdir(tmp_path) == ["x"]


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(objects.os, "link", no_links(errno.ENOSPC))
    for call in (create_object, write_object):
        monkeypatch.setattr(objects.os, "replace", no_links(errno.ENOSPC))
        with pytest.raises(StoreRefused, match="No space left"):
            call(locate(tmp_path / "x"), b"x")
    assert os.listdir(tmp_path) == []


def test_an_answer_that_was_lost_on_the_way_counts(tmp_path, monkeypatch):
    """Over NFS: the link was made, the answer got lost, and the second request finds it there."""
    real = os.link

    def twice(source, target):
        real(source, target)
        real(source, target)

    monkeypatch.setattr(objects.os, "link", twice)
    assert create_object(locate(tmp_path / "x"), b"x") is True
    monkeypatch.setattr(objects.os, "link", real)
    assert create_object(locate(tmp_path / "x"), b"y") is False


def test_many_objects_are_read_in_order_and_in_batches(place, monkeypatch):
    monkeypatch.setattr(objects, "BATCH", 7)
    contents = {f"n/{number}.json": b"%d" % number * (number % 5) for number in range(30)}
    for name, content in contents.items():
        write_object(place.child(name), content)
    names = [*contents, "n/none.json", "none/x"]
    expected = [*contents.items(), ("n/none.json", None), ("none/x", None)]
    assert list(read_many(place, iter(names), 100)) == expected
    assert list(read_many(place, [], 100)) == []


def test_no_more_is_read_than_was_allowed(place):
    write_object(place.child("x"), b"x" * 1000)
    for limit, found in ((10, 11), (999, 1000), (1000, 1000)):
        ((_, content),) = read_many(place, ["x"], limit)
        assert len(content) == found


def test_names_that_lead_elsewhere_are_refused(place):
    for name in ("../x", "/etc/passwd", "a/../../x", ""):
        if name:
            with pytest.raises(BadInput, match=r"empty or '\.\.' parts"):
                list(read_many(place, ["fine", name], 10))


def test_links_and_pipes_are_not_followed(tmp_path):
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "out"
    (folder / "inner").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "there").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    place = locate(folder)
    assert dict(read_many(place, ["link", "pipe", "inner"], 10)) == {
        "link": b"",
        "pipe": b"",
        "inner": None,
    }
    assert dict(list_objects(place)) == {"link": -1, "there": -1, "pipe": -1}


@pytest.mark.s3
def test_a_batch_is_read_with_one_request_each(faulty):
    url, proxy = faulty
    place = locate(f"{url}/folder")
    names = [f"{number}.json" for number in range(20)]
    for name in names:
        write_object(place.child(name), name.encode())
    proxy.forget()
    assert dict(read_many(place, names, 100)) == {name: name.encode() for name in names}
    asked = [(one.method, one.range) for one in proxy.seen()]
    assert asked == [("GET", "bytes=0-100")] * 20


@pytest.mark.s3
def test_writing_creating_and_removing_are_one_request_each(faulty):
    url, proxy = faulty
    one = locate(f"{url}/folder/x")
    calls = {
        ("PUT", False): lambda: write_object(one, b"x" * 10**6),
        ("PUT", True): lambda: create_object(one, b"x"),
        ("DELETE", False): lambda: delete_object(one),
    }
    for expected, call in calls.items():
        proxy.forget()
        call()
        assert [(seen.method, seen.conditional) for seen in proxy.seen()] == [expected]


@pytest.mark.s3
def test_a_store_that_is_busy_for_a_while_is_read_and_listed_all_the_same(faulty, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    url, proxy = faulty
    place = locate(f"{url}/folder")
    for number in range(5):
        write_object(place.child(f"{number}"), b"x")
    fault = proxy.inject("status", status=503, methods={"GET"}, count=3)
    assert len(list(list_objects(place))) == 5
    assert fault.hits == 3
    fault = proxy.inject("status", status=503, keys="*/folder/3", count=3)
    assert dict(read_many(place, "01234", 9)) == dict.fromkeys("01234", b"x")
    assert fault.hits == 3


@pytest.mark.s3
def test_a_bucket_that_is_gone_is_not_empty(bucket):
    place = locate(f"{bucket}-gone/folder")
    with pytest.raises(StoreRefused, match="no such bucket"):
        list(list_objects(place))
    with pytest.raises(StoreRefused, match="no such bucket"):
        list(read_many(place, ["x"], 9))
    with pytest.raises(StoreRefused, match="no such bucket"):
        delete_object(place.child("x"))


TREE = {"a": 1, "b/c": 2, "b/d/e": 3, "b/d/f/g": 4, "h/i/j": 5, "h2/k": 6}


@pytest.mark.parametrize("opened", [(), ("",), ("", "b"), ("", "b", "b/d", "b/d/f", "h", "h/i")])
def test_listings_have_every_object_and_its_size(place, opened):
    assert list(list_objects(place, opened)) == []
    for name, size in TREE.items():
        write_object(place.child(name), b"x" * size)
    write_object(place.parent.child("folder2/x"), b"another's")
    assert sorted(list_objects(place, opened)) == sorted(TREE.items())
    if "" in opened:
        left = {name: size for name, size in TREE.items() if not name.startswith("h/")}
        assert dict(list_objects(place, opened, {"h"})) == left
    if "b" in opened:
        left = {name: size for name, size in TREE.items() if not name.startswith("b/d/")}
        assert dict(list_objects(place, opened, {"b/d"})) == left


@pytest.mark.s3
def test_folders_that_are_opened_are_listed_by_themselves(faulty):
    url, proxy = faulty
    place = locate(f"{url}/folder")
    for name in TREE:
        write_object(place.child(name), b"x")
    for opened, requests in (((), 1), (("",), 1 + 3), (("", "b"), 1 + 3 + 1)):
        proxy.forget()
        list(list_objects(place, opened))
        assert [one.method for one in proxy.seen()] == ["GET"] * requests


def test_a_file_that_vanishes_while_it_is_listed_is_left_out(tmp_path, monkeypatch):
    (tmp_path / "stays").write_bytes(b"x")
    (tmp_path / "goes.partial").write_bytes(b"x")
    real = os.scandir

    def scandir(path):
        entries = real(path)
        listed = list(entries)
        (tmp_path / "goes.partial").unlink(missing_ok=True)
        entries.close()
        return _Entries(listed)

    monkeypatch.setattr(objects.os, "scandir", scandir)
    assert list(list_objects(locate(tmp_path))) == [("stays", 1)]


class _Entries(list):
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_removing_what_is_not_there_is_no_error(place):
    delete_object(place.child("x"))
    write_object(place.child("x"), b"x")
    delete_object(place.child("x"))
    assert list_names(place) == []


def test_trees_files_and_links_are_removed_but_not_what_links_lead_to(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "x").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    for name in ("link", "file", "tree"):
        delete_tree(locate(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "x").read_bytes() == b"x"


def test_json_is_read_with_a_limit(place):
    write_object(place.child("x.json"), b'{"a": 1}')
    assert read_json(place.child("x.json")) == {"a": 1}
    assert read_json(place.child("y.json")) is None
    with pytest.raises(BadInput, match="has 8 bytes; at most 7"):
        read_json(place.child("x.json"), limit=7)
