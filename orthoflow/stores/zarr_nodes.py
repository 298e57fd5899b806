"""Zarr metadata, read and bounded by us before zarr sees it; arrays opened through zarr."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from orthoflow.errors import BadInput, StoreRefused
from orthoflow.stores.formats import check_limits
from orthoflow.stores.objects import list_names, read_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    import zarr

    from orthoflow.stores.urls import Location

_DOCUMENTS = ("zarr.json", ".zarray", ".zgroup")
# Of a document nothing else is needed to read voxels; attributes may be megabytes.
_UNNEEDED = {"attributes", "consolidated_metadata"}
# Steps whose bytes hold a checksum of their own. zstd's is optional; blosc and lz4 have none.
_CHECKED = {
    *("crc32c", "crc32", "adler32", "fletcher32", "jenkins_lookup3"),
    *("gzip", "zlib", "bz2", "lzma"),
}
# Those whose output is known beforehand to be bounded by the chunk. Others build Python objects
# (pickle runs code), or state a size of their own, for which memory is taken.
_CODECS = {
    *_CHECKED,
    *("bytes", "endian", "transpose", "zstd", "blosc", "lz4", "shuffle", "delta", "bitround"),
    *("fixedscaleoffset", "quantize", "packbits", "astype"),
}
_COMPRESSORS = {"zstd", "blosc", "lz4", "gzip", "zlib", "bz2", "lzma"}
_INDEX_CODECS = {"bytes", "crc32c"}
_MAX_AXES = 16
_MAX_CHUNKS_IN_SHARD = 2**24


@dataclass(frozen=True, slots=True)
class Node:
    """A group or an array, as its own documents describe it."""

    place: Location
    zarr_format: Literal[2, 3]
    kind: Literal["array", "group"]
    document: dict[str, Any]
    attributes: dict[str, Any]

    @property
    def named(self) -> str:
        """The document, for messages."""
        name = "zarr.json" if self.zarr_format == 3 else f".z{self.kind}"
        return f"{self.place}/{name}"


@dataclass(frozen=True, slots=True)
class Layout:
    """How an array is cut and coded; integers are checked against the limits."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    """Decoded at once: the inner chunks of a shard."""
    shards: tuple[int, ...] | None
    codecs: tuple[str, ...]
    names: tuple[str | None, ...] | None = field(default=None)
    """Dimension names, where stated."""
    index_at_end: bool = True
    """Where a shard keeps its index."""
    checksum: bool = False
    """Whether a changed bit in a chunk is noticed."""


def read_node(place: Location) -> Node | None:
    """Group or array at `place`, of Zarr v3 or v2; None where there is neither.

    A bucket that may not be listed says "forbidden" of an object that is not there, so a refusal
    counts only if no other document is found.
    """
    refused: StoreRefused | None = None
    for name in _DOCUMENTS:
        try:
            document = read_json(place.child(name))
        except StoreRefused as error:
            refused = refused or error
            continue
        if document is not None:
            return _node(place, name, document)
    if refused is not None:
        raise refused
    return None


def document_of(node: Node) -> str:
    """What `known_node` needs to make the node again without a look at its store."""
    needed = {name: value for name, value in node.document.items() if name not in _UNNEEDED}
    return json.dumps(needed, separators=(",", ":"))


def known_node(place: Location, document: str) -> Node:
    """The array node that `document_of` described; it has no attributes."""
    content = json.loads(document)
    return Node(place, content["zarr_format"], "array", content, {})


def layout_of(node: Node) -> Layout:
    """Shape, chunks and codecs of an array node; nothing is allocated."""
    with documents_errors(node):
        layout = _layout_v3(node) if node.zarr_format == 3 else _layout_v2(node)
        if not len(layout.shape) == len(layout.chunks) <= _MAX_AXES:
            raise BadInput(f"{node.named}: shape {layout.shape} and chunks {layout.chunks} differ")
        _check_codecs(node, layout.codecs)
        if layout.shards is not None:
            _check_shards(node, layout)
        check_limits(layout.shape, layout.chunks, layout.dtype.itemsize, node.named)
    return layout


def open_array(node: Node, *, store: Any = None) -> zarr.Array[Any]:
    """The zarr array of a node whose limits have been checked."""
    import zarr  # noqa: PLC0415 - 0.3 s, not needed to look at metadata

    with documents_errors(node):
        store = node.place.zarr_store() if store is None else store
        return zarr.open_array(store, mode="r", zarr_format=node.zarr_format)


def as_array(values: Any) -> npt.NDArray[Any]:
    """What zarr gives for an index, as the array it is for slices."""
    return np.asarray(values)


def child_nodes(place: Location) -> Iterator[tuple[str, Node]]:
    """Groups and arrays directly below a group, by name."""
    for name in list_names(place):
        if not name.startswith(".") and name not in {"zarr.json", "c"}:
            node = read_node(place.child(name))
            if node is not None:
                yield name, node


@contextmanager
def documents_errors(node: Node) -> Iterator[None]:
    """Name the document where its content makes our code or zarr stumble."""
    try:
        yield
    except BadInput:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, ImportError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        if isinstance(error, KeyError):
            reason = f"{error} is missing or unknown"
        raise BadInput(f"{node.named} cannot be used: {reason}") from error


def _node(place: Location, name: str, document: dict[str, Any]) -> Node:
    if name == "zarr.json":
        kind = document.get("node_type")
        if document.get("zarr_format") != 3 or kind not in {"array", "group"}:
            raise BadInput(
                f"{place}/{name} states zarr_format {document.get('zarr_format')!r} and "
                f"node_type {kind!r}; expected 3 and 'array' or 'group'"
            )
        return Node(place, 3, kind, document, _dict(document, "attributes", f"{place}/{name}"))
    if document.get("zarr_format") != 2:
        raise BadInput(f"{place}/{name} does not state zarr_format 2")
    try:
        attributes = read_json(place.child(".zattrs")) or {}
    except StoreRefused:  # forbidden stands for absent here, as in `read_node`
        attributes = {}
    return Node(place, 2, "array" if name == ".zarray" else "group", document, attributes)


def _layout_v3(node: Node) -> Layout:
    document = node.document
    shape = _integers(document["shape"])
    grid = document["chunk_grid"]
    if grid["name"] != "regular":
        raise BadInput(f"{node.named} has chunk grid {grid['name']!r}; only 'regular' is read")
    outer = _integers(grid["configuration"]["chunk_shape"])
    codecs = document["codecs"]
    names = document.get("dimension_names")
    shards, at_end = None, True
    if len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed":
        inner = codecs[0]["configuration"]
        for codec in inner["index_codecs"]:
            if codec["name"] not in _INDEX_CODECS:
                raise BadInput(f"{node.named} codes the index of its shards by {codec['name']!r}")
        at_end = inner.get("index_location", "end") == "end"
        shards, outer, codecs = outer, _integers(inner["chunk_shape"]), inner["codecs"]
    return Layout(
        shape,
        _dtype(document["data_type"], node),
        outer,
        shards,
        tuple(str(codec["name"]) for codec in codecs),
        tuple(names) if names else None,
        at_end,
        any(_is_checked(codec["name"], codec.get("configuration")) for codec in codecs),
    )


def _layout_v2(node: Node) -> Layout:
    document = node.document
    steps = [*(document.get("filters") or ()), document.get("compressor")]
    steps = [step for step in steps if step]
    return Layout(
        _integers(document["shape"]),
        _dtype(document["dtype"], node),
        _integers(document["chunks"]),
        None,
        tuple(str(step["id"]) for step in steps),
        tuple(node.attributes.get("_ARRAY_DIMENSIONS") or ()) or None,
        checksum=any(_is_checked(step["id"], step) for step in steps),
    )


def _is_checked(name: str, configuration: dict[str, Any] | None) -> bool:
    """Whether a codec notices a changed bit; extensions are named like `numcodecs.zlib`."""
    step = name.rpartition(".")[2]
    return step in _CHECKED or (step == "zstd" and bool((configuration or {}).get("checksum")))


def _check_codecs(node: Node, codecs: tuple[str, ...]) -> None:
    """Refuse codecs whose output could be anything, and packed chunks that cannot be looked at."""
    names = [codec.removeprefix("numcodecs.") for codec in codecs]
    unknown = [codec for codec, name in zip(codecs, names, strict=True) if name not in _CODECS]
    packed = [place for place, name in enumerate(names) if name in _COMPRESSORS]
    # Others put a checksum in front, where the frame's own head is looked for.
    outside = set(codecs[packed[0] + 1 :]) if packed else set()
    if unknown or outside - ({"crc32c"} if node.zarr_format == 3 else set()):
        which = repr(unknown[0]) if unknown else f"{', '.join(codecs)} in this order"
        raise BadInput(
            f"{node.named} uses codec {which}, which is not read; rewrite the array with zstd, "
            "blosc, lz4 or gzip, after all filters"
        )


def _check_shards(node: Node, layout: Layout) -> None:
    assert layout.shards is not None
    count = 1
    for shard, chunk in zip(layout.shards, layout.chunks, strict=True):
        if chunk < 1 or shard % chunk:
            raise BadInput(f"{node.named}: shard {layout.shards} is not whole {layout.chunks}")
        count *= shard // chunk
    if count > _MAX_CHUNKS_IN_SHARD:
        raise BadInput(
            f"{node.named} has {count} chunks in a shard; at most {_MAX_CHUNKS_IN_SHARD} are read"
        )


def _dtype(stated: object, node: Node) -> np.dtype[Any]:
    try:
        if not isinstance(stated, str):
            raise TypeError(stated)
        return np.dtype(stated)
    except TypeError as error:
        raise BadInput(
            f"{node.named} has data type {stated!r}, which holds no intensities; "
            "convert it to uint8, uint16 or float32"
        ) from error


def _integers(values: Sequence[Any]) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise TypeError(f"{values!r} is not a list of whole numbers")
    return tuple(values)


def _dict(document: dict[str, Any], key: str, named: str) -> dict[str, Any]:
    value = document.get(key, {})
    if not isinstance(value, dict):
        raise BadInput(f"{named} has {key} {value!r}, expected an object")
    return value
