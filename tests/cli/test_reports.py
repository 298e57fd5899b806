"""A report in words: what was done, and counts that say something."""

from __future__ import annotations

import pytest

from orthoflow.cli.reports import report_lines

REPORT = {
    "output": "out.zarr",
    "complete": True,
    "blocks": 40,
    "blocks_planned": 40,
    "failed": {},
    "voxels": 4_000_000,
    "seconds": 2.0,
    "device": "cpu",
    "tiles": 1200,
    "network_pixels": 78_643_200,
    "patches": 1300,
    "patches_skipped": 100,
    "seconds_by_stage": {"network": 1.25, "read": 0.5},
    "bytes_stored": 123_456,
    "blocks_resumed": 0,
    "retries": 0,
    "doubles": 0,
    "blocks_done_twice": 0,
    "batches_halved": {},
    "chunks_filled": 0,
}


def test_a_report_in_words():
    assert report_lines(REPORT) == [
        "wrote out.zarr",
        "40 of 40 blocks, 4,000,000 voxels in 2.0 s (2.00 Mvoxel/s) on cpu",
        "1,200 tiles, 78.6 Mpixel, 100 of 1,300 patches empty",
        "seconds of all workers: network 1.2, read 0.5",
        "123,456 bytes stored",
    ]


@pytest.mark.parametrize(
    ("count", "line"),
    [
        ({"blocks_resumed": 12}, "12 blocks were done before"),
        ({"blocks_resumed": 1}, "1 block was done before"),
        ({"retries": 3}, "3 retries"),
        ({"retries": 1}, "1 retry"),
        ({"doubles": 2}, "2 lagging blocks doubled"),
        ({"blocks_done_twice": 1}, "1 block done twice"),
        ({"batches_halved": {"4": 2, "2": 1}}, "3 batches halved"),
        ({"chunks_filled": 7}, "7 absent chunks of the input read as their fill value"),
    ],
)
def test_counts_that_are_not_zero_are_said(count, line):
    assert report_lines({**REPORT, **count})[-1] == f"123,456 bytes stored, {line}"


def test_the_rate_is_that_of_one_run():
    """Voxels of earlier runs, or of other jobs, were not made in these seconds."""
    part = {"complete": False, "part": [8, 3], "blocks_left": 0}
    for more in ({"blocks_resumed": 1}, part, {"seconds": 0}):
        assert "Mvoxel/s" not in "\n".join(report_lines({**REPORT, **more}))


def test_a_share_of_the_work_says_what_is_left():
    part = {"complete": False, "part": [8, 3], "blocks": 10, "blocks_resumed": 2, "blocks_left": 40}
    assert report_lines({**REPORT, **part})[:2] == [
        "out.zarr is incomplete",
        "part 3 of 8 (counted from 0): its 12 blocks are done; 40 blocks of other parts are not; "
        "whichever job ends last finishes the output",
    ]
    failed = {**part, "failed": {"0:8,0:8,0:8": "NaN"}, "blocks_left": 41}
    assert report_lines({**REPORT, **failed})[1:3] == [
        "1 failed blocks: run the same command with --retry-failed",
        "part 3 of 8 (counted from 0): its 12 blocks are done, 1 more failed; 40 blocks of other "
        "parts are not; whichever job ends last finishes the output",
    ]
