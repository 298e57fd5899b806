"""Asking again: how often, how long, for which errors, and what is said meanwhile."""

from __future__ import annotations

import errno
import http.client
import itertools
import logging

import aiohttp
import botocore.exceptions
import multidict
import pytest
import yarl

from orthoflow.errors import BadInput, BlockFailed, BlockImpossible, StoreRefused
from orthoflow.stores import patience
from orthoflow.stores.answers import is_transient
from orthoflow.stores.patience import FIRST_WAIT, LONGEST_WAIT, patiently


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self):
        self.now = 1000.0
        self.waits = []

    def sleep(self, seconds):
        self.waits.append(seconds)
        self.now += seconds

    def __call__(self):
        return self.now

    def ask(self, call, seconds):
        return patiently(call, seconds=seconds, doing="read x", sleep=self.sleep, clock=self)


class Failing:
    """Fails so many times, then answers."""

    def __init__(self, error, times=None):
        self.error = error
        self.times = times
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.times is None or self.calls <= self.times:
            raise self.error
        return "answer"


@pytest.fixture(autouse=True)
def _first_warning(monkeypatch):
    monkeypatch.setattr(patience, "_warnings", patience._Warnings())


def of_s3(code, status, kind=OSError, number=errno.EIO):
    """An error as s3fs raises it: a builtin one, and what the store said as its cause."""
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = kind(number, "said the store") if kind is OSError else kind("said the store")
    error.__cause__ = botocore.exceptions.ClientError(answer, "GetObject")
    return error


def of_the_web(status):
    url = yarl.URL("http://host/a")
    request = aiohttp.RequestInfo(
        url, "GET", multidict.CIMultiDictProxy(multidict.CIMultiDict()), url
    )
    return aiohttp.ClientResponseError(request, (), status=status, message="no")


def a_body_cut_off():
    error = aiohttp.ClientPayloadError("Response payload is not completed")
    error.__cause__ = aiohttp.http_exceptions.ContentLengthError("not enough data")
    return error


TRANSIENT = {
    "slow down": of_s3("SlowDown", 503, number=errno.EBUSY),
    "unavailable": of_s3("503", 503, number=errno.EBUSY),
    "internal": of_s3("InternalError", 500, number=getattr(errno, "EREMOTEIO", errno.EIO)),
    "internal, said in a 200": of_s3("InternalError", 200),
    "gateway": of_s3("502", 502),
    "throttled": of_s3("Throttling", 400),
    "request timeout": of_s3("RequestTimeout", 400, TimeoutError),
    "changed on its way": of_s3("BadDigest", 400, number=errno.EINVAL),
    "in use": of_s3("OperationAborted", 409, number=errno.EBUSY),
    "no cause kept": OSError(errno.EBUSY, "Service Unavailable"),
    "client error": of_s3("SlowDown", 503).__cause__,
    "read timeout": botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"),
    "connect timeout": botocore.exceptions.ConnectTimeoutError(endpoint_url="http://x"),
    "no connection": botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"),
    "stream": botocore.exceptions.ResponseStreamingError(error="cut"),
    "closed": botocore.exceptions.ConnectionClosedError(endpoint_url="http://x"),
    "incomplete": botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    "body cut off": a_body_cut_off(),
    "web 503": of_the_web(503),
    "web 429": of_the_web(429),
    "disconnected": aiohttp.ServerDisconnectedError(),
    "plain incomplete": http.client.IncompleteRead(b"half"),
    "timeout": TimeoutError(),
    "refused": ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
    "reset": ConnectionResetError(errno.ECONNRESET, "reset"),
    "pipe": BrokenPipeError(errno.EPIPE, "pipe"),
    **{
        errno.errorcode[number]: OSError(number, "x")
        for number in (errno.EIO, errno.ETIMEDOUT, errno.ECONNRESET, errno.EPIPE, errno.ESTALE)
    },
}

PERMANENT = {
    "denied": of_s3("AccessDenied", 403, PermissionError),
    "expired": of_s3("ExpiredToken", 400, PermissionError),
    "unknown code, forbidden": of_s3("MadeUp", 403),
    "token": of_s3("InvalidToken", 400, number=errno.EINVAL),
    "quota": of_s3("QuotaExceeded", 403),
    "no bucket": of_s3("NoSuchBucket", 404, FileNotFoundError),
    "no key": of_s3("NoSuchKey", 404, FileNotFoundError),
    "there already": of_s3("PreconditionFailed", 412, FileExistsError),
    "bad request": of_s3("InvalidArgument", 400, number=errno.EINVAL),
    "no credentials": botocore.exceptions.NoCredentialsError(),
    "web 404": of_the_web(404),
    "web 403": of_the_web(403),
    "permission": PermissionError(errno.EACCES, "no"),
    "refused for good": StoreRefused("no"),
    **{
        errno.errorcode[number]: OSError(number, "x")
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG)
    },
    "input": BadInput("no"),
    "block": BlockFailed("no"),
    "impossible": BlockImpossible("no"),
    "slip": KeyError("no"),
}


