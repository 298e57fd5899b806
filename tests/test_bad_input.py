"""What cannot work is refused: one line with argument, value and remedy, and nothing is created.

A number is a row of the bad-input matrix (docs/reliability.md); 0 is what goes beyond it. Rows that
need more than a command line are functions whose names hold the number.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster

from orthoflow import cli
from orthoflow.stores.ome import read_level
from tests.commands import call, listing, run_line
from tests.s3 import close_sessions

PROGRAM = Path(sys.executable).with_name("orthoflow")
ROWS = range(1, 39)


# Row, what is wrong with it, what is typed, and words that the one line on stderr must hold.
CASES = [
    (1, "no such path", run_line(volume="nowhere.zarr"), ["nowhere.zarr", "zarr.json", ".zarray"]),
    (1, "no volume", run_line(volume="notes.txt"), ["notes.txt", "looked for"]),
    (1, "empty folder", run_line(volume="nothing.zarr"), ["nothing.zarr", "zarr.json", ".zarray"]),
    (1, "info", ["info", "nowhere.zarr"], ["nowhere.zarr", "looked for"]),
    (1, "protocol", run_line(volume="ftp://host/in.zarr"), ["ftp", "supported", "s3"]),
    (2, "several arrays", run_line(volume="group.zarr"), ["group.zarr", "left, right", "--array"]),
    (2, "no such array", run_line("--array", "x", volume="group.zarr"), ["'x'", "left"]),
    (3, "two axes", run_line(volume="plane.zarr"), ["2 axes", "z, y and x"]),
    (3, "five axes", run_line(volume="five.zarr"), ["5 axes", "--axes tczyx"]),
    (4, "unnamed axes", run_line(volume="four.zarr"), ["4 axes", "--axes czyx"]),
    (4, "no such axes", run_line("--axes", "xyy"), ["xyy", "3 different letters"]),
    (5, "time", run_line(volume="movie.zarr"), ["3 time points", "--time", "0 to 2"]),
    (6, "extent 0", run_line(volume="empty.zarr"), ["extent 0", "axis z"]),
    (7, "complex", run_line(volume="complex.zarr"), ["complex64", "float32"]),
    (7, "bool", run_line(volume="bool.zarr"), ["bool", "uint8"]),
    (7, "int64", run_line(volume="int64.zarr"), ["int64", "int32"]),
    (
        8,
        "0 to 1 for 8 bits",
        run_line(volume="unit.zarr", model="eight-bit"),
        ["unit.zarr", "0.005 to 0.985", "expects about 49 to 244.6", "normalization zscore"],
    ),
    (
        9,
        "NaN in the sample",
        run_line(volume="nan.zarr", model="by-volume"),
        ["nan.zarr has 2 values", "nan_policy=zero"],
    ),
    (11, "channel", run_line("--channel", "3", volume="rgb.zarr"), ["channel 3", "0 to 2"]),
    (12, "divisor", run_line("--tile", "30"), ["tile 30", "divisor 4", "28 or 32"]),
    (13, "overlap 1", run_line("--overlap", "1"), ["overlap 1", "too large", "0 to 0.9"]),
    (13, "overlap below 0", run_line("--overlap", "-0.1"), ["overlap -0.1", "0 to 0.9"]),
    (13, "overlap a word", run_line("--overlap", "half"), ["overlap", "half", "a number"]),
    (
        14,
        "block cuts chunks",
        run_line("--chunk", "8", "--block", "12"),
        ["block 12,12,12", "one object", "8 or 16"],
    ),
    (
        16,
        "shard cuts chunks",
        run_line("--chunk", "8", "--shard", "12"),
        ["shard 12", "8 or 16"],
    ),
    (
        16,
        "block cuts shards",
        run_line("--chunk", "4", "--shard", "8", "--block", "12"),
        ["block 12,12,12", "one object", "8 or 16"],
    ),
    (
        16,
        "no shards in 0.4",
        run_line("--ome-version", "0.4", "--chunk", "8", "--shard", "16"),
        ["0.4", "use 0.5"],
    ),
    (17, "exists", run_line(output="other.zarr"), ["other.zarr exists", "overwrite"]),
    (17, "not ours", run_line("--overwrite", output="other.zarr"), ["other.zarr", "by hand"]),
    (17, "below a file", run_line(output="notes.txt/o.zarr"), ["notes.txt is a file"]),
    (19, "output is input", run_line(output="in.zarr"), ["in.zarr", "elsewhere"]),
    (19, "in the input", run_line(output="in.zarr/out"), ["in.zarr/out", "elsewhere"]),
    (19, "over it", run_line("--overwrite", output="in.zarr"), ["in.zarr", "elsewhere"]),
    (
        19,
        "around it",
        run_line("--overwrite", volume="group.zarr/left", output="group.zarr"),
        ["group.zarr/left", "elsewhere"],
    ),
    (21, "0", run_line("--voxel-size", "0,1,1"), ["voxel_size 0,1,1", "positive"]),
    (21, "below 0", run_line("--voxel-size", "-1"), ["voxel_size -1", "positive"]),
    (21, "stated 0", run_line(volume="flat.zarr"), ["flat.zarr", "(0.0, 1.0,", "--voxel-size"]),
    (21, "of two", run_line("--voxel-size", "1,2"), ["voxel_size 1,2", "z,y,x"]),
    (22, "planes", run_line("--anisotropy", "1e12"), ["axis z", "1.2e+13", "2^31"]),
    (22, "no plane", run_line("--downsample", "100"), ["axis z", "0.12", "between 1"]),
    (23, "unknown", run_line("--orientations", "ab"), ["'ab'", "xy, xz, yz"]),
    (23, "none", run_line("--orientations", ""), ["empty", "xy, xz, yz"]),
    (23, "twice", run_line("--orientations", "xy,xy"), ["xy,xy", "once"]),
    (23, "3-D", run_line("--orientations", "zyx"), ["'zyx'", "2-D"]),
    (24, "4", run_line("--consensus", "vote", "--votes", "4"), ["votes 4", "1 to 3"]),
    (24, "0", run_line("--votes", "0"), ["votes 0", "at least 1"]),
    (25, "sigma 0", run_line("--sigma-scale", "0"), ["sigma_scale 0", "positive"]),
    (25, "no corners", run_line("--sigma-scale", "65"), ["sigma_scale 65", "at most 64"]),
    (25, "sigma below 0", run_line("--sigma", "-8"), ["sigma_scale -8", "positive"]),
    (
        26,
        "stripes",
        ["plan", "--shape", "200,984,984", "--tile", "256", "--packing", "stripes"],
        ["200 rows", "116 rows", "packing auto"],
    ),
    (27, "missing", run_line(model="nothing"), ["nothing", "card.yaml", "demo:NAME"]),
    (27, "name", run_line(model="demo:semantc"), ["demo:semantc", "demo:semantic"]),
    (27, "no card", run_line(model="notes.txt"), ["notes.txt", "a model is"]),
    (27, "no weights", run_line(model="bare"), ["bare' has no weights", "weights.safetensors"]),
    (27, "card with a typo", run_line(model="wrong"), ["outpust", "outputs"]),
    (27, "corrupt", run_line(model="corrupt"), ["weights.safetensors", "no valid safetensors"]),
    (27, "corrupt zip", run_line(model="cut.pt"), ["cut.pt", "damaged or no checkpoint"]),
    (28, "pickle", run_line(model="evil.pt"), ["evil.pt", "refused", "print", "torch.save"]),
    (28, "code", run_line(model="code.pt2"), ["code.pt2", "sha256:", "--trust"]),
    (29, "channels", run_line(volume="rgb.zarr"), ["1 channel", "has 3", "--channel, 0 to 2"]),
    (30, "outputs", run_line(model="three-outputs"), ["three-outputs", "(2,", "(3,", "correct"]),
    (31, "device", run_line("--device", "cuda:63"), ["cuda:63", "found: cpu"]),
    (32, "memory", run_line("--memory-limit", "1000"), ["1,000 bytes", "of which", "allow more"]),
    (
        32,
        "memory of a plan",
        ["plan", "--shape", "512,512,512", "--tile", "256", "--memory-limit", "900000000"],
        ["900,000,000 bytes", "smaller block, such as 128,128,128"],
    ),
    (35, "outside", run_line("--roi", "0:13,:,:"), ["0:13", "axis z", "12"]),
    (35, "reversed", run_line("--roi", "8:4,:,:"), ["8:4", "start < stop"]),
    (35, "words", run_line("--roi", "all"), ["'all'", "z0:z1,y0:y1,x0:x1"]),
    (36, "cut off", run_line(volume="cut.zarr"), ["zarr.json", "cut off"]),
    (36, "codec", run_line(volume="codec.zarr"), ["mystery", "zarr.json", "rewrite"]),
    (37, "key", ["run", "--config", "typo.yaml"], ["typo.yaml", "overlpa", "did you mean overlap"]),
    (37, "path", ["run", "--config", "tagret.yaml"], ["tagret.yaml", "did you mean target"]),
    (37, "option", run_line("--overlpa", "0.5"), ["--overlpa", "--overlap", "--help"]),
    (37, "choice", run_line("--weighting", "gausian"), ["gausian", "did you mean gaussian"]),
    # Beyond the matrix.
    (0, "level", run_line("--level", "2"), ["level 2"]),
    (0, "plane weights", run_line("--plane-weights", "1,1"), ["2 numbers", "3 orientations"]),
    (0, "median", run_line("--median", "2"), ["median 2", "odd"]),
    (0, "threshold", run_line("--threshold", "1"), ["threshold 1", "< 1"]),
    (0, "secret", run_line("--storage-option", "secret=x"), ["secret", "environment"]),
    (0, "cluster", run_line("--cluster", "slurm"), ["slurm", "threads, processes"]),
    (0, "key twice", ["run", "--config", "twice.yaml"], ["votes", "twice"]),
    (0, "job value", ["run", "--config", "value.yaml"], ["votes 'two'", "whole number"]),
    (0, "no YAML", ["run", "--config", "broken.yaml"], ["broken.yaml", "YAML"]),
    (0, "no mapping", ["run", "--config", "notes.txt"], ["notes.txt", "overlap: 0.25"]),
    (0, "no job file", ["run", "--config", "none.yaml"], ["none.yaml", "No such file"]),
    (0, "command", ["rnu"], ["rnu", "'run'", "--help"]),
    (0, "no model", ["run", "in.zarr", "out.zarr"], ["model", "orthoflow run --help"]),
    (0, "no output", ["run", "in.zarr", "--model", "tiny"], ["output", "run --help"]),
    (0, "plan of nothing", ["plan", "--tile", "256"], ["INPUT", "--shape"]),
    (0, "no network", ["plan", "in.zarr"], ["--model", "--tile", "--divisor"]),
    (0, "shape", ["plan", "--shape", "68,984", "--tile", "256"], ["68,984", "z,y,x"]),
    (
        0,
        "dtype",
        ["plan", "--shape", "9,9,9", "--tile", "256", "--dtype", "floaty"],
        ["floaty", "uint8"],
    ),
    (
        0,
        "preview at",
        ["preview", "in.zarr", "--model", "tiny", "--at", "99,0,0"],
        ["at 99", "axis z", "0 to 11"],
    ),
    (0, "preview size", ["preview", "in.zarr", "--model", "tiny", "--size", "8"], ["'8'", "z,y,x"]),
    (
        0,
        "preview picture",
        ["preview", "in.zarr", "--model", "tiny", "--picture", "no/p.png"],
        ["no/p.png", "create it"],
    ),
    (0, "demo folder", ["demo", "--out", "other.zarr"], ["notes.txt", "of its own"]),
    (0, "demo shape", ["demo", "--out", "demo", "--shape", "8,64,64"], ["8, 64, 64", "16"]),
    (0, "demo workers", ["demo", "--out", "demo", "--workers", "0"], ["workers 0", "at least 1"]),
    (0, "demo seed", ["demo", "--out", "demo", "--seed", "-1"], ["--seed", "-1"]),
    (0, "part", run_line("--num-parts", "4", "--part-id", "4"), ["part_id 4", "0 to 3"]),
    (0, "part below 0", run_line("--num-parts", "4", "--part-id", "-1"), ["part_id -1", "least 0"]),
    (0, "no part", run_line("--num-parts", "4"), ["part_id is missing", "0 to 3", "SLURM_ARRAY"]),
    (
        0,
        "parts that overwrite",
        run_line("--num-parts", "4", "--part-id", "0", "--overwrite"),
        ["overwrite with num_parts 4", "write elsewhere"],
    ),
    (0, "both", run_line("--resume", "--overwrite"), ["overwrite and resume", "begin again"]),
    (0, "resume of nothing of ours", run_line("--resume", output="other.zarr"), ["other.zarr"]),
    (0, "status of nothing", ["status", "nowhere.zarr"], ["nowhere.zarr", "output"]),
    (0, "status of a volume", ["status", "in.zarr"], ["in.zarr", "output"]),
    (0, "verify of a volume", ["verify", "in.zarr"], ["in.zarr", "output"]),
    (0, "finalize of a volume", ["finalize", "in.zarr"], ["in.zarr", "output"]),
    (0, "status without", ["status"], ["URL", "orthoflow status --help"]),
]


def case_id(case):
    row, what, *_ = case
    return f"{row}-{what}".replace(" ", "-")


@pytest.mark.parametrize("case", CASES, ids=case_id)
@pytest.mark.usefixtures("unchanged")
def test_bad_input_is_refused_in_one_line_and_nothing_is_created(capsys, monkeypatch, case):
    _, _, arguments, words = case
    for name in ("AWS_BATCH_JOB_ARRAY_INDEX", "SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (cli.EXIT_BAD_INPUT, "")
    require_line(err, words)


def require_line(err, words):
    assert len(err.splitlines()) == 1, err
    assert err.startswith("orthoflow: ")
    for word in words:
        assert word in err


# --------------------------------------------------------------- rows that need more than a line


AS_SEEN = ("--quiet", "--output", "probabilities")  # a label shows little of what was read


def probabilities(output="out.zarr"):
    found = read_level(output, "probabilities", 0)
    assert len(np.unique(found)) > 9
    return found


@pytest.mark.s3
@pytest.mark.usefixtures("unchanged")
def test_row_1_an_empty_bucket(capsys, bucket):
    code, out, err = call(capsys, *run_line(volume=bucket))
    assert (code, out) == (cli.EXIT_BAD_INPUT, "")
    require_line(err, [bucket, "zarr.json", ".zarray"])


@pytest.mark.usefixtures("here")
def test_row_4_the_order_of_axes_is_read_or_said(capsys):
    """An order that is stated is obeyed; one that is not is shown as assumed, and can be given."""
    _, told, _ = call(capsys, "info", "turned.zarr", "--json")
    _, assumed, _ = call(capsys, "info", "in.zarr", "--json")
    facts = [(f["axes"], f["axes_stated"]) for f in map(json.loads, (told, assumed))]
    assert facts == [("xyz", True), ("zyx", False)]
    for name, more in {
        "in": (),
        "turned": (),
        "four": ("--axes", "czyx", "--channel", "1"),
    }.items():
        line = run_line(*AS_SEEN, *more, volume=f"{name}.zarr", output=f"{name}.out.zarr")
        assert call(capsys, *line)[0] == 0
    for name in ("turned", "four"):
        seen = probabilities(f"{name}.out.zarr")
        np.testing.assert_array_equal(seen, probabilities("in.out.zarr"))


@pytest.mark.usefixtures("here")
def test_row_9_nan_where_no_statistics_are_needed(capsys):
    """Nothing is looked at beforehand, so the block fails, with its place and the count."""
    code, _, err = call(capsys, *run_line("--quiet", volume="nan.zarr"))
    assert code == cli.EXIT_BLOCKS_FAILED
    assert len(err.splitlines()) == 1
    assert "failed block 0:12,0:24,0:20: input box 0:12,0:24,0:20 holds 2 values" in err
    assert "nan_policy=zero" in err
    for model in ("tiny", "by-volume"):
        more = {"volume": "nan.zarr", "output": f"{model}.zarr", "model": model}
        assert call(capsys, *run_line("--quiet", "--nan-policy", "zero", **more))[0] == 0


@pytest.mark.parametrize("name", ["signed", "big", "bigger"])
@pytest.mark.usefixtures("here")
def test_row_10_signed_and_big_endian_numbers_are_converted(capsys, name):
    assert call(capsys, *run_line(*AS_SEEN, output="in.out.zarr"))[0] == 0
    assert call(capsys, *run_line(*AS_SEEN, volume=f"{name}.zarr"))[0] == 0
    np.testing.assert_array_equal(probabilities(), probabilities("in.out.zarr"))


@pytest.mark.usefixtures("unchanged")
def test_row_15_what_a_small_block_costs_is_said(capsys):
    """Any whole number of shards is right, so nothing is refused; the plan names the price."""
    line = ("plan", "in.zarr", "--model", "tiny", "--tile", "16", "--chunk", "4", "--part", "1")
    redundancy = {}
    for block in ("4", "24"):
        code, out, _ = call(capsys, *line, "--block", block)
        _, numbers, _ = call(capsys, *line, "--block", block, "--json")
        numbers = json.loads(numbers)
        redundancy[block] = numbers["run"]["network_pixels"] / numbers["total"]["network_pixels"]
        assert code == 0
        assert f"{redundancy[block]:.2f} x the network pixels" in out
    assert redundancy["4"] > 2
    assert redundancy["24"] == 1


def test_row_17_an_output_of_ours_says_how_far_it_is(capsys, here):
    line = run_line("--quiet", "--chunk", "8", "--block", "8")
    assert call(capsys, *line)[0] == 0
    before = listing(here / "out.zarr")
    code, out, err = call(capsys, *line)
    assert (code, out) == (cli.EXIT_BAD_INPUT, "")
    require_line(
        err, ["out.zarr exists", "18 of 18 blocks of 0:12,0:24,0:20", "resume", "overwrite"]
    )
    assert listing(here / "out.zarr") == before


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "unfinished"])
def test_row_18_other_settings_are_named_as_they_were_and_are(capsys, here, finished):
    line = run_line("--quiet", "--overlap", "0.25")
    assert call(capsys, *line)[0] == 0
    if not finished:
        (here / "out.zarr/orthoflow/report.json").unlink()
    before = listing(here / "out.zarr")
    for more, words in {
        ("--overlap", "0.5"): ["overlap 0.25 -> 0.5"],
        ("--votes", "3", "--tta", "mirroring"): ["votes 2 -> 3", "tta none -> mirroring"],
    }.items():
        code, out, err = call(capsys, *line, *more, "--resume")
        assert (code, out) == (cli.EXIT_BAD_INPUT, "")
        require_line(err, ["out.zarr was begun with other settings", "overwrite", *words])
    other = run_line("--quiet", "--resume", volume="signed.zarr")
    require_line(call(capsys, *other)[2], ["in.zarr -> ", "signed.zarr", "uint8 -> int16"])
    assert listing(here / "out.zarr") == before


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a file system that refuses even root")
@pytest.mark.usefixtures("unchanged")
def test_row_20_a_folder_that_cannot_be_written(capsys, monkeypatch):
    """Found out by a probe, before a network is loaded."""
    monkeypatch.setattr("orthoflow.work.load", lambda _: pytest.fail("too late"))
    code, out, err = call(capsys, *run_line(output="/sys/out.zarr"))
    assert (code, out) == (cli.EXIT_STORE, "")
    require_line(err, ["/sys/out.zarr", "check permissions and free space"])


@pytest.mark.s3
@pytest.mark.usefixtures("unchanged")
def test_row_20_no_credentials_and_no_bucket(capsys, bucket, monkeypatch):
    monkeypatch.setattr("orthoflow.work.load", lambda _: pytest.fail("too late"))
    code, out, err = call(capsys, *run_line(output="s3://no-such-bucket/out.zarr"))
    assert (code, out) == (cli.EXIT_STORE, "")
    require_line(err, ["s3://no-such-bucket", "create it or correct the url"])
    close_sessions("s3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    code, out, err = call(capsys, *run_line(output=f"{bucket}/out.zarr"))
    assert (code, out) == (cli.EXIT_STORE, "")
    require_line(err, [f"{bucket}/out.zarr", "check the credentials"])


@pytest.mark.usefixtures("here")
def test_row_21_a_given_voxel_size_takes_the_place_of_one_that_cannot_be(capsys):
    assert call(capsys, *run_line("--quiet", "--voxel-size", "40,4,4", volume="flat.zarr"))[0] == 0


@pytest.mark.usefixtures("here")
def test_row_23_other_names_of_orientations(capsys):
    """A plane has one name, and may be called by its axes the other way round."""
    for name in ("yx", "xy"):
        line = run_line(*AS_SEEN, "--orientations", name, output=f"{name}.zarr")
        assert call(capsys, *line)[0] == 0
    np.testing.assert_array_equal(probabilities("yx.zarr"), probabilities("xy.zarr"))


NETS = """
import torch
from orthoflow import Model


