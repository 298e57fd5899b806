"""What a store's error means: not allowed, not now, or something else."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orthoflow.errors import StoreRefused
from orthoflow.libraries import errors_of
from orthoflow.libraries import first_line as first_line
from orthoflow.libraries import store_errors as store_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orthoflow.stores.urls import Location

_REFUSED_ERRNO = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}
_TRANSIENT_ERRNO = {
    *(errno.EIO, errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT, errno.ESTALE),
    getattr(errno, "EREMOTEIO", errno.EIO),
    *(errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EPIPE),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
}

_REJECTED_STATUS = {"401", "403"}
_TRANSIENT_STATUS = {"408", "429", "500", "502", "503", "504"}
_REJECTED_CODES = {
    *("AccessDenied", "AccessDeniedException", "AuthenticationFailed", "CredentialsNotSupported"),
    *("ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidClientTokenId"),
    *("InvalidToken", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired"),
    "UnrecognizedClientException",
    # A HEAD has no body to say what is wrong; in S3 a plain 400 is an expired token or a wrong key.
    "400",
}
_FULL_CODES = {"507", "QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"}
_TRANSIENT_CODES = {
    *("SlowDown", "ServiceUnavailable", "InternalError", "ServerBusy", "OperationTimedOut"),
    *("RequestTimeout", "RequestTimeoutException", "RequestLimitExceeded", "TooManyRequests"),
    *("Throttling", "ThrottlingException", "ThrottledException", "BandwidthLimitExceeded"),
    *("OperationAborted", "ConditionalRequestConflict", "BadDigest", "IncompleteBody"),
    "XAmzContentSHA256Mismatch",
}
_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}


@contextmanager
def refusals(place: Location, doing: str) -> Iterator[None]:
    """Turn every library's way of saying "not allowed" or "no space" into StoreRefused."""
    try:
        yield
    except StoreRefused:
        raise
    except store_errors() as error:
        reason = None if is_transient(error) else _refusal(place, error)
        # What else a library of its own kind says may hold a signed address, and is nobody's to
        # catch; errors of the system are.
        if reason is None and (is_transient(error) or isinstance(error, OSError)):
            raise
        raise StoreRefused(f"cannot {doing} {place}: {reason or first_line(error)}") from error


@contextmanager
def answers(place: Location) -> Iterator[None]:
    """Turn "cannot connect" into StoreRefused; for what a user waits for, not for retried work."""
    try:
        yield
    except store_errors() as error:
        if not is_transient(error):
            raise
        raise StoreRefused(f"{place} does not answer: {first_line(error)}") from error


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later: overload, timeouts, broken connections.

    What the store itself said counts first, then the kind of error.
    """
    if isinstance(error, (StoreRefused, FileNotFoundError, FileExistsError, PermissionError)):
        return False
    codes, status = _said(error)
    if codes & _TRANSIENT_CODES or status & _TRANSIENT_STATUS:
        return True
    if status or codes & (_REJECTED_CODES | _FULL_CODES):
        return False
    if isinstance(error, _network_errors()):
        return True
    return isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO


def is_absence(error: BaseException) -> bool:
    """Whether an object is not there, in a bucket that is."""
    absent = isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError))
    return absent and not _said(error)[0] & _NO_BUCKET


def _refusal(place: Location, error: Exception) -> str | None:
    """Why the store says no, and the remedy; None for errors of another kind."""
    codes, status = _said(error)
    said, bucket = first_line(error), "/".join(place.url.split("/")[:3])
    named = ", ".join(sorted(codes or status))
    remedy = "check the credentials of the environment or profile"
    if place.is_local:
        remedy = "check permissions and free space"
    if (codes | status) & _FULL_CODES:
        said, remedy = f"no space left: {said}", "raise the quota or remove what is not needed"
    elif codes & _NO_BUCKET:
        said, remedy = f"no such bucket or container: {bucket}", "create it or correct the url"
    elif codes & _REJECTED_CODES or status & _REJECTED_STATUS:
        # Some stores give a code and no words, which botocore shows as "None".
        said = named if said == "None" else f"{said} ({named})"
        said = f"credentials rejected for {bucket}: {said}"
    elif not _is_denial(error):
        return None
    return f"{said}; {remedy}"


def _is_denial(error: Exception) -> bool:
    if isinstance(error, (PermissionError, *_credential_errors())):
        return True
    return isinstance(error, OSError) and error.errno in _REFUSED_ERRNO


def _said(error: BaseException) -> tuple[set[str], set[str]]:
    """Error codes and HTTP status that the store gave, here or as the cause."""
    codes, status = set(), set()
    numbered = errors_of(("gcsfs.retry", "HttpError"))
    link: BaseException | None = error
    while link is not None:
        response = getattr(link, "response", None)
        if isinstance(response, dict):  # botocore's
            codes.add(str(response.get("Error", {}).get("Code", "")))
            status.add(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
        codes.add(str(getattr(link, "error_code", "")))  # Azure's
        # aiohttp's, Azure's, gcsfs's. A body that was cut off has a code too, of another kind.
        status |= {getattr(link, name, None) for name in ("status", "status_code")}
        status.add(getattr(link, "code", None) if isinstance(link, numbered) else None)
        link = link.__cause__
    return codes - {""}, {str(one) for one in status if isinstance(one, int) and one >= 400}


def _credential_errors() -> tuple[type[Exception], ...]:
    names = (
        *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"),
        *("ProfileNotFound", "SSOError", "TokenRetrievalError"),
    )
    return errors_of(
        *(("botocore.exceptions", name) for name in names),
        ("google.auth.exceptions", "GoogleAuthError"),
        ("azure.core.exceptions", "ClientAuthenticationError"),
    )


def _network_errors() -> tuple[type[Exception], ...]:
    names = ("HTTPClientError", "ConnectionError", "IncompleteReadError", "FlexibleChecksumError")
    remote = errors_of(
        *(("botocore.exceptions", name) for name in names),
        ("botocore.parsers", "ResponseParserError"),
        ("aiohttp.client_exceptions", "ClientError"),
        ("http.client", "IncompleteRead"),
        ("google.auth.exceptions", "TransportError"),
        ("azure.core.exceptions", "ServiceRequestError"),
        ("azure.core.exceptions", "ServiceResponseError"),
    )
    return (ConnectionError, TimeoutError, *remote)
