"""The proxy of the tests does what it says: what arrives, what is counted, what goes wrong."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import fsspec
import pytest

from tests.proxy import Proxy

CONTENT = bytes(range(200))


class Backend(BaseHTTPRequestHandler):
    """Notes what reaches it, and answers with the same bytes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.arrived.append((self.command, self.path, dict(self.headers), body))
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.send_header("X-Of-The-Store", "yes")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(CONTENT)

    def do_PUT(self):
        self.do_GET()

    def do_HEAD(self):
        self.do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def backend():
    with ThreadingHTTPServer(("127.0.0.1", 0), Backend) as server:
        server.arrived = []
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(backend):
    with Proxy(f"http://127.0.0.1:{backend.server_port}") as one:
        yield one


@pytest.fixture
def client(proxy):
    one = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=30)
    yield one
    one.close()


def call(client, method, path, body=None, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    client.request(method, path, body=body, headers=named)
    answer = client.getresponse()
    return answer.status, answer.read()


def test_what_is_asked_arrives_unchanged(client, backend):
    path = "/bucket/a%20b/c?list-type=2&prefix=x%2Fy"
    assert call(client, "GET", path, X_Signed="1", Host="store.example") == (200, CONTENT)
    assert call(client, "PUT", "/bucket/k", body=b"voxels") == (200, CONTENT)
    client.putrequest("PUT", "/bucket/chunked")
    client.putheader("Transfer-Encoding", "chunked")
    client.endheaders()
    client.send(b"3\r\nvox\r\n3;x=y\r\nels\r\n0\r\nTrailer: 1\r\n\r\n")
    assert client.getresponse().read() == CONTENT
    client.request("HEAD", "/bucket/k")
    answer = client.getresponse()
    assert (answer.read(), answer.headers["Content-Length"]) == (b"", str(len(CONTENT)))
    assert answer.headers["X-Of-The-Store"] == "yes"
    first, second, third, _ = backend.arrived
    assert first[:2] == ("GET", path)
    assert (first[2]["Host"], first[2]["X-Signed"]) == ("store.example", "1")
    assert second[3] == third[3] == b"voxels"


def test_requests_are_counted_by_what_they_ask(client, proxy):
    socket = None
    for method, path, headers in (
        ("GET", "/b/v.zarr/c/0", {"Range": "bytes=-20"}),
        ("GET", "/b/v.zarr/c/0", {"Range": "bytes=0-9"}),
        ("GET", "/b/v.zarr/c/1%2F2", {}),
        ("GET", "/b?list-type=2&prefix=v.zarr%2F", {}),
        ("HEAD", "/b/v.zarr/c/0", {}),
        ("PUT", "/b/m", {"If_None_Match": "*"}),
    ):
        call(client, method, path, **headers)
        assert socket in {None, client.sock}, "the connection was not kept"
        socket = client.sock
    chunks = "b/v.zarr/c/*"
    assert len(proxy.seen("GET", keys=chunks)) == 3
    assert len(proxy.seen("GET", keys=chunks, ranged=True)) == 2
    assert len(proxy.seen(keys=chunks, suffix=True)) == 1
    assert [one.key for one in proxy.seen("GET", ranged=False)] == ["v.zarr/c/1/2", ""]
    assert [one.query for one in proxy.seen("GET", keys="b")] == ["list-type=2&prefix=v.zarr%2F"]
    assert [one.path for one in proxy.seen("HEAD", "PUT")] == ["b/v.zarr/c/0", "b/m"]
    assert [one.conditional for one in proxy.seen("HEAD", "PUT")] == [False, True]
    assert {one.status for one in proxy.seen()} == {200}
    proxy.forget()
    assert proxy.seen() == []


def test_a_status_is_an_s3_error_and_the_store_is_not_asked(client, proxy, backend):
    fault = proxy.inject("status", keys="b/hit*", methods={"GET", "HEAD"}, count=2)
    assert call(client, "GET", "/b/missed")[0] == 200
    assert call(client, "PUT", "/b/hit")[0] == 200
    status, body = call(client, "GET", "/b/hit")
    assert status == 503
    assert b"<Error><Code>SlowDown</Code>" in body
    assert call(client, "HEAD", "/b/hit2") == (503, b"")
    assert call(client, "GET", "/b/hit")[0] == 200
    assert fault.hits == 2
    assert [one.status for one in proxy.seen(hit=True)] == [503, 503]
    assert [path for _, path, *_ in backend.arrived] == ["/b/missed", "/b/hit", "/b/hit"]
    proxy.inject("status", status=403, code="ExpiredToken")
    status, body = call(client, "GET", "/b/x")
    assert (status, b"<Code>ExpiredToken</Code>" in body) == (403, True)
    proxy.heal()
    assert call(client, "GET", "/b/x")[0] == 200


def test_a_share_of_requests_is_hit_and_always_the_same(client, proxy):
    runs = []
    for _ in range(2):
        fault = proxy.inject("status", share=0.3, seed=7)
        runs.append([call(client, "GET", f"/b/{number}")[0] for number in range(100)])
        assert 15 < fault.hits < 45
        proxy.heal(fault)
    assert runs[0] == runs[1]


def test_a_fault_ends_after_its_time(client, proxy):
    fault = proxy.inject("status", lasting=3600)
    assert call(client, "GET", "/b/x")[0] == 503
    fault.until = time.monotonic() - 1
    assert call(client, "GET", "/b/x")[0] == 200


@pytest.mark.parametrize(("kind", "asked"), [("reset", 0), ("hang", 0), ("lose", 1)])
def test_connections_are_reset(client, proxy, backend, kind, asked):
    proxy.inject(kind, count=1)
    with pytest.raises(ConnectionResetError):
        call(client, "PUT", "/b/k", body=b"x")
    assert len(backend.arrived) == asked
    assert [one.status for one in proxy.seen()] == [None]
    client.close()
    assert call(client, "PUT", "/b/k", body=b"x")[0] == 200


def test_a_body_ends_in_the_middle(client, proxy):
    proxy.inject("truncate", count=1)
    with pytest.raises(http.client.IncompleteRead) as caught:
        call(client, "GET", "/b/k")
    assert caught.value.partial == CONTENT[: len(CONTENT) // 2]
    client.close()
    assert call(client, "GET", "/b/k") == (200, CONTENT)


def test_a_delayed_request_arrives_later_and_a_hung_one_never(client, proxy, backend):
    proxy.inject("delay", seconds=0.2, count=1)
    client.request("PUT", "/b/k", body=b"x")
    while not proxy.seen():
        time.sleep(0.01)
    assert backend.arrived == []
    assert client.getresponse().read() == CONTENT
    client.timeout = 0.1
    client.close()
    proxy.inject("hang", seconds=3600)
    with pytest.raises(TimeoutError):
        call(client, "PUT", "/b/k", body=b"x")
    assert len(backend.arrived) == 1  # and the proxy ends at once nevertheless


@pytest.mark.s3
@pytest.mark.parametrize("faulty", ["moto", "ceph", "rclone"], indirect=True)
def test_signatures_hold_through_the_proxy(faulty):
    url, proxy = faulty
    fs = fsspec.filesystem("s3")
    fs.pipe_file(f"{url}/a b/é.bin", CONTENT)
    assert fs.cat_file(f"{url}/a b/é.bin", start=-20) == CONTENT[-20:]
    key = f"{url[5:]}/a b/é.bin"
    assert [one.size for one in proxy.seen("PUT", keys=key)] == [len(CONTENT)]
    assert len(proxy.seen("GET", keys=key, suffix=True)) == 1
    assert fs.find(url) == [key]
    fs.rm(f"{url}/a b", recursive=True)
    assert fs.find(url) == []


@pytest.mark.s3
def test_other_processes_pass_through_it_too(faulty):
    url, proxy = faulty
    fault = proxy.inject("status", methods={"PUT"}, count=2)
    code = f"import fsspec; fsspec.filesystem('s3').pipe_file('{url}/k', b'x')"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert fault.hits == 2
    assert [one.status for one in proxy.seen("PUT", keys="*/k")] == [503, 503, 200]
