"""Metadata of outputs: the same bytes everywhere, and those that zarr itself would mean."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from orthoflow.errors import BadInput
from orthoflow.geometry.levels import pyramid_levels
from orthoflow.geometry.output import ArraySpec, OutputSpec
from orthoflow.stores.documents import array_document, check_spec, chunk_folder, documents
from orthoflow.stores.urls import locate


def make_spec(version="0.5", *, shard=16, dtype="uint16"):
    shard = 8 if version == "0.4" else shard
    levels = pyramid_levels((20, 50, 30), (40, 8, 8), (8, 8, 8), (shard,) * 3)
    arrays = (
        ArraySpec("labels/a", "labels", "uint8", 0, levels),
        ArraySpec("probabilities", "image", dtype, 3, levels),
        ArraySpec("stacks/xy", "labels", "uint32", 0, levels),
    )
    return OutputSpec(arrays, version, (40.0, 8.0, 8.0), "nanometer", (0.0, 1.0, 2.0), 3)


@pytest.fixture(params=["0.5", "0.4"])
def version(request):
    return request.param


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64", "float16", "float32"])
@pytest.mark.parametrize("shard", [8, 16])
def test_zarr_means_the_same_by_them(version, dtype, shard):
    """What zarr would have written for the same arrays, entry by entry."""
    spec = make_spec(version, dtype=dtype, shard=shard)
    for array in spec.arrays:
        for number, level in enumerate(array.levels):
            ours = json.loads(array_document(spec, array.path, number))
            theirs = written_by_zarr(spec, array, level)
            attributes = {"orthoflow": {"factors": list(level.factors), "kind": array.kind}}
            if version == "0.5":
                assert ours.pop("attributes") == attributes
                theirs.pop("attributes")
            assert ours == theirs
            kinds = {type(value) for value in (ours["fill_value"], theirs["fill_value"])}
            assert len(kinds) == 1


def written_by_zarr(spec, array, level):
    store = MemoryStore()
    lead = [array.classes] if array.classes else []
    ones = [1 for _ in lead]
    facts = {
        "store": store,
        "shape": (*lead, *level.shape),
        "chunks": (*ones, *level.chunk),
        "dtype": array.dtype,
        "fill_value": 0,
    }
    if spec.ome_version == "0.5":
        zarr.create_array(
            **facts,
            shards=(*ones, *level.shard) if level.shard != level.chunk else None,
            compressors=[ZstdCodec(level=spec.compression), Crc32cCodec()],
            dimension_names=[*("c" for _ in lead), *"zyx"],
        )
    else:
        zarr.create_array(
            **facts,
            zarr_format=2,
            compressors={"id": "zstd", "level": spec.compression, "checksum": True},
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )
    name = "zarr.json" if spec.ome_version == "0.5" else ".zarray"
    return json.loads(store._store_dict[name].to_bytes())


def test_zarr_opens_every_group_and_array(version):
    spec = make_spec(version)
    store = MemoryStore()
    for key, content in documents(spec).items():
        store._store_dict[key] = zarr.core.buffer.default_buffer_prototype().buffer.from_bytes(
            content
        )
    root = zarr.open_group(store, mode="r", zarr_format=3 if version == "0.5" else 2)
    found = dict(root.members(max_depth=None))
    arrays = {path for path, node in found.items() if isinstance(node, zarr.Array)}
    expected = {f"{a.path}/{n}" for a in spec.arrays for n in range(len(a.levels))}
    assert arrays == expected
    assert set(found) - arrays == {"labels", "labels/a", "probabilities", "stacks", "stacks/xy"}
    assert found["probabilities/0"].dtype == np.dtype("uint16")
    labels = found["labels"].attrs
    assert (labels["ome"] if version == "0.5" else labels)["labels"] == ["a"]


def test_there_is_a_document_for_every_node_and_nothing_else(version):
    spec = make_spec(version)
    names = {"0.5": {"zarr.json"}, "0.4": {".zarray", ".zgroup", ".zattrs"}}[version]
    nodes = {key.rpartition("/")[0] for key in documents(spec)}
    assert {key.rpartition("/")[2] for key in documents(spec)} == names
    levels = sum(len(array.levels) for array in spec.arrays)
    assert len(nodes) == levels + 6


def digest_of_all(spec):
    found = hashlib.sha256()
    for key, content in documents(spec).items():
        found.update(key.encode() + b"\0" + content + b"\0")
    return found.hexdigest()


def test_every_process_makes_the_same_bytes(version):
    """Another seed of Python's hashes, another order of work before: the same bytes."""
    content = json.dumps(make_spec(version).to_dict())
    code = (
        "import json, sys\n"
        "from orthoflow.geometry.output import OutputSpec\n"
        "from tests.stores.test_documents import digest_of_all, make_spec\n"
        "digest_of_all(make_spec(shard=8))\n"
        f"print(digest_of_all(OutputSpec.from_dict(json.loads({content!r}))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": "."},
    )
    assert done.stdout.strip() == digest_of_all(make_spec(version))


def test_the_bytes_do_not_depend_on_the_version_of_zarr(version):
    """Outputs are verified with other versions than they were made with: a change shows here."""
    expected = {"0.5": "b4026cad00d5ef019f65", "0.4": "47570e7a4e5a2fbb8d46"}
    assert digest_of_all(make_spec(version))[:20] == expected[version]


def test_documents_cannot_be_changed_by_who_asks():
    with pytest.raises(TypeError):
        documents(make_spec())["zarr.json"] = b""
    assert documents(make_spec()) is documents(make_spec())


def test_unknown_arrays_and_levels_are_refused_with_what_there_is(version):
    spec = make_spec(version)
    for path, level in (("labels/b", 0), ("labels/a", 99), ("labels", 0), ("stacks/xy/0", 0)):
        with pytest.raises(BadInput, match=rf"no level {level} of '{path}' .* 'labels/a' with"):
            array_document(spec, path, level)


def test_objects_lie_where_zarr_puts_them():
    assert chunk_folder(make_spec("0.5"), "labels/a", 2) == "labels/a/2/c"
    assert chunk_folder(make_spec("0.4"), "labels/a", 2) == "labels/a/2"
    assert chunk_folder(make_spec("0.5"), "", 0) == "0/c"


def test_what_cannot_be_stored_is_refused(tmp_path):
    levels = make_spec().arrays[0].levels
    for array, version, said in (
        (None, "0.5", "no arrays"),
        (ArraySpec("a", "image", "uint8", 0, levels), "0.4", "has no shards"),
        (ArraySpec("a", "labels", "float32", 0, levels), "0.5", "whole numbers"),
        (ArraySpec("a/../b", "labels", "uint8", 0, levels), "0.5", "use letters"),
    ):
        spec = OutputSpec((array,) if array else (), version, None, None, (0.0,) * 3, 1)
        with pytest.raises(BadInput, match=said):
            check_spec(spec, locate(tmp_path))
