"""Inputs and their clean runs, made once; a fleet of worker processes; a scene for each test."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from tests.faults.fleet import Fleet
from tests.faults.scene import ALONE, LARGE, SMALL, Scene, make_source

# It changes the process that imports it, and pytest imports every file to look for doctests.
collect_ignore = ["warm.py"]


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """The inputs, by their shape."""
    return {
        shape: make_source(tmp_path_factory.mktemp("source"), shape) for shape in (SMALL, LARGE)
    }


@pytest.fixture(scope="session")
def clean(sources, tmp_path_factory):
    """Objects and report of a run without faults, by kind and shape."""
    made = {}

    def of_kind(kind, shape):
        key = (*sorted(kind.items()), shape)
        if key not in made:
            folder = tmp_path_factory.mktemp("clean")
            scene = Scene(folder, sources[shape], kind=kind, shape=shape)
            report = scene.run()
            made[key] = scene.objects(), report
        return made[key]

    return of_kind


@pytest.fixture
def scene(request, sources, tmp_path):
    """A run among faults: small, of blocks that exchange nothing, unless parameters say otherwise.

    ``@pytest.mark.parametrize("scene", [(WOVEN, LARGE)], indirect=True)``
    """
    kind, shape = getattr(request, "param", (ALONE, SMALL))
    one = Scene(tmp_path, sources[shape], kind=kind, shape=shape)
    yield one
    one.end()


@pytest.fixture
def expected(scene, clean):
    """Objects that every run must end with."""
    return clean({"tile": scene.tile, **scene.kind}, scene.shape)[0]


@pytest.fixture(scope="session")
def shared_fleet():
    fleet = Fleet(workers=2)
    yield fleet
    fleet.end()


@pytest.fixture
def fleet(shared_fleet):
    """A scheduler and two workers, each a process that may be killed."""
    shared_fleet.whole()
    pids = shared_fleet.pids().values()
    yield shared_fleet
    for pid in pids:  # a test that fails may leave one stopped
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
