"""The ways a volume is cut into planes."""

from __future__ import annotations

from dataclasses import dataclass

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box, Triple


@dataclass(frozen=True, slots=True)
class Orientation:
    """One way to cut a volume (z, y, x) into planes.

    `plane` names the volume axes that span a plane, rows first; `stack` is the axis along which the
    planes follow each other, or None where the whole volume is one "plane" of three axes (a network
    that takes 3-D patches). Rows are always the slower axis of the array: an xy plane is (y, x).
    """

    name: str
    plane: tuple[int, ...]
    stack: int | None

    @property
    def order(self) -> tuple[int, ...]:
        """Transposition of (c, z, y, x) to plane-major (c, plane, rows, columns).

        >>> ORIENTATIONS["yz"].order
        (0, 3, 1, 2)
        """
        stack = () if self.stack is None else (self.stack + 1,)
        return (0, *stack, *(axis + 1 for axis in self.plane))

    @property
    def inverse(self) -> tuple[int, ...]:
        """Transposition of plane-major arrays back to (c, z, y, x)."""
        return tuple(self.order.index(axis) for axis in range(4))

    def planes(self, shape: Triple) -> int:
        """Number of planes in a volume of `shape`."""
        return 1 if self.stack is None else shape[self.stack]

    def plane_shape(self, shape: Triple) -> tuple[int, ...]:
        """Rows and columns (or z, y, x) of one plane of a volume of `shape`."""
        return tuple(shape[axis] for axis in self.plane)

    def box(self, planes: tuple[int, int], spans: tuple[tuple[int, int], ...]) -> Box:
        """Box of the volume that `planes` (first, end) and `spans` of the plane axes make.

        >>> str(ORIENTATIONS["xz"].box((4, 6), ((0, 2), (7, 9))))
        '0:2,4:6,7:9'
        """
        bounds = dict(zip(self.plane, spans, strict=True))
        if self.stack is not None:
            bounds[self.stack] = planes
        return Box(
            (bounds[0][0], bounds[1][0], bounds[2][0]),
            (bounds[0][1], bounds[1][1], bounds[2][1]),
        )

    def spans(self, box: Box) -> tuple[tuple[int, int], tuple[tuple[int, int], ...]]:
        """The inverse of `box`: planes (first, end) and the spans of the plane axes."""
        ends = tuple(zip(box.start, box.stop, strict=True))
        planes = (0, 1) if self.stack is None else ends[self.stack]
        return planes, tuple(ends[axis] for axis in self.plane)


ORIENTATIONS = {
    "xy": Orientation("xy", plane=(1, 2), stack=0),
    "xz": Orientation("xz", plane=(0, 2), stack=1),
    "yz": Orientation("yz", plane=(0, 1), stack=2),
    "zyx": Orientation("zyx", plane=(0, 1, 2), stack=None),
}

_ALIASES = {"yx": "xy", "zx": "xz", "zy": "yz", "xyz": "zyx", "3d": "zyx"}


def named_orientations(names: tuple[str, ...], *, ndim: int) -> tuple[Orientation, ...]:
    """Orientations by name for a network of `ndim` dimensions, in the canonical order.

    The order of `names` does not matter, so that it cannot show in the answer.
    """
    allowed = ("xy", "xz", "yz") if ndim == 2 else ("zyx",)
    found = [_ALIASES.get(name.lower(), name.lower()) for name in names]
    for given, name in zip(names, found, strict=True):
        if name not in allowed:
            raise BadInput(
                f"orientations: {given!r} does not fit a {ndim}-D network; "
                f"choose from {', '.join(allowed)}"
            )
    if not found:
        raise BadInput(f"orientations is empty; choose from {', '.join(allowed)}")
    if len(set(found)) != len(found):
        raise BadInput(f"orientations {','.join(names)} names one orientation twice; name it once")
    return tuple(ORIENTATIONS[name] for name in allowed if name in found)
