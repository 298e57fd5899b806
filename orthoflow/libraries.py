"""Errors of libraries that speak to stores: which there are, and their words without secrets."""

from __future__ import annotations

import re
import sys

_QUERY = re.compile(r"(https?://[^\s?'\"]*)\?[^\s'\")]*")
_USER = re.compile(r"(https?://)[^\s/@'\"]*@")
_LONGEST = 300


def store_errors() -> tuple[type[Exception], ...]:
    """Classes of the errors that stores raise, as far as their libraries are loaded."""
    return (
        OSError,
        *errors_of(
            *(("botocore.exceptions", name) for name in ("BotoCoreError", "ClientError")),
            ("botocore.parsers", "ResponseParserError"),
            ("aiohttp.client_exceptions", "ClientError"),
            ("http.client", "HTTPException"),
            ("gcsfs.retry", "HttpError"),
            ("google.auth.exceptions", "GoogleAuthError"),
            ("azure.core.exceptions", "AzureError"),
        ),
    )


def errors_of(*names: tuple[str, str]) -> tuple[type[Exception], ...]:
    """Classes of errors, by module and name, of the libraries that are loaded."""
    # Only libraries that are loaded can have raised; none is imported to find out.
    found = (getattr(sys.modules.get(module), name, None) for module, name in names)
    return tuple(kind for kind in found if kind is not None)


def first_line(error: BaseException) -> str:
    """An error in a few words; addresses without a user and a query, which may be secrets."""
    line = _USER.sub(r"\1", str(error).partition("\n")[0])
    return _QUERY.sub(r"\1?...", line)[:_LONGEST] or type(error).__name__