class Net(torch.nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(torch.cat([x, -x], 1))


def shrinks():
    return Model.from_torch(Net(lambda y: y[..., ::2, ::2]), outputs=2, divisor=4)


def gives_nothing():
    return Model.from_torch(Net(lambda y: y[:, :0]), outputs=2, divisor=4)


def gives_two():
    return Model.from_torch(Net(lambda y: (y, y)), outputs=2, divisor=4)


def gives_classes():
    return Model.from_torch(Net(lambda y: y.argmax(1, keepdim=True)), outputs=2, divisor=4)
"""


@pytest.mark.parametrize(
    ("net", "words"),
    [
        ("shrinks", ["its card promises (2, 2, ", "crops or upsamples"]),
        ("gives_nothing", [" to (2, 0, ", "outputs=2 channels"]),
        ("gives_two", ["returns tuple", "wrap it"]),
        ("gives_classes", ["returns torch.int64", "before softmax or argmax"]),
    ],
)
@pytest.mark.usefixtures("unchanged")
def test_row_30_what_a_network_returns(capsys, monkeypatch, tmp_path, net, words):
    (tmp_path / "odd_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    trust = "sha256:" + hashlib.sha256(NETS.encode()).hexdigest()
    code, out, err = call(capsys, *run_line("--trust", trust, model=f"python:odd_nets:{net}"))
    assert (code, out) == (cli.EXIT_BAD_INPUT, "")
    require_line(err, words)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("tcp://127.0.0.1:9", ["did not answer within 1 s", "check the address"]),
        ("odd://127.0.0.1:9", ["did not answer", "as in tcp://"]),
        ("tls://127.0.0.1:9", ["wants TLS", "DASK_DISTRIBUTED__COMM__TLS__CA_FILE"]),
    ],
)
@pytest.mark.usefixtures("unchanged")
def test_row_33_a_scheduler_that_does_not_answer(capsys, monkeypatch, address, words):
    monkeypatch.setattr("orthoflow.cluster._TIMEOUT", 1.0)
    code, out, err = call(capsys, *run_line()[:-2], "--scheduler", address)
    assert (code, out) == (cli.EXIT_BAD_INPUT, "")
    require_line(err, [f"scheduler {address}", *words])


@pytest.mark.usefixtures("unchanged")
def test_row_34_a_scheduler_without_workers(capsys, monkeypatch):
    monkeypatch.setattr("orthoflow.cluster._TIMEOUT", 1.0)
    place = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "protocol": "tcp"}
    with LocalCluster(n_workers=0, processes=False, **place) as idle:
        address = idle.scheduler_address
        code, out, err = call(capsys, *run_line()[:-2], "--scheduler", address)
    assert (code, out) == (cli.EXIT_BAD_INPUT, "")
    require_line(err, [f"scheduler {address} has no worker after 1 s", f"dask worker {address}"])


def test_row_38_too_few_files_may_be_open(everything):
    """The limit of a process can only go down, so it is another process."""
    before = listing(everything)
    done = subprocess.run(
        ["bash", "-c", f"ulimit -n 100; exec {shlex.join([str(PROGRAM), *run_line()])}"],
        cwd=everything,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (cli.EXIT_BAD_INPUT, "")
    require_line(done.stderr, ["100 open files", "ulimit -Hn", "128 are needed"])
    assert listing(everything) == before


@pytest.mark.parametrize("row", [1, 7, 12, 28, 36, 37])
def test_the_program_itself_prints_no_traceback(everything, row):
    before = listing(everything)
    _, _, arguments, words = next(case for case in CASES if case[0] == row)
    done = subprocess.run(
        [PROGRAM, *arguments], cwd=everything, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (cli.EXIT_BAD_INPUT, "")
    assert done.returncode == 2  # for scripts: the number itself must not change
    require_line(done.stderr, words)
    assert listing(everything) == before


def test_every_row_of_the_matrix_is_here():
    named = [re.match(r"test_row_(\d+)_", name) for name in globals()]
    rows = {case[0] for case in CASES} | {int(found[1]) for found in named if found}
    assert rows == {0, *ROWS}
    assert len({case_id(case) for case in CASES}) == len(CASES)
