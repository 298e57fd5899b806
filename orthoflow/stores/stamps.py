"""What markers and notes on failures hold, and what may pass for one; no stores."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from orthoflow.errors import BadInput
from orthoflow.stores.sealed import seal, unseal

MARKER_LIMIT = 64 * 2**10
"""Bytes of the largest marker that is written or read: room for about a thousand objects."""

_NUMBER = r"(0|[1-9][0-9]{0,8})"
BLOCK_NAME = re.compile(rf"blocks/{_NUMBER}-{_NUMBER}-{_NUMBER}")
LABELS_NAME = re.compile(rf"labels/{_NUMBER}-{_NUMBER}-{_NUMBER}")
LEVEL_NAME = re.compile(
    rf"levels/{_NUMBER}/(-|[A-Za-z0-9][A-Za-z0-9_.-]*)/{_NUMBER}-{_NUMBER}-{_NUMBER}"
)
FINGERPRINT = re.compile(r"[0-9a-f]{16,128}")
_NAME = re.compile(f"{BLOCK_NAME.pattern}|{LABELS_NAME.pattern}|{LEVEL_NAME.pattern}")
_DIGEST = re.compile(r"[0-9a-f]{32}")
_KEY = re.compile(r"(?!orthoflow/)[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9_-]*)*")
_BOX = re.compile(r"[0-9]{1,13}:[0-9]{1,13}(,[0-9]{1,13}:[0-9]{1,13}){2}")
_MOST_BYTES = 2**40
_REASON = 2000
"""Characters that are kept of a failure's reason."""
_LONGEST = 1000
_ENTRIES = {"name", "fingerprint", "box", "objects", "facts"}


@dataclass(frozen=True, slots=True, order=True)
class Stamp:
    """One stored object, as its writer knew it."""

    key: str
    """Inside the output group: "labels/segmentation/0/c/0/1/2"."""
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Marker:
    """What a block, or a box of a level, stored."""

    name: str
    fingerprint: str
    box: str
    """In voxels of the input for a block, of the level for a box of a level."""
    objects: tuple[Stamp, ...]
    """By key."""
    facts: dict[str, Any]
    """What else is known of the work: numbers for the report."""

    def to_bytes(self) -> bytes:
        """The marker as it is stored.

        Raises
        ------
        BadInput
            If it is too large, or no marker.
        """
        folders: dict[str, dict[str, list[Any]]] = {}
        for stamp in sorted(self.objects):
            folder, name = _split(stamp.key)
            folders.setdefault(folder, {})[name] = [stamp.size, stamp.digest]
        stored = seal(
            {
                "name": self.name,
                "fingerprint": self.fingerprint,
                "box": self.box,
                "objects": folders,
                "facts": self.facts,
            }
        )
        if len(stored) > MARKER_LIMIT:
            raise BadInput(
                f"marker {self.name} of {len(self.objects)} objects has {len(stored)} bytes, at "
                f"most {MARKER_LIMIT}; use a larger shard (or chunk), or a smaller block"
            )
        self.from_bytes(stored, f"marker {self.name}")
        return stored

    @classmethod
    def from_bytes(cls, stored: bytes, named: str) -> Marker:
        """The marker in `stored`, which may come from anywhere.

        Raises
        ------
        BadInput
            If it is too large, was changed, or holds what no marker holds.
        """
        if len(stored) > MARKER_LIMIT:
            raise BadInput(f"{named} has more than {MARKER_LIMIT} bytes, so it is no marker")
        content = unseal(stored, named)
        try:
            return _marker(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(f"{named} is no marker: {str(error)[:200]}") from error


def failure_bytes(name: str, facts: dict[str, Any]) -> bytes:
    """Why a block could not be done, as it is stored; long reasons are cut.

    Raises
    ------
    BadInput
        If `facts` are not "block" and "reason" (text) and "tries" (a number).
    """
    content = {**facts, "reason": str(facts["reason"])[:_REASON]}
    if not _is_failure(content):
        raise BadInput(f"failure of {name!r}: it needs a block, a reason and tries")
    return seal(content)


def failure_from(stored: bytes, named: str) -> dict[str, Any]:
    """What was noted of a failure, from the bytes that are stored, which may come from anywhere.

    Raises
    ------
    BadInput
        If they are not what `failure_bytes` made.
    """
    if len(stored) > MARKER_LIMIT:
        raise BadInput(f"{named} has more than {MARKER_LIMIT} bytes, so it is no note of a failure")
    content = unseal(stored, named)
    if not _is_failure(content):
        raise BadInput(f"{named} is no note of a failure")
    return content


def _is_failure(content: dict[str, Any]) -> bool:
    texts = all(isinstance(content.get(name), str) for name in ("block", "reason"))
    return texts and type(content.get("tries")) is int and len(content) == 3


def _marker(content: dict[str, Any]) -> Marker:
    if content.keys() != _ENTRIES:
        raise ValueError(f"it has {', '.join(sorted(content))[:100]}")
    box = _text(content["box"], _BOX, "box")
    spans = [tuple(map(int, span.split(":"))) for span in box.split(",")]
    if any(first >= end for first, end in spans):
        raise ValueError(f"its box {box} is empty")
    if not isinstance(content["facts"], dict):
        raise TypeError("its facts are no object")
    objects = [
        _stamp(f"{_text(folder, _KEY, 'key')}/{name}", *facts)
        for folder, found in content["objects"].items()
        for name, facts in found.items()
    ]
    return Marker(
        _text(content["name"], _NAME, "name"),
        _text(content["fingerprint"], FINGERPRINT, "fingerprint"),
        box,
        tuple(sorted(objects)),
        content["facts"],
    )


def _stamp(key: str, size: object, digest: object) -> Stamp:
    if type(size) is not int or not 0 < size <= _MOST_BYTES:
        raise ValueError(f"it has size {str(size)[:80]!r} of {key}")
    return Stamp(_text(key, _KEY, "key"), size, _text(digest, _DIGEST, "digest"))


def _text(value: object, pattern: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST or not pattern.fullmatch(value):
        raise ValueError(f"it has {what} {str(value)[:80]!r}")
    return value


def _split(key: str) -> tuple[str, str]:
    """Folder and name of a key; what the objects of a block share is stored once."""
    parts = key.split("/")
    return "/".join(parts[:-3]), "/".join(parts[-3:])
