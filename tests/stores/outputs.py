"""A small finished output of a run that never was: for tests of what looks after outputs."""

from __future__ import annotations

import numpy as np

from orthoflow.geometry.box import Box, split
from orthoflow.geometry.levels import pyramid_levels
from orthoflow.geometry.output import ArraySpec, OutputSpec
from orthoflow.stores.markers import Marker, block_marker_name, create_marker, level_marker_name
from orthoflow.stores.ome import create_output, write_box, write_record
from orthoflow.stores.pyramid import build_level_box, level_boxes

FINGERPRINT = "ab" * 32
REGION = Box((10, 0, 5), (20, 24, 15))
BLOCK = (10, 8, 10)
"""Three blocks; the last is empty."""


def make_spec(version="0.5"):
    chunk = (4, 4, 4) if version == "0.5" else (8, 8, 8)
    levels = pyramid_levels(REGION.shape, (4, 1, 1), chunk, (8, 8, 8), count=3)
    return OutputSpec(
        (
            ArraySpec("labels/a", "labels", "uint16", 0, levels),
            ArraySpec("probabilities", "image", "uint8", 2, levels),
        ),
        version,
        (4.0, 1.0, 1.0),
        "micrometer",
        (0.0, 0.0, 0.0),
        1,
    )


def record_of(spec):
    return {
        "fingerprint": FINGERPRINT,
        "region": str(REGION),
        "block": list(BLOCK),
        "output": spec.to_dict(),
        "settings": {"overlap": 0.25},
    }


def voxels_of(array, box):
    """Voxels of an output array in a box of its region."""
    lead = (array.classes,) if array.classes else ()
    rng = np.random.default_rng(array.classes)
    volume = rng.integers(1, 200, (*lead, *REGION.shape)).astype(array.dtype)
    volume[..., 16:, :] = 0
    return volume[(..., *box.slices)]


def make_block(url, spec, box, options=()):
    """Write a block and mark it; whether it was the first to do so."""
    place = box.shifted(REGION.start)
    stamps = []
    for array in spec.arrays:
        data = voxels_of(array, place)
        stamps += write_box(url, spec, array.path, 0, place, data, options).objects
    number = tuple(a // b for a, b in zip(place.start, BLOCK, strict=True))
    marker = Marker(block_marker_name(number), FINGERPRINT, str(box), tuple(stamps), {"blocks": 1})
    return create_marker(url, marker, options)


def make_levels(url, spec, options=(), done=()):
    """Build and mark what is not `done` of the levels above the first."""
    for level in range(1, len(spec.arrays[0].levels)):
        for array in spec.arrays:
            cut = array.levels[level]
            for box in level_boxes(cut):
                number = tuple(a // b for a, b in zip(box.start, cut.shard, strict=True))
                name = level_marker_name(level, array.path, number)
                if name not in done:
                    written = build_level_box(url, spec, array.path, level, box, options)
                    marker = Marker(name, FINGERPRINT, str(box), written.objects, {})
                    create_marker(url, marker, options)


def blocks():
    return list(split(REGION, BLOCK, REGION.start))


def make_output(url, spec=None, options=()):
    """Everything that a run leaves behind."""
    spec = spec or make_spec()
    create_output(url, spec, record_of(spec), storage_options=options)
    for box in blocks():
        make_block(url, spec, box, options)
    make_levels(url, spec, options)
    write_record(url, "report", {"fingerprint": FINGERPRINT, "complete": True}, options)
    return spec
