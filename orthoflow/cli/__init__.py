"""The `orthoflow` command: reads arguments, calls one function, prints. Nothing else prints."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from typing import TYPE_CHECKING

import click

from orthoflow.cli.exits import (
    EXIT_BAD_INPUT,
    EXIT_BLOCKS_FAILED,
    EXIT_INTERRUPTED,
    EXIT_STORE,
    FORESEEN,
    REMEDY,
    code_of,
    stop,
    stop_for_store,
)
from orthoflow.cli.keep import doctor, finalize, status, verify
from orthoflow.cli.look import info, plan
from orthoflow.cli.previews import preview
from orthoflow.cli.runs import consensus, demo, run
from orthoflow.stores.answers import store_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = [
    "EXIT_BAD_INPUT",
    "EXIT_BLOCKS_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_STORE",
    "cli",
    "main",
]

_EXTRAS = {"torch": "inference", "safetensors": "inference", "matplotlib": "show"}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="orthoflow", message="%(prog)s %(version)s")
def cli() -> None:
    """Segment volumes with 2-D and 3-D networks in three orientations, on a laptop or a cluster.

    A first look:  orthoflow demo
    """


for _command in (consensus, demo, doctor, finalize, info, plan, preview, run, status, verify):
    cli.add_command(_command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command; every foreseen failure is one line and an exit code of its own."""
    try:
        with _terminated_like_interrupted():
            cli.main(arguments, prog_name="orthoflow", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.UsageError as error:
        command = "" if error.ctx is None else error.ctx.command_path.partition(" ")[2]
        message = error.format_message().rstrip(".")
        stop(f"{message}; {REMEDY.format(command)}", EXIT_BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        stop("interrupted", EXIT_INTERRUPTED)
    except FORESEEN as error:
        stop(str(error), code_of(error))
    except store_errors() as error:
        stop_for_store(error)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        extra = f"orthoflow[{_EXTRAS[error.name]}]"
        stop(f"{error.name} is not installed; pip install '{extra}'", EXIT_BAD_INPUT)


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Batch systems say SIGTERM before they kill: end as after Ctrl-C, with all that is closed."""
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt
