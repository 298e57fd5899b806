"""How the program ends: a code for each kind of failure, one line on stderr."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from orthoflow.errors import BadInput, BlockFailed, RunInterrupted, StoreRefused
from orthoflow.stores.answers import first_line, is_transient

EXIT_BAD_INPUT, EXIT_BLOCKS_FAILED, EXIT_STORE, EXIT_INTERRUPTED = 2, 3, 4, 5
REMEDY = "see orthoflow {} --help"
FORESEEN = (BadInput, BlockFailed, StoreRefused, RunInterrupted)

_CODES = dict(
    zip(
        FORESEEN,
        (EXIT_BAD_INPUT, EXIT_BLOCKS_FAILED, EXIT_STORE, EXIT_INTERRUPTED),
        strict=True,
    )
)


def code_of(error: Exception) -> int:
    """The exit code of a foreseen error."""
    return next(code for kind, code in _CODES.items() if isinstance(error, kind))


def stop(message: str, code: int) -> NoReturn:
    """End the program with one line on stderr."""
    click.echo(printable(f"orthoflow: {' '.join(message.split())}"), err=True)
    sys.exit(code)


def stop_for_store(error: Exception) -> NoReturn:
    """End the program because a store does not answer now; any other error is raised again."""
    if not is_transient(error):
        raise error
    stop(f"the store does not answer: {first_line(error)}; what is done is kept", EXIT_STORE)


def printable(text: str) -> str:
    r"""Lines of text without what would command a terminal: names in files may hold that.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return "".join(
        one if one.isprintable() or one == "\n" else ascii(one).strip("'") for one in text
    )
