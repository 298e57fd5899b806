"""What a store's error becomes: one line with a remedy, or itself."""

from __future__ import annotations

import errno

import botocore.exceptions
import pytest

from orthoflow.errors import StoreRefused
from orthoflow.stores.answers import answers, is_absence, refusals
from orthoflow.stores.urls import locate

PLACE = locate("s3://bucket/deep/v.zarr")


def said(code, status, kind=OSError, words="words of the store"):
    error = kind(words)
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error.__cause__ = botocore.exceptions.ClientError(answer, "PutObject")
    return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            said("ExpiredToken", 400, PermissionError),
            "credentials rejected for s3://bucket: words of the store (ExpiredToken); "
            "check the credentials of the environment or profile",
        ),
        (
            said("SignatureDoesNotMatch", 403, PermissionError, "None"),
            "credentials rejected for s3://bucket: SignatureDoesNotMatch; "
            "check the credentials of the environment or profile",
        ),
        (
            said("400", 400),  # a HEAD, whose answer has no body
            "credentials rejected for s3://bucket: words of the store (400); "
            "check the credentials of the environment or profile",
        ),
        (
            said("QuotaExceeded", 403),
            "no space left: words of the store; raise the quota or remove what is not needed",
        ),
        (
            said("NoSuchBucket", 404, FileNotFoundError),
            "no such bucket or container: s3://bucket; create it or correct the url",
        ),
        (
            botocore.exceptions.NoCredentialsError(),
            "Unable to locate credentials; check the credentials of the environment or profile",
        ),
        (
            PermissionError("no"),
            "no; check the credentials of the environment or profile",
        ),
    ],
)
def test_a_refusal_is_one_line_with_a_remedy(error, line):
    with pytest.raises(StoreRefused) as caught, refusals(PLACE, "write to"):
        raise error
    assert str(caught.value) == f"cannot write to {PLACE}: {line}"


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_says_no(number):
    wanted = pytest.raises(StoreRefused, match="check permissions and free space")
    with wanted, refusals(locate("/somewhere"), "write to"):
        raise OSError(number, "no")


@pytest.mark.parametrize(
    "error",
    [
        said("SlowDown", 503),
        said("InvalidArgument", 400),
        said("NoSuchKey", 404, FileNotFoundError),
        said("PreconditionFailed", 412, FileExistsError),
        TimeoutError("late"),
        ValueError("another matter"),
        StoreRefused("said already"),
    ],
)
def test_what_is_no_refusal_stays_what_it_is(error):
    with pytest.raises(type(error)) as caught, refusals(PLACE, "read"):
        raise error
    assert caught.value is error


def test_silence_is_said_and_nothing_else():
    wanted = pytest.raises(StoreRefused, match=r"deep/v\.zarr does not answer: late$")
    with wanted, answers(PLACE):
        raise TimeoutError("late\nin the day")
    for error in (FileNotFoundError("x"), ValueError("x"), StoreRefused("x")):
        with pytest.raises(type(error)) as caught, answers(PLACE):
            raise error
        assert caught.value is error


def test_an_absent_bucket_is_no_absent_object():
    assert is_absence(said("NoSuchKey", 404, FileNotFoundError))
    assert is_absence(FileNotFoundError("local"))
    assert not is_absence(said("NoSuchBucket", 404, FileNotFoundError))
    assert not is_absence(PermissionError("no"))
