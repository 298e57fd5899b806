"""What connecting needs of this process: enough files and sockets, taken where they are allowed."""

from __future__ import annotations

import logging
import resource

import pytest

from orthoflow import cluster
from orthoflow.errors import BadInput
from orthoflow.options import Options

ANY = resource.RLIM_INFINITY


@pytest.fixture
def limits(monkeypatch):
    """Limits of a process that is not this one: what they are, and what they were set to."""
    found = {"now": (ANY, ANY), "set": []}
    monkeypatch.setattr(resource, "getrlimit", lambda _: found["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: found["set"].append(wanted))
    return found


@pytest.mark.parametrize("now", [(ANY, ANY), (300, 300), (4096, ANY)])
def test_limits_that_suffice_are_left_alone(limits, now):
    limits["now"] = now
    cluster.allow_open_files(300)
    assert limits["set"] == []


@pytest.mark.parametrize("hard", [300, 4096, ANY])
def test_a_soft_limit_is_raised_as_far_as_needed(limits, caplog, hard):
    caplog.set_level(logging.INFO, "orthoflow")
    limits["now"] = (64, hard)
    cluster.allow_open_files(300)
    assert limits["set"] == [(300, hard)]
    assert caplog.messages == ["allowed this process 300 open files instead of 64"]


def test_a_hard_limit_is_refused(limits):
    limits["now"] = (64, 299)
    with pytest.raises(BadInput, match=r"299 open files are allowed .*ulimit -Hn.* 300 are needed"):
        cluster.allow_open_files(300)
    assert limits["set"] == []


def test_workers_that_are_started_here_count(limits):
    limits["now"] = (64, 1000)
    options = Options(cluster="processes", workers=200)
    with pytest.raises(BadInput, match="3328 are needed"), cluster.connect(options):
        pass
    with cluster.connect(Options(cluster="synchronous", workers=200)) as client:
        assert client is None
    assert limits["set"] == [(128, 1000), (128, 1000)]
