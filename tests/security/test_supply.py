"""S14: what the package is made of, what it asks for, and what its own code may call."""

from __future__ import annotations

import ast
import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
import unicodedata
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from orthoflow.models.adapt import SAFE_TORCH

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "orthoflow"
MODULES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DEVELOPERS = {"test", "light"}

WEIGHTS = {
    "demo-flows/card.yaml": "7a7eba0bbfeb42155821e260ad40533d3371e5520081bda4895959fce2b732ac",
    "demo-flows/weights.safetensors": (
        "3f5a6badc866ba7341b107df036652e2027d8a2dd846618afaf6147e9478f4ff"
    ),
    "demo-panoptic/card.yaml": "0bfecd0661f81cc85eb9cd3e120d9517ebb6b5eb557b6c75d64370e45961f7d2",
    "demo-panoptic/weights.safetensors": (
        "724624eee167831bffada96dc756043a6f86364a1087f4df6d71c547ec0af677"
    ),
    "demo-semantic/card.yaml": "72390f26efd49c954b24b7aea226a74230f0b0cdde59390127a0025e2c89191e",
    "demo-semantic/weights.safetensors": (
        "49ce1f1959c9675c0f5b313b2b392d3c216dd71219c54aaab6dd959fd2a71713"
    ),
}
"""Files of bundled models; a change here is one that somebody has to look at."""


# ------------------------------------------------------------------------------- requirements


def requirements():
    """Extra (None for what everybody gets) and requirement."""
    project = PROJECT["project"]
    groups = {None: project["dependencies"], **project["optional-dependencies"]}
    for extra, texts in groups.items():
        for text in texts:
            yield extra, Requirement(text)
    for text in PROJECT["build-system"]["requires"]:
        yield "build", Requirement(text)


def test_s14_requirements_come_from_the_registry_and_have_a_lower_bound():
    """Older versions are not tested, and some have holes that are known."""
    found = [(extra, one) for extra, one in requirements() if one.name != "orthoflow"]
    assert len(found) > 25
    for extra, one in found:
        assert one.url is None, one
        assert extra in DEVELOPERS or any(part.operator == ">=" for part in one.specifier), one
        assert not any(part.operator in {"==", "==="} for part in one.specifier), one


def test_s14_torch_is_new_enough_by_requirement_as_by_look():
    (torch,) = [
        one for extra, one in requirements() if one.name == "torch" and extra == "inference"
    ]
    assert torch.specifier == SpecifierSet(f">={'.'.join(map(str, SAFE_TORCH))}")


@pytest.mark.parametrize("name", ["Makefile", ".ci/run", "constraints.txt", "pyproject.toml"])
def test_s14_nothing_is_installed_from_elsewhere(name):
    text = (ROOT / name).read_text()
    for word in ("git+", "--index-url", "--extra-index-url", "--trusted-host", "curl ", "wget "):
        assert word not in text, word


# ------------------------------------------------------------------------------- the package


