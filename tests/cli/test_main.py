"""The program itself: help, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import fields

import pytest

from orthoflow import cli, pipeline
from orthoflow.errors import BadInput, BlockFailed, BlockImpossible, RunInterrupted, StoreRefused
from orthoflow.options import Options
from tests.commands import call, run_line

COMMANDS = (*("demo", "doctor", "finalize", "info", "plan", "preview", "run", "status", "verify"),)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help(capsys, command, flag):
    code, out, err = call(capsys, command, flag)
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: orthoflow {command}")


def test_help_lists_the_commands_and_a_first_step(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert "orthoflow demo" in out
    for command in COMMANDS:
        assert f"\n  {command} " in out


def test_every_option_of_run_is_in_its_help(capsys):
    _, out, _ = call(capsys, "run", "--help")
    for entry in fields(Options):
        for spelling in (entry.name.replace("_", "-"), *entry.metadata["wish"].aliases):
            assert f"--{spelling}" in out


def test_version(capsys):
    import orthoflow

    code, out, _ = call(capsys, "--version")
    assert (code, out.split()) == (0, ["orthoflow", orthoflow.__version__])


def test_help_needs_no_heavy_library():
    code = (
        "import sys; from orthoflow.cli import main\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'dask', 'zarr', 'xarray', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# ------------------------------------------------------------------------------------ exit codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadInput("overlap 1 is too large"), cli.EXIT_BAD_INPUT),
        (StoreRefused("no space at\ns3://bucket"), cli.EXIT_STORE),
        (BlockFailed("block 0:8 failed"), cli.EXIT_BLOCKS_FAILED),
        (BlockImpossible("block 0:8 has NaN"), cli.EXIT_BLOCKS_FAILED),
        (RunInterrupted("the scheduler was lost"), cli.EXIT_INTERRUPTED),
        (KeyboardInterrupt(), cli.EXIT_INTERRUPTED),
        (ModuleNotFoundError("no torch", name="torch"), cli.EXIT_BAD_INPUT),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.usefixtures("here")
def test_an_error_is_one_line_and_a_code(capsys, monkeypatch, error, code):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(pipeline, "run", fail)
    found, out, err = call(capsys, *run_line("--quiet"))
    assert (found, out) == (code, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("orthoflow: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.usefixtures("here")
def test_a_run_that_is_stopped_says_how_to_go_on(capsys, monkeypatch, number):
    def stopped(*_, **__):
        os.kill(os.getpid(), number)
        threading.Event().wait(60)
        raise AssertionError("was not stopped")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(pipeline, "run", stopped)
    # What runs behind a shell's prompt does not hear Ctrl-C; these tests may.
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, out, err = call(capsys, *run_line("--quiet"))
    finally:
        signal.signal(signal.SIGINT, heard)
    assert (code, out) == (cli.EXIT_INTERRUPTED, "")
    assert err == (
        "orthoflow: interrupted; what is done is kept: run the same command with --resume\n"
    )
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_commands_that_are_stopped_promise_nothing(capsys, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("orthoflow.stores.volumes.summarize", stopped)
    code, out, err = call(capsys, "info", "in.zarr")
    assert (code, out) == (cli.EXIT_INTERRUPTED, "")
    # click ends the line in which ^C was typed.
    assert err == "\northoflow: interrupted\n"


def test_a_thread_that_is_not_the_main_one_may_run_a_command():
    """Only the main thread may set handlers of signals."""
    ended = []
    thread = threading.Thread(target=lambda: ended.append(cli.main(["--version"])))
    thread.start()
    thread.join()
    assert ended == [None]
