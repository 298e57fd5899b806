r"""Tables as bytes, for a store: a line of JSON that names the columns, then the columns.

::

    orthoflow-tables 1\n
    {"kind": "Triples", "facts": {...}, "columns": [["count", "uint16", "int64", [7]], ...]}\n
    columns one after the other, little-endian, each in the narrowest type that holds it

The same tables give the same bytes. Nothing read back is believed before sizes and types agree.
"""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast, get_type_hints

import numpy as np
import numpy.typing as npt

from orthoflow.geometry.box import Box
from orthoflow.reduce.tables import Rows

Table = TypeVar("Table")
_MAGIC = b"orthoflow-tables 1\n"
_STORED = ("bool", "uint8", "uint16", "uint32", "uint64", "int64")
_LONGEST_HEADER = 2**20


def dump(table: object) -> bytes:
    """Bytes of a table or a set of tables: `BlockTables`, `Tables`, `Triples`, `Objects`, ...

    >>> from orthoflow.reduce.tables import Overlaps
    >>> three = np.arange(3)
    >>> load(dump(Overlaps(three, three, three)), Overlaps).count
    array([0, 1, 2])
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    facts: dict[str, list[int]] = {}
    _spread(table, "", arrays, facts)
    narrow = {name: _narrow(array) for name, array in arrays.items()}
    columns = [
        [name, stored.dtype.name, arrays[name].dtype.name, list(stored.shape)]
        for name, stored in narrow.items()
    ]
    header = {"kind": type(table).__name__, "facts": facts, "columns": columns}
    parts = [array.astype(array.dtype.newbyteorder("<")).tobytes() for array in narrow.values()]
    return b"".join([_MAGIC, json.dumps(header).encode(), b"\n", *parts])


def load(data: bytes, kind: type[Table]) -> Table:
    """Table of `kind` from the bytes that `dump` made.

    Raises
    ------
    ValueError
        If they are damaged, or of something else.
    """
    arrays, facts, name = _read(data)
    if name != kind.__name__:
        raise ValueError(f"the file holds {name}, not {kind.__name__}")
    table = _gather(kind, "", arrays, facts)
    if arrays or facts:
        raise ValueError(f"{name} has columns {sorted({*arrays, *facts})} that are not known")
    return table


def _spread(
    table: Any, prefix: str, arrays: dict[str, npt.NDArray[Any]], facts: dict[str, list[int]]
) -> None:
    for entry in fields(table):
        value, name = getattr(table, entry.name), prefix + entry.name
        if isinstance(value, np.ndarray):
            arrays[name] = value
        elif isinstance(value, Box):
            facts[name] = [*value.start, *value.stop]
        elif isinstance(value, tuple):
            facts[name] = list(value)
        else:
            _spread(value, f"{name}.", arrays, facts)


def _gather(
    kind: type[Table],
    prefix: str,
    arrays: dict[str, npt.NDArray[Any]],
    facts: dict[str, list[int]],
) -> Table:
    found: dict[str, Any] = {}
    for entry, hint in get_type_hints(kind).items():
        name = prefix + entry
        if is_dataclass(hint) and hint is not Box:
            found[entry] = _gather(cast("type[Any]", hint), f"{name}.", arrays, facts)
        elif name in arrays:
            found[entry] = arrays.pop(name)
        elif name in facts and hint is Box and len(facts[name]) == 6:
            z0, y0, x0, z1, y1, x1 = facts.pop(name)
            found[entry] = Box((z0, y0, x0), (z1, y1, x1))
        elif name in facts and len(facts[name]) == 3:
            found[entry] = tuple(facts.pop(name))
        else:
            raise ValueError(f"{kind.__name__} lacks {name}")
    if issubclass(kind, Rows):
        lengths = {len(column) for column in found.values()}
        if len(lengths) > 1:
            raise ValueError(f"columns of {kind.__name__} differ in length: {sorted(lengths)}")
    return kind(**found)


def _narrow(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype.kind == "b" or array.min(initial=0) < 0:
        return array
    return array.astype(np.min_scalar_type(int(array.max(initial=0))))


def _read(data: bytes) -> tuple[dict[str, npt.NDArray[Any]], dict[str, list[int]], str]:
    """Columns, facts and kind; every size is checked before a byte is copied."""
    if not data.startswith(_MAGIC):
        raise ValueError("not a file of tables, or of a later version")
    end = data.find(b"\n", len(_MAGIC), len(_MAGIC) + _LONGEST_HEADER)
    try:
        header = json.loads(data[len(_MAGIC) : end])
        columns = [(str(n), str(s), str(w), _sizes(shape)) for n, s, w, shape in header["columns"]]
        facts = {str(name): _sizes(numbers) for name, numbers in header["facts"].items()}
        kind = str(header["kind"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the header of the tables is damaged: {error}") from error
    arrays, place = {}, end + 1
    for name, stored, wide, shape in columns:
        if stored not in _STORED or wide not in _STORED:
            raise ValueError(f"column {name} is {stored} for {wide}, which no table holds")
        size = math.prod(shape) * np.dtype(stored).itemsize
        if place + size > len(data):
            raise ValueError(f"column {name} needs {size} bytes, {len(data) - place} are left")
        flat = np.frombuffer(data, np.dtype(stored).newbyteorder("<"), math.prod(shape), place)
        arrays[name] = flat.reshape(shape).astype(wide)
        place += size
    if place != len(data):
        raise ValueError(f"{len(data) - place} bytes follow the last column")
    return arrays, facts, kind


def _sizes(numbers: Any) -> list[int]:
    found = [int(number) for number in numbers]
    if any(number < 0 for number in found):
        raise ValueError(f"negative sizes {found}")
    return found
