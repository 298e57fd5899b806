"""The command line as a user meets it: output, exit codes, one-line refusals that create nothing.

Commands run in this process, on small volumes and a tiny network, without a cluster; the few that
start processes are marked slow.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
import zarr

from orthoflow import cli, pipeline
from orthoflow.errors import BlockFailed, StoreRefused
from orthoflow.models import Card, save_model
from orthoflow.models.nets import UNet
from orthoflow.options import Options
from orthoflow.stores.ome import read_level

SHAPE = (12, 24, 20)
PROGRAM = Path(sys.executable).with_name("orthoflow")
COMMANDS = ("demo", "info", "plan", "preview", "run")


def image():
    return np.random.default_rng(3).integers(0, 200, SHAPE).astype(np.uint8)


def stored(path, data, **more):
    array = zarr.create_array(
        path, shape=data.shape, dtype=data.dtype, chunks=(8,) * data.ndim, **more
    )
    if data.size:
        array[...] = data
    return array


def make_volumes(folder):
    volume = image()
    nan = volume.astype(np.float32)
    nan[3, 4, 5] = np.nan
    arrays = {
        "in": volume,
        "nan": nan,
        "plane": volume[0],
        "four": np.stack([volume] * 3),
        "empty": volume[:0],
        "complex": volume.astype(np.complex64),
        "bool": volume > 99,
        "cut": volume,
        "codec": volume,
    }
    for name, array in arrays.items():
        stored(folder / f"{name}.zarr", array)
    stored(folder / "rgb.zarr", np.stack([volume] * 3), dimension_names=list("czyx"))
    stored(folder / "movie.zarr", np.stack([volume] * 3), dimension_names=list("tzyx"))
    group = zarr.open_group(folder / "group.zarr", mode="w")
    for name in ("left", "right"):
        group.create_array(name, data=volume)
    metadata = (folder / "in.zarr/zarr.json").read_text()
    (folder / "cut.zarr/zarr.json").write_text(metadata[: len(metadata) // 2])
    (folder / "codec.zarr/zarr.json").write_text(metadata.replace('"zstd"', '"mystery"'))
    (folder / "other.zarr").mkdir()
    (folder / "other.zarr/notes.txt").write_text("mine")


def make_models(folder):
    torch.manual_seed(0)
    net = UNet(outputs=2, base=2, depth=2)
    save_model(folder / "tiny", net, Card(name="tiny", outputs=2, divisor=4))
    card = yaml.safe_load((folder / "tiny/card.yaml").read_text())
    shutil.copytree(folder / "tiny", folder / "wrong")
    (folder / "wrong/card.yaml").write_text(yaml.safe_dump({**card, "outpust": 2}))
    (folder / "evil.pt").write_bytes(pickle.dumps({"weights": print}))
    (folder / "evil.card.yaml").write_text(yaml.safe_dump(card))
    shutil.copytree(folder / "tiny", folder / "corrupt")
    (folder / "corrupt/weights.safetensors").write_bytes(b"no weights")
    (folder / "code.pt2").write_bytes(b"PK")
    (folder / "code.card.yaml").write_text(yaml.safe_dump({**card, "name": "code"}))


def make_texts(folder):
    texts = {
        "notes.txt": "no model, no volume, no job",
        "typo.yaml": "input: in.zarr\nmodel: tiny\noverlpa: 0.5\n",
        "tagret.yaml": "input: in.zarr\nmodel: tiny\ntagret: o.zarr\n",
        "twice.yaml": "votes: 2\nvote-threshold: 2\n",
        "value.yaml": "input: in.zarr\nmodel: tiny\ntarget: o.zarr\nvotes: two\n",
        "broken.yaml": "overlap: [0.5\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with everything in it; no test may add to it or take away."""
    folder = tmp_path_factory.mktemp("inputs")
    make_volumes(folder)
    make_models(folder)
    make_texts(folder)
    return folder