@pytest.mark.parametrize("name", TRANSIENT)
def test_what_may_pass_is_asked_again(name):
    clock, call = Clock(), Failing(TRANSIENT[name], times=3)
    assert clock.ask(call, seconds=60) == "answer"
    assert call.calls == 4


@pytest.mark.parametrize("name", PERMANENT)
def test_what_will_not_pass_is_raised_as_it_is_at_once(name):
    clock, call = Clock(), Failing(PERMANENT[name])
    with pytest.raises(type(PERMANENT[name])) as caught:
        clock.ask(call, seconds=60)
    assert caught.value is PERMANENT[name]
    assert (call.calls, clock.waits) == (1, [])


def test_waits_double_up_to_half_a_minute_and_their_second_half_is_random():
    clock = Clock()
    assert clock.ask(Failing(TimeoutError(), times=12), seconds=600) == "answer"
    longest = [min(LONGEST_WAIT, FIRST_WAIT * 2**i) for i in range(12)]
    for wait, most in zip(clock.waits, longest, strict=True):
        assert most / 2 <= wait <= most
    assert len({wait / most for wait, most in zip(clock.waits, longest, strict=True)}) == 12


def test_two_that_were_turned_away_together_come_back_apart():
    both = [Clock(), Clock()]
    for clock in both:
        clock.ask(Failing(TimeoutError(), times=8), seconds=600)
    assert not set(both[0].waits) & set(both[1].waits)


@pytest.mark.parametrize("seconds", [1, 60, 600])
def test_the_last_call_is_made_when_the_time_is_over(seconds):
    clock, call = Clock(), Failing(TRANSIENT["slow down"])
    with pytest.raises(StoreRefused) as caught:
        clock.ask(call, seconds)
    assert sum(clock.waits) == pytest.approx(seconds)
    assert str(caught.value).startswith(
        f"cannot read x: the store does not answer for {seconds} s ("
    )
    assert "said the store" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is call.error


def test_no_patience_is_a_single_call():
    clock, call = Clock(), Failing(TimeoutError())
    with pytest.raises(StoreRefused, match="does not answer"):
        clock.ask(call, seconds=0)
    assert (call.calls, clock.waits) == (1, [])


def test_the_time_counts_from_the_first_failure():
    clock = Clock()
    call = Failing(TimeoutError(), times=1)

    def slow():
        clock.now += 100
        return call()

    assert clock.ask(slow, seconds=50) == "answer"


def test_a_storm_is_logged_once_a_minute_however_many_wait(caplog):
    clock = Clock()
    turns = itertools.count()

    def call():
        if next(turns) % 4 == 3 and clock.now > 1600:
            return "answer"
        raise TRANSIENT["slow down"]

    with caplog.at_level(logging.WARNING, logger="orthoflow"):
        began = clock.now
        for _ in range(5):
            clock.ask(call, seconds=10_000)
    minutes = (clock.now - began) / 60
    assert len(clock.waits) > 20
    assert minutes / 2 <= len(caplog.records) <= minutes + 1
    assert "cannot read x: the store does not answer" in caplog.text
    assert {record.name for record in caplog.records} == {"orthoflow"}


def test_addresses_are_logged_without_their_signature(caplog):
    error = ConnectionError("no answer from 'https://host/a?X-Amz-Signature=hunter2', sorry")
    clock = Clock()
    with pytest.raises(StoreRefused) as caught:
        clock.ask(Failing(error), seconds=1)
    for text in (caplog.text, str(caught.value)):
        assert "https://host/a?..." in text
        assert "hunter2" not in text


def test_errors_of_libraries_that_are_not_loaded_are_known_by_their_shape():
    class AzureError(OSError):
        status_code = 503

    assert is_transient(AzureError("busy"))
    AzureError.status_code = 409
    assert not is_transient(AzureError("there"))


def test_the_real_clock_is_the_default(monkeypatch):
    monkeypatch.setattr(patience, "FIRST_WAIT", 0.001)
    assert patiently(Failing(TimeoutError(), times=1), seconds=5, doing="read x") == "answer"
