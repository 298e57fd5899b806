"""An HTTP proxy in front of an object store: it counts requests and, on demand, gets in the way.

::

    def test_something(faulty):
        url, proxy = faulty
        fault = proxy.inject("status", status=503, keys="*/c/*", methods={"PUT"}, count=3)
        ...
        assert fault.hits == 3
        assert len(proxy.seen("GET", keys="*/v.zarr/c/*", suffix=True)) == 1

The client's Host header travels on, so signatures stay valid. Other processes that were told the
proxy's address pass through it as well, and faults may change at any time.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import unquote, urlsplit

import pytest

from tests.s3 import new_bucket

Kind = Literal["status", "reset", "lose", "truncate", "hang", "delay"]

_CODES = {
    403: ("AccessDenied", "Access Denied"),
    404: ("NoSuchKey", "The specified key does not exist."),
    500: ("InternalError", "We encountered an internal error. Please try again."),
    503: ("SlowDown", "Please reduce your request rate."),
}
_ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>{}</Message></Error>'
_OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "expect", "te", "upgrade"}


@dataclass(slots=True)
class Request:
    """One request as it came, and how it went."""

    method: str
    path: str
    """Bucket, and with a slash the key, decoded."""
    query: str
    range: str | None
    conditional: bool
    """Whether it asks to store only where nothing is."""
    size: int
    """Bytes of its body."""
    began: float
    """On the clock `time.monotonic`."""
    status: int | None = None
    """What the client was told; None while it waits, or where it never was."""
    fault: Fault | None = None

    @property
    def bucket(self):
        return self.path.partition("/")[0]

    @property
    def key(self):
        return self.path.partition("/")[2]

    @property
    def suffix(self):
        return (self.range or "").startswith("bytes=-")


@dataclass(slots=True, eq=False)
class Fault:
    """What happens to requests that match; made by `Proxy.inject`."""

    kind: Kind
    methods: frozenset[str] | None
    keys: str
    status: int
    code: str | None
    seconds: float
    share: float
    left: int | None
    until: float | None
    dice: random.Random = field(repr=False)
    hits: int = 0

    def strikes(self, request):
        """Whether this request is hit; counts it if so."""
        if self.methods is not None and request.method not in self.methods:
            return False
        if not fnmatchcase(request.path, self.keys):
            return False
        if self.left == 0 or (self.until is not None and time.monotonic() > self.until):
            return False
        if self.share < 1 and self.dice.random() >= self.share:
            return False
        if self.left is not None:
            self.left -= 1
        self.hits += 1
        return True


class Proxy:
    """A server on loopback in front of `endpoint`; use it in a with statement."""

    def __init__(self, endpoint):
        self.requests: list[Request] = []
        self._backend = urlsplit(endpoint)
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()  # requests that hang
        self._server.shutdown()
        self._thread.join()
        self._server.cut_connections()
        self._server.server_close()

    def inject(
        self,
        kind: Kind,
        *,
        methods=None,
        keys="*",
        status=503,
        code=None,
        seconds=0.0,
        share=1.0,
        count=None,
        lasting=None,
        seed=0,
    ):
        """Let a fault happen from now on; the first that matches a request hits it.

        Parameters
        ----------
        kind
            "status": the store is not asked, the client gets `status` with an S3 error `code`;
            "reset": the store is not asked, the connection is reset;
            "lose": the store does as asked, and then the connection is reset;
            "truncate": half of the body, and then the end of the connection;
            "hang": nothing for `seconds`, then a reset, and the store is never asked;
            "delay": the request waits for `seconds`, and then goes its way.
        methods, keys
            Of which requests: "GET", ...; a shell pattern of "bucket/key".
        share, count, lasting
            How many of those: a share (drawn by `seed`), so many at most, for so many seconds.
        """
        until = None if lasting is None else time.monotonic() + lasting
        chosen = None if methods is None else frozenset(methods)
        dice = random.Random(seed)
        fault = Fault(kind, chosen, keys, status, code, seconds, share, count, until, dice)
        with self._lock:
            self._faults.append(fault)
        return fault

    def heal(self, *faults):
        """End these faults, or all."""
        with self._lock:
            self._faults = [one for one in self._faults if faults and one not in faults]

    def seen(self, *methods, keys="*", ranged=None, suffix=None, hit=None):
        """Requests so far, by method, pattern of "bucket/key", kind of range, fault or none."""
        with self._lock:
            requests = list(self.requests)
        return [
            one
            for one in requests
            if (not methods or one.method in methods)
            and fnmatchcase(one.path, keys)
            and ranged in {None, one.range is not None}
            and suffix in {None, one.suffix}
            and hit in {None, one.fault is not None}
        ]

    def forget(self):
        """Count from zero."""
        with self._lock:
            self.requests.clear()

    def note(self, request):
        """Keep a request, and say which fault hits it."""
        with self._lock:
            self.requests.append(request)
            request.fault = next((one for one in self._faults if one.strikes(request)), None)
        return request.fault

    def wait(self, seconds):
        """Let a request wait, unless the proxy ends."""
        self._stopped.wait(seconds)

    def ask(self, handler, body):
        """What the store answers: status, headers, body."""
        backend = HTTPConnection(self._backend.hostname, self._backend.port, timeout=60)
        try:
            backend.putrequest(
                handler.command, handler.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in handler.headers.items():
                if name.lower() not in _OF_ONE_CONNECTION | {"content-length"}:
                    backend.putheader(name, value)
            if body or handler.command in {"PUT", "POST"}:
                backend.putheader("Content-Length", str(len(body)))
            backend.endheaders(body)
            answer = backend.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            backend.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    proxy: Proxy

    def __init__(self, *arguments):
        self._open = set()
        super().__init__(*arguments)

    def process_request(self, request, client_address):
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self._open.discard(request)
        super().shutdown_request(request)

    def cut_connections(self):
        """Clients keep connections open; their threads end with them."""
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address):
        """A client that goes away is no error of the proxy."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def handle_one_request(self):
        self.close_connection = True
        self.raw_requestline = self.rfile.readline(65537)
        if self.raw_requestline and self.parse_request():
            self._serve()

    def log_message(self, *_):
        pass

    def _serve(self):
        body = self._body()
        address = urlsplit(self.path)
        request = Request(
            method=self.command,
            path=unquote(address.path).strip("/"),
            query=address.query,
            range=self.headers.get("Range"),
            conditional="If-None-Match" in self.headers,
            size=len(body),
            began=time.monotonic(),
        )
        fault = self.server.proxy.note(request)
        kind = fault.kind if fault else None
        if kind in {"hang", "delay"}:
            self.server.proxy.wait(fault.seconds)
        if kind in {"reset", "hang"}:
            self._reset()
            return
        status, headers, content = (
            _refusal(fault) if kind == "status" else self.server.proxy.ask(self, body)
        )
        if kind == "lose":
            self._reset()
            return
        request.status = status
        self._answer(status, headers, content, cut=kind == "truncate")

    def _body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _answer(self, status, headers, content, *, cut):
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _OF_ONE_CONNECTION | {"content-length"}:
                self.send_header(name, value)
        stated = {name.lower(): value for name, value in headers}.get("content-length")
        if self.command == "HEAD" and stated is not None:
            self.send_header("Content-Length", stated)
        elif status not in {204, 304}:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = cut

    def _reset(self):
        # Nothing unsent is delivered, and the other side is told so: RST in place of FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True


def _refusal(fault):
    code, message = _CODES.get(fault.status, ("InternalError", "Injected"))
    content = _ERROR.format(fault.code or code, message).encode()
    return fault.status, [("Content-Type", "application/xml")], content


@pytest.fixture
def faulty(request):
    """A bucket's URL through a proxy, and the proxy.

    In front of moto, or of another endpoint:
    ``@pytest.mark.parametrize("faulty", ["ceph"], indirect=True)``.
    """
    endpoint = request.getfixturevalue(getattr(request, "param", "moto"))
    with Proxy(endpoint.url) as proxy, endpoint.at(proxy.url).connected():
        url = new_bucket()
        proxy.forget()
        yield url, proxy