@pytest.fixture
def here(inputs, tmp_path, monkeypatch):
    """An own folder to work in, with the volume and the model."""
    for name in ("in.zarr", "nan.zarr", "tiny"):
        shutil.copytree(inputs / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsys, *arguments):
    """Exit code, stdout and stderr of a command."""
    capsys.readouterr()
    try:
        cli.main([str(argument) for argument in arguments])
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capsys.readouterr()
    return code, out, err


def run_line(*more, volume="in.zarr", output="out.zarr", model="tiny"):
    return ["run", volume, output, "--model", model, "--cluster", "synchronous", *more]


def listing(folder):
    found = {}
    for path in sorted(folder.rglob("*")):
        found[str(path.relative_to(folder))] = None if path.is_dir() else path.read_bytes()
    return found


# ------------------------------------------------------------------------------------------ help


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help(capsys, command, flag):
    code, out, err = call(capsys, command, flag)
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: orthoflow {command}")


def test_help_lists_the_commands_and_a_first_step(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert "orthoflow demo" in out
    for command in COMMANDS:
        assert f"\n  {command} " in out


def test_every_option_of_run_is_in_its_help(capsys):
    _, out, _ = call(capsys, "run", "--help")
    for entry in fields(Options):
        for spelling in (entry.name.replace("_", "-"), *entry.metadata["wish"].aliases):
            assert f"--{spelling}" in out


def test_version(capsys):
    import orthoflow

    code, out, _ = call(capsys, "--version")
    assert (code, out.split()) == (0, ["orthoflow", orthoflow.__version__])


def test_help_needs_no_heavy_library():
    code = (
        "import sys; from orthoflow.cli import main\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'dask', 'zarr', 'xarray', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# ------------------------------------------------------------------------------------------ info


@pytest.mark.usefixtures("here")
def test_info_says_what_is_stored(capsys):
    code, out, err = call(capsys, "info", "in.zarr")
    assert (code, err) == (0, "")
    assert "12 x 24 x 20" in out
    assert "uint8" in out


@pytest.mark.usefixtures("here")
def test_info_as_json(capsys):
    code, out, err = call(capsys, "info", "in.zarr", "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["axes"] == "zyx"
    assert facts["levels"][0]["shape"] == list(SHAPE)


# ------------------------------------------------------------------------------------------ plan

# The goal of the first: the packed Cellpose fork's own arithmetic, tile for tile.
STACK = ("plan", "--shape", "68,984,984", "--overlap", "0.1", "--json")
SEED = ("--packing", "stripes", "--pack-k", "3", "--guard", "16", "--border", "5")


@pytest.mark.parametrize(
    ("more", "tiles"),
    [
        (("--tile", "256", "--packing", "none"), {"xy": 1700, "xz": 4920, "yz": 4920}),
        (
            ("--tile", "256", *SEED, "--stripe-starts", "seed"),
            {"xy": 1700, "xz": 1640, "yz": 1640},
        ),
    ],
    ids=["unpacked", "seed"],
)
def test_plan_of_the_seeds_stack(capsys, more, tiles):
    code, out, err = call(capsys, *STACK, *more)
    assert (code, err) == (0, "")
    numbers = json.loads(out)
    assert {name: o["tiles"] for name, o in numbers["orientations"].items()} == tiles
    assert numbers["total"]["tiles_unpacked"] == 11540
    assert numbers["total"]["tiles"] == sum(tiles.values())


@pytest.mark.parametrize(("divisor", "times"), [("16", 3.3), ("8", 3.6)])
def test_plan_of_a_fully_convolutional_network(capsys, divisor, times):
    _, out, _ = call(capsys, *STACK, "--divisor", divisor)
    total = json.loads(out)["total"]
    assert total["tiles_unpacked"] * 256 * 256 / total["network_pixels"] >= times


@pytest.mark.usefixtures("here")
def test_plan_of_a_file_and_of_a_shape_agree(capsys):
    _, of_file, _ = call(capsys, "plan", "in.zarr", "--model", "tiny", "--json")
    _, of_shape, _ = call(capsys, "plan", "--shape", "12,24,20", "--model", "tiny", "--json")
    one, other = json.loads(of_file), json.loads(of_shape)
    assert one["orientations"] == other["orientations"]
    assert one["blocks"] == other["blocks"]


def test_plan_in_words_names_what_it_rejected(capsys):
    code, out, err = call(capsys, *(a for a in STACK if a != "--json"), "--tile", "256")
    assert (code, err) == (0, "")
    assert "not tiles: 4,920 tiles" in out
    assert "11,540" in out


# --------------------------------------------------------------------------------------- preview


@pytest.mark.usefixtures("here")
def test_preview_draws_and_reports(capsys):
    code, out, err = call(
        capsys, *("preview", "in.zarr", "--model", "tiny", "--size", "8,16,16"), "--json"
    )
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["roi"] == "2:10,4:20,2:18"
    assert 0 <= found["foreground"] <= 1
    assert Path(found["picture"]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("here")
def test_preview_in_words(capsys):
    code, out, _ = call(
        capsys, *("preview", "in.zarr", "--model", "tiny", "--at", "0,0,0"), "--picture", "p.png"
    )
    assert code == 0
    assert out.startswith("wrote p.png: region 0:12,0:24,0:20")


# ------------------------------------------------------------------------------------------- run


@pytest.mark.usefixtures("here")
def test_run_reports_on_stdout_and_shows_progress_on_stderr(capsys):
    code, out, err = call(capsys, *run_line())
    assert code == 0
    assert out.startswith("wrote out.zarr\n1 of 1 blocks")
    assert err.splitlines()[0].startswith("blocks 1/1")
    assert read_level("out.zarr", "labels/segmentation", 0).shape == SHAPE


@pytest.mark.usefixtures("here")
def test_run_as_json_is_json_alone(capsys):
    code, out, err = call(capsys, *run_line("--json", "--chunk", "8", "--block", "8"))
    assert code == 0
    report = json.loads(out)
    assert report["blocks"] == report["blocks_planned"] == 18
    assert report["failed"] == {}
    assert "blocks 18/18" in err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("typed", "kind"), [((), "processes"), (("--cluster", "threads"), "threads")]
)
def test_without_a_gpu_processes_do_the_work_unless_said(capsys, monkeypatch, typed, kind):
    asked = {}

    def note(*_, **options):
        asked.update(options)
        raise StoreRefused("that is all")

    monkeypatch.setattr("orthoflow.cluster._has_gpu", lambda _: False)
    monkeypatch.setattr(pipeline, "run", note)
    call(capsys, "run", "in.zarr", "out.zarr", "--model", "tiny", "--quiet", *typed)
    assert asked["cluster"] == kind


@pytest.mark.usefixtures("here")
def test_quiet_is_quiet(capsys):
    code, out, err = call(capsys, *run_line("--quiet", "--json"))
    assert (code, err) == (0, "")
    json.loads(out)


@pytest.mark.usefixtures("here")
def test_a_job_file_and_what_is_typed_over_it(capsys):
    job = {
        "input": "in.zarr",
        "target": "job.zarr",
        "model": "tiny",
        "overlap": 0.5,
        "pixel-vote-thr": 3,
        "consensus": "vote",
        "tile": [16, 16],
        "voxel_size": [2, 1, 1],
        "cluster": "synchronous",
        "disagreement": True,
    }
    Path("job.yaml").write_text(yaml.safe_dump(job))
    assert call(capsys, "run", "--config", "job.yaml", "--overlap", "0.25")[0] == 0
    options = json.loads(Path("job.zarr/orthoflow/run.json").read_text())["options"]
    assert options["overlap"] == 0.25
    assert options["votes"] == 3
    assert options["tile"] == [16, 16]
    assert Path("job.zarr/disagreement").exists()
    # Typed paths win as well.
    assert call(capsys, "run", "in.zarr", "typed.zarr", "--config", "job.yaml")[0] == 0
    assert Path("typed.zarr/labels").exists()


@pytest.mark.parametrize(
    ("typed", "field", "value"),
    [
        (("--vote-threshold", "3"), "votes", 3),
        (("--pixel-vote-thr", "1"), "votes", 1),
        (("--bsize", "16"), "tile", [16]),
        (("--patch-size", "16,16"), "tile", [16, 16]),
        (("--pack-guard", "4"), "guard", 4),
        (("--sigma", "4"), "sigma_scale", 4.0),
        (("--tta-type", "mirroring"), "tta", "mirroring"),
        (("--no-skip-empty-patches",), "skip_empty", False),
        (("--median-kernel", "3"), "median", 3),
    ],
)
@pytest.mark.usefixtures("here")
def test_the_seeds_names_are_understood(capsys, typed, field, value):
    assert call(capsys, *run_line(*typed, "--quiet"))[0] == 0
    options = json.loads(Path("out.zarr/orthoflow/run.json").read_text())["options"]
    assert options[field] == value


@pytest.mark.usefixtures("here")
def test_overwrite_replaces_an_earlier_output(capsys):
    assert call(capsys, *run_line())[0] == 0
    assert call(capsys, *run_line())[0] == cli.EXIT_BAD_INPUT
    assert call(capsys, *run_line("--overwrite", "--name", "again"))[0] == 0
    assert [p.name for p in Path("out.zarr/labels").iterdir() if p.is_dir()] == ["again"]


# ------------------------------------------------------------------------------------ exit codes


@pytest.mark.usefixtures("here")
def test_failed_blocks_are_named(capsys):
    code, out, err = call(
        capsys,
        *run_line("--json", "--chunk", "8", "--block", "12,8,20", volume="nan.zarr"),
        *("--cluster", "threads"),
    )
    assert code == cli.EXIT_BLOCKS_FAILED
    report = json.loads(out)
    assert report["failed"]
    for block in report["failed"]:
        assert f"failed block {block}: " in err
    assert "NaN" in err


@pytest.mark.usefixtures("here")
def test_nan_may_be_read_as_zero(capsys):
    assert call(capsys, *run_line("--nan-policy", "zero", volume="nan.zarr"))[0] == 0


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a file system that refuses even root")
@pytest.mark.usefixtures("here")
def test_a_store_that_refuses(capsys):
    code, out, err = call(capsys, *run_line(output="/sys/out.zarr"))
    assert (code, out) == (cli.EXIT_STORE, "")
    assert len(err.splitlines()) == 1
    assert "/sys/out.zarr" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreRefused("no space at\ns3://bucket"), cli.EXIT_STORE),
        (BlockFailed("block 0:8 failed"), cli.EXIT_BLOCKS_FAILED),
        (KeyboardInterrupt(), cli.EXIT_INTERRUPTED),
        (ModuleNotFoundError("no torch", name="torch"), cli.EXIT_BAD_INPUT),
    ],
    ids=["store", "block", "interrupt", "extra"],
)
@pytest.mark.usefixtures("here")
def test_an_error_is_one_line_and_a_code(capsys, monkeypatch, error, code):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(pipeline, "run", fail)
    found, out, err = call(capsys, *run_line("--quiet"))
    assert (found, out) == (code, "")
    # click itself ends the line in which ^C was typed.
    assert len(err.strip().splitlines()) == 1
    assert err.strip().startswith("orthoflow: ")


