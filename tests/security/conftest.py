"""A trap for hostile code, in every test that asks for one."""

from __future__ import annotations

import pytest

from tests.security.hostile import Trap


@pytest.fixture
def trap(tmp_path):
    """Whatever the test does, hostile code has not run at its end."""
    folder = tmp_path / "traps"
    folder.mkdir()
    one = Trap(folder / "sprung")
    yield one
    assert not one.sprung, "hostile code has run"
