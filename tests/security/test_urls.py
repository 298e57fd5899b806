"""S10: addresses that lead to other machines, to this one's metadata, or through other protocols.

`tests/stores/test_urls.py` and `tests/models/test_load.py` have the plain cases.
"""

from __future__ import annotations

import http.server

import pytest

from orthoflow import hosts
from orthoflow.errors import BadInput, StoreRefused
from orthoflow.models.location import checked_location, read_location
from orthoflow.stores import urls, volumes
from orthoflow.stores.urls import is_inside, locate
from orthoflow.stores.volumes import find_volume
from tests.security.hostile import CANARY, refusal
from tests.web import served

METADATA = [
    *("169.254.169.254", "169.254.170.2", "2852039166", "0xA9FEA9FE", "0251.0376.0251.0376"),
    *("169.254.43518", "[fe80::1]", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]"),
    *("[fd00:ec2::254]", "100.100.100.200", "168.63.129.16", "metadata.google.internal"),
    *("METADATA.google.internal.", "metadata", "instance-data"),
    *("\uff11\uff16\uff19.254.169.254", "169\u3002254\u3002169\u3002254"),
]
LOOPBACK = [
    *("localhost", "LOCALHOST.", "127.0.0.1", "127.1", "2130706433", "0x7f.1", "[::1]"),
    *("[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "a.localhost"),
]
ELSEWHERE = [
    "example.org",
    "10.0.0.1",
    "store.internal:9000",
    "[2001:db8:0:0:0:0:0:1]",
    "metadata.org",
    "1.2",
]

CHAINS = [
    *("simplecache::s3://b/a.zarr", "zip://a.zarr::/tmp/a.zip", "filecache::http://h/a"),
    *("tar://x::s3://b/a.tar", "blockcache::file:///etc/passwd", "s3://b/a::zip://x"),
]
FOREIGN = [
    *("reference://x", "github://o:r@main/x", "git://x", "ftp://h/x", "sftp://h/x", "ssh://h/x"),
    *("smb://h/x", "hdfs://h/x", "webhdfs://h/x", "dask://x", "jupyter://h/x", "libarchive://x"),
    *("data:text/plain,x://", "dbfs://x", "hf://org/x", "dropbox://x", "gdrive://x", "oci://b/x"),
    *("generic://x", "dir://x", "cached://x", "local://x", "asynclocal://x", "arrow_hdfs://x"),
    *("javascript://x", "gopher://h/x", "ldap://h/x", "dict://h/x", "jar://x", "zip://x"),
]


@pytest.mark.parametrize("host", METADATA)
def test_s10_metadata_services_are_known_under_any_spelling(host):
    # What has "::" in it is refused as a chain before anything is looked at.
    chain = "::" in host
    for scheme in ("http", "https"):
        for port in ("", ":80", ":8080"):
            url = f"{scheme}://{host}{port}/latest/meta-data/a.tif"
            assert ("chains" if chain else "metadata service") in refusal(locate, url)
    assert "metadata service" in refusal(locate, "s3://b/a", {"endpoint_url": f"http://{host}/"})
    message = refusal(checked_location, f"https://{host}/model")
    assert ("chains" if chain else "this machine or its link") in message
    assert hosts.is_metadata(host.strip("[]"))


@pytest.mark.parametrize("host", LOOPBACK)
def test_s10_models_are_not_fetched_from_this_machine(host):
    assert hosts.is_this_machine(host.strip("[]"))
    message = refusal(checked_location, f"https://{host}/model")
    assert ("chains" if "::" in host else "this machine") in message
    # Stores on this machine are the user's own: a tunnel, MinIO, a test.
    if "::" not in host:
        locate(f"http://{host}/a.zarr")
    locate("s3://b/a", {"endpoint_url": f"http://{host}:9000"})


@pytest.mark.parametrize("host", ELSEWHERE)
def test_s10_other_hosts_are_let_through(host):
    locate(f"https://{host}/a.zarr")
    locate("s3://b/a", {"endpoint_url": f"https://{host}"})
    checked_location(f"https://{host}/model")


@pytest.mark.parametrize("url", [*CHAINS, *FOREIGN])
def test_s10_chains_and_other_protocols_are_refused(url):
    for call in (locate, find_volume, checked_location):
        refusal(call, url)


def test_s10_every_protocol_that_fsspec_knows_is_refused_but_ours():
    """A new version of fsspec, or a package beside it, brings new ones."""
    from fsspec.registry import known_implementations

    foreign = sorted(set(known_implementations) - set(urls.PROTOCOLS))
    assert len(foreign) > 30
    for protocol in foreign:
        refusal(locate, f"{protocol}://host/a.zarr")
        refusal(checked_location, f"{protocol}://host/model")


@pytest.mark.parametrize(
    "url",
    [
        *("s3://bucket/../other", "s3://bucket/a/../../other", "https://h/../x", "gs://b/.."),
        *("s3://", "s3:///", "https://", "http://[fe80:1/x"),
    ],
)
def test_s10_addresses_that_climb_or_name_nothing(url, monkeypatch):
    monkeypatch.setattr(urls.importlib.util, "find_spec", lambda _: object())
    refusal(locate, url)


@pytest.mark.parametrize(
    "endpoint",
    ["file:///etc", "ftp://h", "/etc", "h:9000", "http://", "http://[::1", "javascript:x", ""],
)
def test_s10_endpoints_are_addresses_of_stores(endpoint):
    refusal(locate, "s3://b/a", {"endpoint_url": endpoint})


@pytest.mark.parametrize("name", ["account_name", "account_host"])
@pytest.mark.parametrize(
    "text",
    ["evil.org/", "evil.org/?", "a@evil.org", "a:b@evil.org", "x#", "a b", "", "a\r\nHost: x"],
)
def test_s10_an_account_cannot_become_another_host(name, text, monkeypatch):
    """Azure's client makes an address of it, and sends a token there."""
    monkeypatch.setattr(urls.importlib.util, "find_spec", lambda _: object())
    assert "no storage account" in refusal(locate, "az://c/a", {name: text})
    assert "no storage account" in refusal(locate, "az://c/a", {"account_host": "169.254.169.254"})
    locate("az://c/a", {"account_name": "devstoreaccount1", "account_host": "127.0.0.1:10000"})


def test_s10_an_output_inside_the_input_is_known_through_links_and_dots(tmp_path):
    (tmp_path / "in.zarr").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in.zarr")
    for path in ("link/out", "x/../in.zarr/out", "./in.zarr", "link"):
        assert is_inside(f"{tmp_path}/{path}", tmp_path / "in.zarr")


class _Redirecting(http.server.BaseHTTPRequestHandler):
    """Says that everything is there, and sends who wants it to a signed address that fails."""

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def do_GET(self):
        if "Signature" in self.path:
            self.send_response(int(self.path.partition("status=")[2]))
        else:
            self.send_response(302)
            address = f"http://127.0.0.1:{self.server.server_port}/x"
            status = self.path.split("/")[1]
            signed = f"{address}?X-Amz-Signature={CANARY}&status={status}"
            self.send_header("Location", signed)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def redirecting():
    with served(_Redirecting) as address:
        yield address


@pytest.mark.parametrize("status", [400, 403, 404, 500, 503])
def test_s10_the_address_of_a_redirection_is_not_shown(redirecting, status, monkeypatch):
    """Web servers of repositories redirect to signed addresses of their buckets."""
    monkeypatch.setattr(volumes, "START_PATIENCE", 0.0)
    kinds = (BadInput, StoreRefused, FileNotFoundError)
    messages = [
        refusal(find_volume, f"{redirecting}/{status}/{name}", kinds=kinds)
        for name in ("a.npy", "a.zarr", "a.tif")
    ]
    card = f"{redirecting}/{status}/card.yaml"
    messages.append(refusal(read_location, card, limit=100, kinds=kinds))
    if status == 500:  # those that repeat what the library says
        assert any("x?..." in message for message in messages)