def test_s14_the_package_holds_code_and_the_bundled_weights_only():
    others = {
        str(path.relative_to(PACKAGE / "models/weights"))
        if path.is_relative_to(PACKAGE / "models/weights")
        else path.name
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyi", ".pyc"}
    }
    assert others == {*WEIGHTS, "py.typed"}
    for name, digest in WEIGHTS.items():
        content = (PACKAGE / "models/weights" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest, name


@pytest.mark.slow
def test_s14_a_wheel_holds_the_same(tmp_path):
    for name in ("pyproject.toml", "README.md", "LICENSE", "orthoflow"):
        source, target = ROOT / name, tmp_path / "tree" / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    # What may lie about in a tree does not come along.
    (tmp_path / "tree/tests").mkdir()
    (tmp_path / "tree/tests/__init__.py").write_text("")
    (tmp_path / "tree/orthoflow/notes.pth").write_bytes(b"x")
    (tmp_path / "tree/orthoflow/.env").write_text("SECRET=x")
    code = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=tmp_path / "tree", check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    packaged = {name for name in names if ".dist-info/" not in name}
    sources = {str(path.relative_to(ROOT)) for path in (*MODULES, *PACKAGE.rglob("*.pyi"))}
    weights = {f"orthoflow/models/weights/{name}" for name in WEIGHTS}
    assert packaged == sources | weights | {"orthoflow/py.typed"}


def test_s14_sources_read_as_they_run():
    """No characters that turn the order of others around, or are not seen."""
    for path in MODULES:
        hidden = {one for one in path.read_text("utf-8") if unicodedata.category(one) == "Cf"}
        assert not hidden, path


# ------------------------------------------------------------------------------- calls

# Calls that run code or read what may: where they are, why, and nowhere else.
ALLOWED = {
    ("models/adapt.py", "torch.load"): "weights_only=True, see below",
    ("models/adapt.py", "torch.jit.load"): "after the digest was trusted",
    ("models/adapt.py", "torch.export.load"): "after the digest was trusted",
    ("models/load.py", "pickle.loads"): "the module of a model in memory, from our own client",
    ("models/contract.py", "cloudpickle.dumps"): "the same, on its way",
    ("models/fingerprint.py", "cloudpickle.dumps"): "for a digest",
    ("graph.py", "pickle.dumps"): "the job, on its way to workers",
    ("graph.py", "pickle.loads"): "the job, from our own client",
    ("models/verified.py", "importlib.import_module"): "the package around trusted source",
    ("kernels/allocator.py", "ctypes.CDLL"): "the C library of this process",
}
MODULES_OF_INTEREST = {
    *("pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "subprocess", "ctypes"),
    *("runpy", "code", "codeop", "pty", "commands", "imp", "pydoc", "webbrowser", "ftplib"),
    *("telnetlib", "smtplib", "xmlrpc", "http", "urllib.request", "socketserver", "pdb"),
}
CALLS_OF_INTEREST = {
    *("eval", "exec", "compile", "__import__", "breakpoint"),
    *("torch.load", "torch.jit.load", "torch.export.load", "torch.hub.load", "torch.package"),
    *("numpy.load", "pandas.read_pickle", "yaml.load", "yaml.load_all", "yaml.unsafe_load"),
    *("yaml.full_load", "os.system", "os.popen", "tempfile.mktemp", "importlib.import_module"),
    *("importlib.metadata.entry_points", "multiprocessing.Process"),
}
HARMLESS = {"pickle.UnpicklingError"}
DANGEROUS_KEYWORDS = {
    ("shell", True),
    ("allow_pickle", True),
    ("weights_only", False),
    ("verify", False),
    ("ssl", False),
    ("trust_remote_code", True),
}


def names_of(tree):
    """What local names stand for: ``np`` for ``numpy``, ``loads`` for ``pickle.loads``."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                found[one.asname or one.name.partition(".")[0]] = (
                    one.name if one.asname else one.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for one in node.names:
                found[one.asname or one.name] = f"{node.module}.{one.name}"
    return found


def dotted(node, names):
    """``np.load`` as ``numpy.load``; None for what is no plain name."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([names.get(node.id, node.id), *reversed(parts)])


def of_interest(source):
    """Uses, in a module's source, of what may run code; and keywords that switch a defence off."""
    tree = ast.parse(source)
    names = names_of(tree)
    used, keywords = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = dotted(node, names)
            if name is None or name in HARMLESS:
                continue
            parts = name.split(".")
            heads = {".".join(parts[:count]) for count in range(1, len(parts))}
            imported = parts[0] in {one.partition(".")[0] for one in names.values()}
            interesting = (imported and heads & MODULES_OF_INTEREST) or name in CALLS_OF_INTEREST
            if interesting or name.startswith(("os.exec", "os.spawn")):
                used.add(name)
        elif isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            keywords.add((node.arg, node.value.value))
    return used, keywords & DANGEROUS_KEYWORDS


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "import pickle\npickle.loads(b'')",
        "import pickle as p\np.load(f)",
        "from pickle import loads as read\nread(b'')",
        "from pickle import Unpickler\nclass Mine(Unpickler): pass",
        "import numpy as np\nnp.load('x')",
        "import yaml\nyaml.load(x)",
        "import os\nos.system('x')",
        "import os\nos.execv('x', [])",
        "from os import system\nsystem('x')",
        "import subprocess\nsubprocess.run(x)",
        "from importlib import import_module\nimport_module('x')",
        "import urllib.request\nurllib.request.urlopen(x)",
        "import torch\ntorch.load(x)",
        "f(x, shell=True)",
        "f(x, allow_pickle=True)",
        "f(x, weights_only=False)",
    ],
)
def test_s14_the_look_at_calls_sees_them(source):
    used, keywords = of_interest(source)
    assert used or keywords


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_s14_nothing_that_runs_code_is_called_but_where_it_must(path):
    used, keywords = of_interest(path.read_text())
    inside = str(path.relative_to(PACKAGE))
    assert used <= {name for file, name in ALLOWED if file == inside}
    assert not keywords


def test_s14_the_list_of_exceptions_is_not_longer_than_it_has_to_be():
    found = set()
    for path in MODULES:
        used, _ = of_interest(path.read_text())
        found |= {(str(path.relative_to(PACKAGE)), name) for name in used}
    assert found == set(ALLOWED)


def test_s14_checkpoints_are_read_with_weights_only_written_out():
    """Not by torch's default, which another version or a variable may change."""
    tree = ast.parse((PACKAGE / "models/adapt.py").read_text())
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and dotted(node.func, {}) == "torch.load"
    ]
    assert len(calls) == 1
    keywords = {one.arg: ast.unparse(one.value) for one in calls[0].keywords}
    assert keywords["weights_only"] == "True"
    assert "pickle_module" not in keywords


# ------------------------------------------------------------------------------- the page


def test_s14_the_page_names_a_defence_and_tests_for_every_row():
    page = (ROOT / "docs/security.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| (S\d+) \| (.+) \|$", page, re.MULTILINE))
    assert list(rows) == [f"S{number}" for number in range(1, 15)]
    sources = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    for row, cells in rows.items():
        assert f"def test_{row.lower()}_" in sources
        threat, defence, tests, limit = cells.split(" | ")
        assert all((threat, defence, limit))
        for name in re.findall(r"`(\w+/test_\w+\.py)`", tests):
            assert (ROOT / "tests" / name).exists(), name
