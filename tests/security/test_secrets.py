"""S11: a secret that lies where secrets belong, the environment, is found nowhere else.

The environment holds canaries: as the credentials that the store is really used with, and in
variables of other tools. Then a run is made from a bucket to a bucket, and everything that leaves
the process is searched: what is sent to a scheduler, stored, logged, shown, returned and raised.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import traceback
from contextlib import suppress

import cloudpickle
import dask
import fsspec
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

import orthoflow as of
from orthoflow import cli, graph, pools
from orthoflow import job as jobs
from orthoflow.errors import BadInput, BlockFailed, StoreRefused
from orthoflow.geometry.box import Box
from orthoflow.inputs import find_source
from orthoflow.models.card import Card, ModelRef
from orthoflow.models.load import load_model
from orthoflow.models.location import checked_location
from orthoflow.options import Options
from orthoflow.plan import plan_run
from orthoflow.stores import volumes
from orthoflow.stores.urls import display_url, exists, locate, probe_write
from orthoflow.stores.volumes import find_volume, read_box, summarize
from tests import nets
from tests.s3 import close_sessions, free_port
from tests.security.hostile import CANARY, refusal

SHAPE = (16, 24, 24)
OPTIONS = {"chunk": 8, "block": (8, 24, 24), "normalization": "zscore", "levels": 2}
OTHERS = {
    name: f"{CANARY}-{name}"
    for name in (
        *("AWS_SESSION_TOKEN", "AZURE_STORAGE_KEY", "AZURE_STORAGE_CONNECTION_STRING"),
        *("GOOGLE_API_KEY", "HF_TOKEN", "GITHUB_TOKEN", "DASK_GATEWAY__AUTH__KWARGS__PASSWORD"),
    )
}


def finds(content):
    """Whether the canary is in bytes, in text, or in an object as it would travel or be shown."""
    if isinstance(content, bytes):
        return CANARY.encode() in content
    if isinstance(content, str):
        return CANARY in content
    return finds(cloudpickle.dumps(content)) or finds(repr(content)) or finds(str(content))


def test_s11_the_search_finds_what_is_there():
    """s3fs keeps a secret that it is given, and pickles it."""
    assert finds(fsspec.filesystem("s3", key="k", secret=CANARY, skip_instance_cache=True))
    assert finds({"a": [CANARY]})
    assert finds(lambda: CANARY)
    assert not finds({"a": ["canary"]})


@pytest.fixture
def source(bucket, monkeypatch):
    """A volume in a bucket, in an environment full of canaries."""
    zarr.create_array(f"{bucket}/in.zarr", data=nets.blobs(SHAPE), chunks=(8, 8, 8))
    for name, value in OTHERS.items():
        monkeypatch.setenv(name, value)
    return f"{bucket}/in.zarr"


@pytest.fixture
def logged(caplog):
    """Everything that is logged below "orthoflow"."""
    caplog.set_level(logging.DEBUG, "orthoflow")
    return caplog


@pytest.mark.s3
def test_s11_what_is_known_of_a_run_holds_no_secret(source, bucket):
    """References, plans, jobs and lazy graphs travel; anything of them may be printed."""
    model = nets.plain()
    wishes = Options.from_mapping(OPTIONS)
    found = find_source(source, wishes)
    plan = plan_run(found.facts, model.card, wishes)
    job = jobs.Job(plan, model.ref(), found.ref, None, f"{bucket}/out.zarr", "ab" * 32)
    volume = of.open_volume(source)
    logits = of.predict(volume, model, **OPTIONS)
    labels = of.segment(source, model, **OPTIONS)
    assert read_box(found.ref, Box.whole(SHAPE)).any()  # with credentials, which are in use
    for one in (found.ref, found, plan, plan.to_dict(), job, volume, logits, labels):
        assert not finds(one)
    for lazy in (volume.data, logits["consensus"].data, labels.data):
        assert len(dask.base.collections_to_expr([lazy]).__dask_graph__()) > 1
        assert not finds(dict(lazy.__dask_graph__()))
    assert labels[:8].compute().shape == (8, *SHAPE[1:])


@pytest.fixture
def sent(monkeypatch):
    """Every call that goes to a scheduler, and every result that comes back, as they travel."""
    found = []
    submit, outcome = graph.Submit.task, pools.Workers.outcome

    def submitted(self, *call):
        found.append(cloudpickle.dumps(call))
        return submit(self, *call)

    def returned(self, *which):
        result = outcome(self, *which)
        found.append(pickle.dumps(result))
        return result

    monkeypatch.setattr(graph.Submit, "task", submitted)
    monkeypatch.setattr(pools.Workers, "outcome", returned)
    return found


def stored_in(target):
    """Names of all objects of an output, and their contents."""
    fs = fsspec.filesystem("s3")
    fs.invalidate_cache()
    stored = {path: fs.cat_file(path) for path in fs.find(target)}
    names = [path.rpartition("/")[2] for path in stored]
    assert {"run.json", "report.json"} <= set(names)
    assert any("/orthoflow/markers/" in path for path in stored)
    return [*stored, *stored.values()]


@pytest.mark.s3
def test_s11_a_run_leaves_no_secret_behind(source, bucket, logged, capfd):
    told = []
    common = {"model": nets.plain(), "progress": told.append, "cluster": "synchronous"}
    report = of.run(source, f"{bucket}/out.zarr", **common, **OPTIONS)
    assert (report["failed"], report["blocks"]) == ({}, 2)
    for content in (*stored_in(f"{bucket}/out.zarr"), *map(repr, told), json.dumps(report)):
        assert not finds(content)
    assert not finds(logged.text)
    assert not finds("".join(capfd.readouterr()))


@pytest.mark.s3
@pytest.mark.slow
def test_s11_workers_are_sent_no_secret(source, bucket, sent, capfd):
    """They find it where it belongs, as this process does."""
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(host="127.0.0.1", **options) as cluster, Client(cluster) as client:
        report = of.run(source, f"{bucket}/out.zarr", model=nets.plain(), client=client, **OPTIONS)
        assert client.submit(secret_of_the_environment).result() == CANARY
        told = [client.scheduler_info(n_workers=-1), client.get_scheduler_logs()]
        told += client.get_worker_logs().values()
    assert report["blocks"] == 2
    assert len(sent) >= 2 * report["blocks"]
    for content in (*sent, *map(str, told), *stored_in(f"{bucket}/out.zarr")):
        assert not finds(content)
    assert not finds("".join(capfd.readouterr()))


def secret_of_the_environment():
    return os.environ["AWS_SECRET_ACCESS_KEY"]


@pytest.mark.s3
def test_s11_what_commands_print_holds_no_secret(source, bucket, capsys):
    target = f"{bucket}/out.zarr"
    typed = ["run", source, target, "--model", "demo:semantic", "--cluster", "synchronous"]
    more = ["--block", "16,24,24", "--chunk", "8", "--quiet"]
    for command in (
        ["info", source, "--json"],
        ["plan", source, "--divisor", "8", "--json"],
        [*typed, *more, "--json"],
        ["status", target, "--json"],
        ["verify", target],
        ["doctor", f"{bucket}/else"],
    ):
        with suppress(SystemExit):
            cli.main(command)
    printed = "".join(capsys.readouterr())
    assert "blocks_planned" in printed
    assert not finds(printed)


# ------------------------------------------------------------------------- secrets in wrong places

ADDRESSES = [
    f"s3://key:{CANARY}@bucket/in.zarr",
    f"https://me:{CANARY}@host/in.zarr",
    f"https://{CANARY}@host/in.zarr",
    f"https://host/a.tif?X-Amz-Signature={CANARY}",
    f"https://host/a.tif?X-Goog-Signature={CANARY}&x=1",
    f"https://host/a.tif?sv=1&sig={CANARY}",
    f"https://host/a.tif?access_token={CANARY}",
    f"https://host/a.tif?API_KEY={CANARY}",
    f"simplecache::https://me:{CANARY}@host/a.zarr",
    f"ftp://me:{CANARY}@host/a.zarr",
]


@pytest.mark.parametrize("url", ADDRESSES)
def test_s11_an_address_with_a_secret_is_refused_and_not_repeated(url, tmp_path):
    for call in (
        lambda: find_volume(url),
        lambda: summarize(url),
        lambda: of.open_volume(url),
        lambda: of.make_plan(url, "demo:semantic"),
        lambda: of.run(np.zeros(SHAPE, np.uint8), url, model=nets.plain()),
        lambda: of.run(url, tmp_path / "out.zarr", model=nets.plain()),
        lambda: exists(url),
        lambda: probe_write(url),
        lambda: checked_location(url),
        lambda: load_model(url),
        lambda: load_model(f"{url}.ts", trust="sha256:00"),
    ):
        refusal(call)
    assert not finds(display_url(url))
    assert list(tmp_path.iterdir()) == []


OPTIONS_WITH_SECRETS = {
    "key": {"key": CANARY},
    "secret": {"secret": CANARY},
    "token": {"token": CANARY},
    "password": {"password": CANARY},
    "account_key": {"account_key": CANARY},
    "connection_string": {"connection_string": CANARY},
    "sas_token": {"sas_token": CANARY},
    "client_kwargs": {"client_kwargs": CANARY},
    "endpoint_url": {"endpoint_url": f"http://me:{CANARY}@127.0.0.1:9"},
    "signed": {"endpoint_url": f"http://127.0.0.1:9/?X-Amz-Signature={CANARY}"},
}


@pytest.mark.parametrize("kind", OPTIONS_WITH_SECRETS)
def test_s11_a_storage_option_with_a_secret_is_refused_and_not_repeated(kind, tmp_path):
    options = OPTIONS_WITH_SECRETS[kind]
    voxels = np.zeros(SHAPE, np.uint8)
    for call in (
        lambda: locate("s3://b/a", options),
        lambda: find_volume("s3://b/a.zarr", storage_options=options),
        lambda: of.open_volume("s3://b/a.zarr", storage_option=options),
        # Without a store nobody asks for them, but a plan would keep and print them.
        lambda: of.make_plan(voxels, nets.plain(), storage_option=options),
        lambda: of.predict(voxels, nets.plain(), storage_option=options),
        lambda: of.run(voxels, tmp_path / "out.zarr", model=nets.plain(), storage_option=options),
    ):
        assert "storage option" in refusal(call)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "pairs", [[f"key={CANARY}", "oops"], f"key={CANARY},oops", f"oops,secret={CANARY}"]
)
def test_s11_options_that_cannot_be_read_do_not_repeat_their_neighbours(pairs):
    message = refusal(Options.from_mapping, {"storage_option": pairs})
    assert "oops" in message


def test_s11_typed_secrets_are_not_repeated(capsys, tmp_path):
    zarr.create_array(tmp_path / "in.zarr", data=nets.blobs(SHAPE))
    source = str(tmp_path / "in.zarr")
    for words in (
        ["run", source, str(tmp_path / "o"), "--model", "demo:semantic", "--storage-option"],
        ["plan", source, "--divisor", "8", "--storage-option"],
        ["info", source, "--storage-option"],
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main([*words, f"secret={CANARY}"])
        assert stop.value.code == 2
    printed = "".join(capsys.readouterr())
    assert printed.count("storage option 'secret'") == 3
    assert not finds(printed)


# ------------------------------------------------------------------------- secrets in errors


def test_s11_errors_of_a_store_that_is_not_there_show_no_secret(monkeypatch, logged):
    """An endpoint of the environment may hold a user and a password; ours to hide, too."""
    close_sessions("s3")
    monkeypatch.setattr(volumes, "START_PATIENCE", 0.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://me:{CANARY}@127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for anon in ("true", "false"):
        options = {"anon": anon}
        if anon == "false":
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
        for call in (
            lambda: find_volume("s3://b/a.zarr", storage_options=options),  # noqa: B023
            lambda: probe_write("s3://b/out", options),  # noqa: B023
            lambda: load_model("s3://b/model"),
        ):
            refusal(call, kinds=(StoreRefused, BadInput))
    close_sessions("s3")
    assert not finds(logged.text)


@pytest.mark.s3
@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_s11_errors_of_a_store_that_refuses_show_no_secret(status, faulty, logged, monkeypatch):
    """What a store says, at the start, of a block, and with the whole chain of causes."""
    url, proxy = faulty
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(volumes, "START_PATIENCE", 0.0)
    close_sessions("s3")
    zarr.create_array(f"{url}/in.zarr", data=nets.blobs(SHAPE), chunks=(8, 8, 8))
    ref = find_volume(f"{url}/in.zarr")
    proxy.inject("status", status=status, count=10_000)
    for call in (
        lambda: read_box(ref, Box.whole(SHAPE)),
        lambda: probe_write(f"{url}/out"),
        lambda: load_model(f"{url}/model"),
    ):
        with pytest.raises((StoreRefused, BadInput, BlockFailed, OSError)) as caught:
            call()
        shown = "".join(traceback.format_exception(caught.value))
        assert not finds(shown)
        with suppress(TypeError, AttributeError):  # some errors of libraries do not travel
            assert not finds(pickle.dumps(caught.value))
    assert not finds(logged.text)


@pytest.mark.s3
def test_s11_a_wrong_key_is_not_repeated(rclone, monkeypatch):
    """A store that checks keys says which one it does not know, not what its secret was."""
    with rclone.connected():
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"wrong-{CANARY}")
        close_sessions("s3")
        message = refusal(probe_write, "s3://anything/out", kinds=StoreRefused)
        assert "credentials rejected" in message


@pytest.mark.s3
def test_s11_a_model_in_memory_is_the_only_payload(source):
    """What is sent with a model from a file is its name and digest."""
    ref = load_model("demo:semantic").ref()
    assert ref.payload is None
    assert len(cloudpickle.dumps(ref)) < 4096
    assert not finds(ModelRef("d", source, Card("c", outputs=2, divisor=1)))