# ------------------------------------------------------------------------------------- bad input

# What is typed, and words that the one line on stderr must hold: the value, then the remedy.
BAD_INPUT = {
    "input missing": (run_line(volume="nowhere.zarr"), ["nowhere.zarr", "zarr.json", ".zarray"]),
    "input is no volume": (run_line(volume="notes.txt"), ["notes.txt", "looked for"]),
    "input protocol": (run_line(volume="ftp://host/in.zarr"), ["ftp", "supported", "s3"]),
    "several arrays": (run_line(volume="group.zarr"), ["left, right", "--array"]),
    "no such array": (run_line("--array", "x", volume="group.zarr"), ["'x'", "left"]),
    "two axes": (run_line(volume="plane.zarr"), ["2 axes", "z, y and x"]),
    "unnamed axes": (run_line(volume="four.zarr"), ["4 axes", "--axes czyx"]),
    "axes do not fit": (run_line("--axes", "xyy"), ["xyy", "3 different letters"]),
    "time": (run_line(volume="movie.zarr"), ["3 time points", "--time", "0 to 2"]),
    "extent 0": (run_line(volume="empty.zarr"), ["extent 0", "axis z"]),
    "dtype complex": (run_line(volume="complex.zarr"), ["complex64", "float32"]),
    "dtype bool": (run_line(volume="bool.zarr"), ["bool", "uint8"]),
    "channel": (run_line("--channel", "3", volume="rgb.zarr"), ["channel 3", "0 to 2"]),
    "channels of the model": (run_line(volume="rgb.zarr"), ["1 channel", "has 3", "select"]),
    "truncated metadata": (run_line(volume="cut.zarr"), ["zarr.json", "cut off"]),
    "unknown codec": (run_line(volume="codec.zarr"), ["mystery", "zarr.json"]),
    "no such level": (run_line("--level", "2"), ["level 2"]),
    "tile": (run_line("--tile", "30"), ["tile 30", "divisor 4", "28 or 32"]),
    "overlap 1": (run_line("--overlap", "1"), ["overlap 1", "0.9"]),
    "overlap negative": (run_line("--overlap", "-0.1"), ["overlap -0.1", "at least 0"]),
    "overlap a word": (run_line("--overlap", "half"), ["overlap", "half", "a number"]),
    "block cuts chunks": (
        run_line("--chunk", "8", "--block", "12"),
        ["block 12,12,12", "one object", "8 or 16"],
    ),
    "shard cuts chunks": (run_line("--chunk", "8", "--shard", "12"), ["shard 12", "8 or 16"]),
    "0.4 has no shards": (
        run_line("--ome-version", "0.4", "--chunk", "8", "--shard", "16"),
        ["0.4", "use 0.5"],
    ),
    "output exists": (run_line(output="other.zarr"), ["other.zarr exists", "overwrite"]),
    "output of somebody else": (
        run_line("--overwrite", output="other.zarr"),
        ["other.zarr", "by hand"],
    ),
    "output is the input": (run_line(output="in.zarr"), ["in.zarr", "elsewhere"]),
    "output in the input": (run_line(output="in.zarr/out"), ["in.zarr/out", "elsewhere"]),
    "output over the input": (run_line("--overwrite", output="in.zarr"), ["in.zarr", "elsewhere"]),
    "output below a file": (run_line(output="notes.txt/o.zarr"), ["notes.txt is a file"]),
    "voxel size 0": (run_line("--voxel-size", "0,1,1"), ["voxel_size 0,1,1", "positive"]),
    "voxel size negative": (run_line("--voxel-size", "-1"), ["voxel_size -1", "at least"]),
    "voxel size of two": (run_line("--voxel-size", "1,2"), ["voxel_size 1,2", "z,y,x"]),
    "anisotropy": (run_line("--anisotropy", "1e12"), ["axis z", "1.2e+13", "2^31"]),
    "downsample": (run_line("--downsample", "100"), ["axis z", "0.12", "between 1"]),
    "orientation": (run_line("--orientations", "ab"), ["'ab'", "xy, xz, yz"]),
    "orientation none": (run_line("--orientations", ""), ["empty", "xy, xz, yz"]),
    "orientation twice": (run_line("--orientations", "xy,xy"), ["xy,xy", "once"]),
    "orientation 3-D": (run_line("--orientations", "zyx"), ["'zyx'", "2-D"]),
    "votes 4": (run_line("--consensus", "vote", "--votes", "4"), ["votes 4", "1 to 3"]),
    "votes 0": (run_line("--votes", "0"), ["votes 0", "at least 1"]),
    "plane weights": (run_line("--plane-weights", "1,1"), ["2 numbers", "3 orientations"]),
    "sigma": (run_line("--sigma-scale", "0"), ["sigma_scale 0", "positive"]),
    "median": (run_line("--median", "2"), ["median 2", "odd"]),
    "threshold": (run_line("--threshold", "1"), ["threshold 1", "< 1"]),
    "packing": (
        ["plan", "--shape", "200,984,984", "--tile", "256", "--packing", "stripes"],
        ["200 rows", "116 rows", "packing auto"],
    ),
    "model missing": (run_line(model="nothing"), ["nothing", "card.yaml", "demo:NAME"]),
    "model name": (run_line(model="demo:semantc"), ["demo:semantc", "demo:semantic"]),
    "model without a card": (run_line(model="notes.txt"), ["notes.txt", "a model is"]),
    "card with a typo": (run_line(model="wrong"), ["outpust", "outputs"]),
    "code without trust": (run_line(model="code.pt2"), ["code.pt2", "sha256:", "--trust"]),
    "device": (run_line("--device", "cuda:63"), ["cuda:63", "found: cpu"]),
    "memory": (run_line("--memory-limit", "1000"), ["1,000 bytes", "smaller block"]),
    "memory of a plan": (
        ["plan", "in.zarr", "--model", "tiny", "--memory-limit", "1000"],
        ["1,000 bytes", "smaller block"],
    ),
    "roi outside": (run_line("--roi", "0:13,:,:"), ["0:13", "axis z", "12"]),
    "roi reversed": (run_line("--roi", "8:4,:,:"), ["8:4", "start < stop"]),
    "roi of words": (run_line("--roi", "all"), ["'all'", "z0:z1,y0:y1,x0:x1"]),
    "secret": (run_line("--storage-option", "secret=x"), ["secret", "environment"]),
    "choice": (run_line("--weighting", "gausian"), ["gausian", "did you mean gaussian"]),
    "cluster": (run_line("--cluster", "slurm"), ["slurm", "threads, processes"]),
    "job key": (["run", "--config", "typo.yaml"], ["overlpa", "did you mean overlap"]),
    "job key of a path": (["run", "--config", "tagret.yaml"], ["tagret", "did you mean target"]),
    "job key twice": (["run", "--config", "twice.yaml"], ["votes", "twice"]),
    "job value": (["run", "--config", "value.yaml"], ["votes 'two'", "whole number"]),
    "job no YAML": (["run", "--config", "broken.yaml"], ["broken.yaml", "YAML"]),
    "job no mapping": (["run", "--config", "notes.txt"], ["notes.txt", "overlap: 0.25"]),
    "job missing": (["run", "--config", "none.yaml"], ["none.yaml", "No such file"]),
    "option": (run_line("--overlpa", "0.5"), ["--overlpa", "--overlap", "--help"]),
    "command": (["rnu"], ["rnu", "'run'", "--help"]),
    "no model": (["run", "in.zarr", "out.zarr"], ["model", "orthoflow run --help"]),
    "no output": (["run", "in.zarr", "--model", "tiny"], ["output", "run --help"]),
    "plan of nothing": (["plan", "--tile", "256"], ["INPUT", "--shape"]),
    "plan without a network": (["plan", "in.zarr"], ["--model", "--tile", "--divisor"]),
    "plan shape": (["plan", "--shape", "68,984", "--tile", "256"], ["68,984", "z,y,x"]),
    "plan dtype": (
        ["plan", "--shape", "9,9,9", "--tile", "256", "--dtype", "floaty"],
        ["floaty", "uint8"],
    ),
    "preview at": (
        ["preview", "in.zarr", "--model", "tiny", "--at", "99,0,0"],
        ["at 99", "axis z", "0 to 11"],
    ),
    "preview size": (["preview", "in.zarr", "--model", "tiny", "--size", "8"], ["'8'", "z,y,x"]),
    "preview picture": (
        ["preview", "in.zarr", "--model", "tiny", "--picture", "no/p.png"],
        ["no/p.png", "create it"],
    ),
    "demo folder": (["demo", "--out", "other.zarr"], ["notes.txt", "of its own"]),
    "demo shape": (["demo", "--out", "demo", "--shape", "8,64,64"], ["8, 64, 64", "16"]),
    "demo workers": (["demo", "--out", "demo", "--workers", "0"], ["workers 0", "at least 1"]),
    "demo seed": (["demo", "--out", "demo", "--seed", "-1"], ["--seed", "-1"]),
    "info": (["info", "nowhere.zarr"], ["nowhere.zarr", "looked for"]),
}


