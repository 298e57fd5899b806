"""How a test types a command, and the folder it is typed in."""

from __future__ import annotations

import pytest

from orthoflow import cli


def call(capsys, *arguments):
    """Exit code, stdout and stderr of a command, run in this process."""
    capsys.readouterr()
    try:
        cli.main([str(argument) for argument in arguments])
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capsys.readouterr()
    return code, out, err


def run_line(*more, volume="in.zarr", output="out.zarr", model="tiny"):
    return ["run", volume, output, "--model", model, "--cluster", "synchronous", *more]


def listing(folder):
    """Everything below a folder, with its bytes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        found[str(path.relative_to(folder))] = None if path.is_dir() else path.read_bytes()
    return found


@pytest.fixture(scope="session")
def everything(tmp_path_factory):
    """A folder of volumes, models and texts; no test may add to it or take away."""
    from tests.everything import make_everything  # needs torch

    return make_everything(tmp_path_factory.mktemp("everything"))


@pytest.fixture
def here(everything, tmp_path, monkeypatch):
    """A folder of the test's own to work in, with links to everything."""
    for path in everything.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def unchanged(everything, monkeypatch):
    """The folder of everything to work in; it must be found as it was."""
    monkeypatch.chdir(everything)
    before = listing(everything)
    yield everything
    after = listing(everything)
    for name in sorted(after.keys() - before.keys(), reverse=True):
        (everything / name).rmdir() if after[name] is None else (everything / name).unlink()
    assert after.keys() == before.keys()
    assert after == before
