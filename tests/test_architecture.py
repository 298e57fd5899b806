"""The shape of the code: lengths, names, arithmetic in its place, and what an import may cost.

Import directions are import-linter's (``make lint``).
"""

from __future__ import annotations

import ast
import io
import json
import os
import socket
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "orthoflow"
MODULES = sorted(PACKAGE.rglob("*.py"))

MODULE_CODE_LINES = 400
FUNCTION_CODE_LINES = 50
PUBLIC_NAMES = 10  # functions and classes of a module
ROOT_PUBLIC_NAMES = 25
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
HEAVY = ("torch", "dask", "distributed", "zarr", "fsspec", "xarray")

every_module = pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))

_LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT}


def code_lines(source):
    """Numbers of the lines that hold code: no blank lines, comments or docstrings."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _LAYOUT | {tokenize.ENDMARKER}:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return lines


def public_names(tree):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = [node.name for node in tree.body if isinstance(node, kinds)]
    return [name for name in names if not name.startswith("_")]


def test_code_lines_leaves_out_blank_lines_comments_and_docstrings():
    source = (
        '"""Doc\nstring."""\n\n# why\ndef f(x):\n    """Doc."""\n    return (\n        x\n    )\n'
    )
    assert code_lines(source) == {5, 7, 8, 9}


@every_module
def test_modules_and_functions_stay_short(path):
    source = path.read_text()
    lines = code_lines(source)
    assert len(lines) <= MODULE_CODE_LINES, f"{len(lines)} lines of code: is one room two?"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = len(lines & set(range(node.lineno, node.end_lineno + 1)))
            assert length <= FUNCTION_CODE_LINES, f"{node.name}: {length} lines of code"


@every_module
def test_modules_export_few_names(path):
    names = public_names(ast.parse(path.read_text()))
    assert len(names) <= PUBLIC_NAMES, names


def test_the_root_exports_few_names_and_each_exists():
    import orthoflow

    assert len(orthoflow.__all__) <= ROOT_PUBLIC_NAMES
    for name in orthoflow.__all__:
        assert getattr(orthoflow, name) is not None


def test_no_junk_drawers():
    names = {part for path in MODULES for part in (path.stem, path.parent.name)}
    assert not names & BANNED_NAMES


@pytest.mark.parametrize("name", ["graph.py", "pipeline.py"])
def test_the_glue_does_no_arithmetic(name):
    """Numbers are decided in geometry and plan; here they are only passed on."""
    for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
        if isinstance(node, ast.BinOp | ast.AugAssign):
            where = f"{name}:{node.lineno}"
            assert not isinstance(node.op, ast.FloorDiv | ast.Mod), f"{where}: arithmetic"
        if isinstance(node, ast.Name):
            assert node.id not in {"np", "numpy"}, f"{name}:{node.lineno}: NumPy"


def loaded_by(code):
    """Which heavy packages a fresh interpreter has loaded after running `code`."""
    probe = f"import json, sys; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    environment = {key: value for key, value in os.environ.items() if key != "EAGER_IMPORT"}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{probe}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_package_is_cheap():
    assert loaded_by("import orthoflow; orthoflow.BadInput") == []


def test_help_is_cheap():
    code = (
        "import sys; sys.argv = ['orthoflow', '--help']\n"
        "from orthoflow.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code"
    )
    loaded = loaded_by(code)
    assert not {"torch", "dask", "distributed", "zarr"} & set(loaded)


def test_the_probe_sees_a_heavy_import():
    assert loaded_by("import fsspec") == ["fsspec"]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.name)
def test_notebooks_only_use_the_package(path):
    """A function in a notebook is a function that nobody tests."""
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            lines = "".join(cell["source"]).splitlines()
            code = "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))
            for node in ast.walk(ast.parse(code)):
                assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def test_tests_cannot_reach_the_network():
    with pytest.raises(PermissionError, match="may not connect"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


def test_a_missing_service_skips_here_and_fails_in_ci(require_service, monkeypatch):
    require_service("object store", None)
    monkeypatch.delenv("REQUIRE_SERVICES", raising=False)
    with pytest.raises(pytest.skip.Exception, match="object store: not installed"):
        require_service("object store", "not installed")
    monkeypatch.setenv("REQUIRE_SERVICES", "1")
    with pytest.raises(pytest.fail.Exception, match="REQUIRE_SERVICES"):
        require_service("object store", "not installed")