@pytest.mark.parametrize("row", BAD_INPUT, ids=lambda row: row.replace(" ", "-"))
def test_bad_input_is_refused_in_one_line_and_nothing_is_created(inputs, monkeypatch, capsys, row):
    arguments, words = BAD_INPUT[row]
    monkeypatch.chdir(inputs)
    before = listing(inputs)
    code, out, err = call(capsys, *arguments)
    assert code == cli.EXIT_BAD_INPUT
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("orthoflow: ")
    for word in words:
        assert word in err
    assert listing(inputs) == before


@pytest.mark.parametrize(
    ("model", "words"),
    [("corrupt", ["weights.safetensors", "safetensors"]), ("evil.pt", ["evil.pt", "safetensors"])],
)
def test_weights_that_cannot_be_read(inputs, monkeypatch, capsys, model, words):
    monkeypatch.chdir(inputs)
    code, out, err = call(capsys, *run_line("--quiet", output="weights.zarr", model=model))
    created = (inputs / "weights.zarr").exists()
    shutil.rmtree(inputs / "weights.zarr", ignore_errors=True)
    assert (code, out, len(err.splitlines())) == (cli.EXIT_BAD_INPUT, "", 1)
    for word in words:
        assert word in err
    assert not created


@pytest.mark.usefixtures("here")
def test_a_scheduler_that_does_not_answer(capsys, monkeypatch):
    monkeypatch.setattr("orthoflow.cluster._TIMEOUT", 1.0)
    line = [*run_line()[:-2], "--scheduler", "tcp://127.0.0.1:9"]
    code, out, err = call(capsys, *line)
    assert (code, out) == (cli.EXIT_BAD_INPUT, "")
    assert "tcp://127.0.0.1:9" in err.splitlines()[-1]
    assert "check the address" in err.splitlines()[-1]
    assert not Path("out.zarr").exists()


# ------------------------------------------------------------------------------- real processes


@pytest.mark.slow
def test_demo_in_a_process_of_its_own(tmp_path):
    done = subprocess.run(
        [PROGRAM, "demo", "--shape", "32,64,64", "--workers", "1", "--json"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    scores = json.loads(done.stdout)["scores"]
    assert set(scores) == {"xy", "xz", "yz", "consensus"}
    best = max(scores[name]["dice"] for name in ("xy", "xz", "yz"))
    assert scores["consensus"]["dice"] > best
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {
        "volume.zarr",
        "segmented.zarr",
        "overview.png",
    }


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_the_program_itself():
    done = subprocess.run(
        [PROGRAM, *run_line("--json")], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["blocks"] == 1
    refused = subprocess.run([PROGRAM, *run_line()], capture_output=True, text=True, check=False)
    assert refused.returncode == cli.EXIT_BAD_INPUT
    assert refused.stderr.startswith("orthoflow: output out.zarr exists")
    assert refused.stdout == ""
