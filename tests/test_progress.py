"""Progress where there is no terminal: a line for each tenth, and nothing to trip over."""

from __future__ import annotations

import dataclasses

import pytest

from orthoflow.driver import Progress
from orthoflow.progress import shown

NOW = Progress("blocks", 0, 40, 0, 0.0)


def lines(capsys, *states):
    with shown(quiet=False) as show:
        for state in states:
            show(state)
    return capsys.readouterr().err.splitlines()


def at(done, **more):
    facts = {"voxels": done * 10**6, "seconds": done / 2, **more}
    return dataclasses.replace(NOW, done=done, **facts)


def test_each_tenth_is_a_line_once(capsys):
    said = lines(capsys, *(at(done) for done in (0, 1, 4, 5, 39, 40, 40)))
    assert said == [
        "blocks 4/40 2.00 Mvoxel/s 18 s left",
        "blocks 39/40 2.00 Mvoxel/s 0 s left",
        "blocks 40/40 2.00 Mvoxel/s 0 s left",
    ]


def test_failed_blocks_and_the_dashboard_are_said(capsys):
    link = "http://127.0.0.1:8787/status"
    assert lines(capsys, at(0, dashboard=link), at(20, failed=2)) == [
        f"dashboard {link}",
        "blocks 20/40 2.00 Mvoxel/s 10 s left 2 failed",
    ]


@pytest.mark.parametrize("quiet", [True, False])
def test_nothing_to_do_is_nothing_to_say(capsys, quiet):
    """As for a job that got no part of a run."""
    with shown(quiet=quiet) as show:
        show(dataclasses.replace(NOW, total=0))
    assert capsys.readouterr() == ("", "")
