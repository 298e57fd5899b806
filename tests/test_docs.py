"""The documentation does what it says: snippets run, commands parse, shown output is real."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path

import click
import nbclient
import nbformat
import numpy as np
import pytest
import torch
import yaml

from orthoflow import cli, jobfile
from orthoflow.demo import write_volume
from orthoflow.models.nets import UNet
from orthoflow.options import Options
from orthoflow.training.synthetic import make_volume

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = [*PAGES, *sorted((ROOT / "docs/decisions").glob("*.md")), ROOT / "CHANGELOG.md"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# A name in capitals, or an ellipsis, stands for something of the reader's.
PLACEHOLDER = re.compile(r"\.\.\.|…|\b[A-Z]{3,}\b")
# The tutorial's training loop, short enough for a test.
SHORTER = {"steps=400": "steps=2", '"base": 16, "depth": 4': '"base": 2, "depth": 1'}


def page_id(path):
    return str(path.relative_to(ROOT))


def fences(page, *languages):
    """Line number and text of each fenced block in one of these languages."""
    text = page.read_text("utf-8")
    for found in FENCE.finditer(text):
        if found[1] in languages:
            yield text.count("\n", 0, found.start(2)), found[2]


def command_lines(page):
    """Every `orthoflow ...` that a reader may copy, with the lines shown as its output."""
    found = []
    for _, block in fences(page, "", "console"):
        shown = None
        for line in block.splitlines():
            words = line.removeprefix("$ ")
            if words.startswith("orthoflow "):
                shown = []
                found.append((words.partition("  ")[0], shown))
            elif shown is not None and line:
                shown.append(line)
    outside = FENCE.sub("", page.read_text("utf-8"))
    return found + [(inline, []) for inline in re.findall(r"`(orthoflow [^`]+)`", outside)]


@pytest.fixture(scope="module")
def made():
    return make_volume(shape=(32, 96, 96), seed=1)


@pytest.fixture
def desk(tmp_path, monkeypatch, made):
    """A folder with the volumes that the pages speak of, only smaller."""
    monkeypatch.chdir(tmp_path)
    truth = (made.labels > 0).astype(np.uint8)
    for path in ("in.zarr", "demo/volume.zarr", "demo/segmented.zarr"):
        Path(path).parent.mkdir(exist_ok=True)
        write_volume(Path(path), made.image, truth, made.voxel_size)
    return tmp_path


# -------------------------------------------------------------------------------------- snippets


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if any(fences(p, "python"))], ids=page_id)
def test_snippets_run_one_after_the_other(page, desk, made, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    truth = (made.labels > 0).astype(np.uint8)
    # What a page may take for granted: a volume, a module, and something to train with.
    names = {
        "__name__": "snippets",
        "volume": "in.zarr",
        "module": UNet(outputs=2, base=2, depth=2),
        "images": [made.image],
        "masks": [truth],
    }
    for line, code in fences(page, "python"):
        if re.match(r"# \S+\.py\n", code):  # a file of the reader's, not a session
            ast.parse(code)
            continue
        torch.manual_seed(0)
        exec(compile("\n" * line + shortened(code), page_id(page), "exec"), names)
    assert list(desk.iterdir())


def shortened(code):
    for long, short in SHORTER.items():
        code = code.replace(long, short)
    return code


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=page_id)
def test_notebooks_run(notebook, tmp_path):
    content = nbformat.read(notebook, as_version=4)
    client = nbclient.NotebookClient(
        content, timeout=240, resources={"metadata": {"path": tmp_path}}, kernel_name="python3"
    )
    client.execute()
    pictures = [
        output
        for cell in content.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert pictures


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=page_id)
def test_notebooks_define_nothing_and_store_no_results(notebook):
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        assert cell.outputs == []
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


# -------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_line_is_understood(page):
    for line, _ in command_lines(page):
        words = shlex.split(line, comments=True)[1:]
        if PLACEHOLDER.search(line) or len(words) == 1:
            assert words[0] in cli.cli.commands or PLACEHOLDER.match(words[0]), line
            continue
        parse(words, line)


def parse(words, line):
    """Let the program read the words, and stop before it does what they say."""
    context = click.Context(cli.cli, info_name="orthoflow", **cli.cli.context_settings)
    name, command, rest = cli.cli.resolve_command(context, words)
    try:
        command.make_context(name, rest, parent=context)
    except click.exceptions.Exit:
        assert "--help" in words
    except click.UsageError as error:
        pytest.fail(f"{line}: {error.format_message()}")


@pytest.mark.parametrize("page", PAGES, ids=page_id)
@pytest.mark.usefixtures("desk")
def test_cheap_commands_run_and_print_what_the_page_shows(page, capsys):
    for line, shown in command_lines(page):
        words = shlex.split(line, comments=True)[1:]
        if words[0] not in ("plan", "info") or PLACEHOLDER.search(line) or len(words) == 1:
            continue
        cli.main(words)
        printed = capsys.readouterr().out.splitlines()
        for expected in shown:
            assert expected in printed, line


def test_the_counts_in_the_readme_are_the_plans(capsys):
    row = re.compile(
        r"^\| `(orthoflow plan [^`]+)`[^|]*\| (\d[\d,]*\d)[^|]*\| ([\d.]+) million \|$", re.M
    )
    rows = row.findall((ROOT / "README.md").read_text("utf-8"))
    assert len(rows) == 4
    for line, tiles, megapixels in rows:
        cli.main([*shlex.split(line)[1:], "--json"])
        total = json.loads(capsys.readouterr().out)["total"]
        assert f"{total['tiles']:,}" == tiles
        assert f"{total['network_pixels'] / 1e6:.1f}" == megapixels


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_job_files_are_valid(page, tmp_path):
    for _, text in fences(page, "yaml"):
        file = tmp_path / "job.yaml"
        file.write_text(text)
        job = jobfile.read_job(file)
        assert {"input", "target", "model"} <= set(job)
        wishes = {k: v for k, v in job.items() if k not in ("input", "target", "model")}
        assert Options.from_mapping(wishes).changed()
        assert set(yaml.safe_load(text)) == set(job)


# ------------------------------------------------------------------------------- links and tables


@pytest.mark.parametrize("page", TEXTS, ids=page_id)
def test_internal_links_exist(page):
    text = FENCE.sub("", page.read_text("utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        if anchor:
            assert anchor in {slug(line) for line in file.read_text("utf-8").splitlines()}, target


def slug(heading):
    """The anchor that is made of a heading."""
    if not heading.startswith("#"):
        return ""
    plain = re.sub(r"[^\w\s-]", "", heading.lstrip("#").strip().lower())
    return plain.replace(" ", "-")


def test_the_index_links_every_page():
    index = (ROOT / "docs/index.md").read_text("utf-8")
    for page in PAGES[1:]:
        assert page.name == "index.md" or f"]({page.name})" in index


def test_every_key_of_a_plan_is_documented():
    from orthoflow.geometry.facts import VolumeFacts
    from orthoflow.models import Card
    from orthoflow.plan import plan_run

    facts = VolumeFacts(name="x", shape=(68, 984, 984), dtype="uint8", channels=1)
    numbers = plan_run(facts, Card(name="x", outputs=2, tile=(256, 256)), Options()).to_dict()
    page = (ROOT / "docs/planning.md").read_text("utf-8")
    keys = re.findall(r"`([\w.<>]+)`", page[page.index("## The numbers as JSON") :])
    for key in numbers:
        assert key in {k.partition(".")[0] for k in keys}
    for key in numbers["orientations"]["xy"]:
        assert f"orientations.<name>.{key}" in keys or f".{key}" in keys


def test_every_key_of_a_report_is_documented(desk, capsys):
    cli.main(
        [
            *("run", "in.zarr", "out.zarr", "--model", "demo:semantic", "--roi", "0:8,0:16,0:16"),
            *("--cluster", "synchronous", "--json"),
        ]
    )
    assert (desk / "out.zarr").is_dir()
    page = (ROOT / "docs/command-line.md").read_text("utf-8")
    for key in yaml.safe_load(capsys.readouterr().out):
        assert f"`{key}`" in page


def test_the_picture_is_small():
    assert (ROOT / "docs/images/overview.png").stat().st_size < 400_000


def test_the_page_of_promises_names_a_test_for_every_row():
    page = (ROOT / "docs/reliability.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| (F\d+) \| (.+) \|$", page, re.MULTILINE))
    assert sorted(rows, key=lambda row: int(row[1:])) == [f"F{number}" for number in range(1, 26)]
    for row, cells in rows.items():
        happens, holds, tests = cells.split(" | ")[:3]
        assert all((happens, holds))
        names = re.findall(r"`(\w+/test_\w+\.py)`", tests)
        sources = "".join((ROOT / "tests" / name).read_text("utf-8") for name in names)
        assert f"def test_{row.lower()}_" in sources, row
