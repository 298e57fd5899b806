"""S1 to S4 and S8: model files that run code, that swell, or that claim to be what they are not.

What is refused is in `tests/models/test_load.py` too; here is what an attacker tries next.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import py_compile
import socket
import struct
import sys
import textwrap
import zipfile

import fsspec
import pytest
import safetensors.torch
import torch
from torch.package import PackageExporter

from orthoflow.models import adapt
from orthoflow.models.card import MAX_CARD_BYTES, Card, format_card, parse_card
from orthoflow.models.load import load_model
from orthoflow.models.location import sha256
from orthoflow.models.nets import UNet
from orthoflow.models.source import card_of, ref_of
from tests.security.hostile import MEBI, Evil, memory_grows_by_at_most, refusal, rezipped

TILES = torch.zeros((1, 1, 16, 16))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return UNet(outputs=2, base=4, depth=2).eval()


@pytest.fixture
def place(net, tmp_path):
    """Write a file "model" with this content and suffix, beside a right card."""
    card = Card("small", outputs=2, divisor=4, architecture=net.architecture)
    (tmp_path / "model.card.yaml").write_text(format_card(card))

    def write(content, suffix=".pth"):
        path = tmp_path / f"model{suffix}"
        path.write_bytes(content)
        return path

    return write


def saved(content, **options):
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


# ------------------------------------------------------------------------------- S1: pickles


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("forced", [True, False], ids=["environment", "plain"])
def test_s1_a_checkpoint_that_runs_code_is_refused(zipped, forced, place, trap, monkeypatch):
    content = saved({"w": Evil(trap.path)}, _use_new_zipfile_serialization=zipped)
    with trap.live():
        torch.load(io.BytesIO(content), weights_only=False)
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = place(content)
    for trust in (None, sha256(content)):
        message = refusal(load_model, path, trust=trust)
        assert "safetensors.torch.save_file" in message
        # torch advises to read the file with code after all; that is not passed on.
        assert "weights_only" not in message
        assert "two options" not in message


def test_s1_code_hidden_in_an_honest_checkpoint_is_refused(net, place, trap):
    """Weights are all there; the code comes along in an entry of its own."""
    honest = saved({"state_dict": net.state_dict(), "epoch": 3})
    load_model(place(honest))
    content = saved({"state_dict": net.state_dict(), "optimizer": Evil(trap.path)})
    with trap.live():
        torch.load(io.BytesIO(content), weights_only=False)
    refusal(load_model, place(content))


@pytest.mark.parametrize("version", ["2.9.1", "2.5.0+cu124", "1.13.1"])
def test_s1_torch_of_known_holes_reads_no_pickle(version, net, place, monkeypatch):
    path = place(saved(net.state_dict()))
    monkeypatch.setattr(torch, "__version__", version)
    message = refusal(load_model, path)
    assert f"torch {version} does not read safely" in message
    assert "torch >= 2.10" in message
    # safetensors hold no pickle.
    load_model(place(safetensors.torch.save(net.state_dict()), ".safetensors"))


@pytest.mark.parametrize("version", ["2.10.0", "2.10.0a0+git1234", "2.13.0+cpu", "3.0"])
def test_s1_later_versions_of_torch_are_not_refused(version, net, place, monkeypatch):
    path = place(saved(net.state_dict()))
    monkeypatch.setattr(torch, "__version__", version)
    load_model(path)


# ------------------------------------------------------------------------- S2: exported programs


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_s2_an_export_that_was_changed_after_it_was_trusted_is_refused(net, place, trap):
    stream = io.BytesIO()
    torch.export.save(torch.export.export(net, (TILES,)), stream)
    honest = stream.getvalue()
    trust = sha256(honest)
    with zipfile.ZipFile(io.BytesIO(honest)) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
    (inputs,) = [name for name in names if "sample_inputs" in name and name.endswith(".pt")]
    changed = rezipped(honest, {inputs: saved((Evil(trap.path),))}, compress=False)
    # What torch 2.13 then wants to log about it has one value too few.
    with trap.live(), contextlib.suppress(TypeError):
        torch.export.load(io.BytesIO(changed))
    path = place(changed, ".pt2")
    assert f"trust={sha256(changed)!r}" in refusal(load_model, path)
    assert "names another content" in refusal(load_model, path, trust=trust)
    assert "names another content" in refusal(ref_of, path, trust=trust)
    assert card_of(path).name == "small"  # the card is data, and needs no trust


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_s2_what_is_trusted_is_compared_again_where_it_is_loaded(net, place):
    """Workers get a reference: the file may have been changed since the driver looked."""
    stream = io.BytesIO()
    torch.jit.save(torch.jit.trace(net, TILES), stream)
    path = place(stream.getvalue(), ".ts")
    ref = ref_of(path, trust=sha256(stream.getvalue()))
    place(stream.getvalue() + b" ", ".ts")
    assert "names another content" in refusal(load_model, ref)


# ------------------------------------------------------------------------- S3: archives with code


@pytest.fixture
def package(trap):
    """A torch.package archive whose import springs the trap."""
    stream = io.BytesIO()
    with PackageExporter(stream) as exporter:
        exporter.save_source_string("evil", trap.source())
        exporter.save_pickle("model", "model.pkl", {"a": 1})
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ts"])
def test_s3_torchscript_is_code_under_any_name(suffix, net, place):
    stream = io.BytesIO()
    torch.jit.save(torch.jit.trace(net, TILES), stream)
    message = refusal(load_model, place(stream.getvalue(), suffix))
    assert "TorchScript, which can run any code" in message
    assert "names another content" in refusal(
        load_model, place(stream.getvalue(), suffix), trust="sha256:" + "0" * 64
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_s3_torchscript_that_hides_from_our_look_is_refused_by_torch(net, place, monkeypatch):
    stream = io.BytesIO()
    torch.jit.save(torch.jit.trace(net, TILES), stream)
    monkeypatch.setattr("orthoflow.models.source._is_torchscript", lambda _: False)
    monkeypatch.setattr(adapt, "_check_archive", lambda *_: None)
    assert "TorchScript" in refusal(load_model, place(stream.getvalue(), ".pt"))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_s3_a_torch_package_is_no_checkpoint(suffix, package, place, trap):
    with trap.live():
        torch.package.PackageImporter(io.BytesIO(package)).import_module("evil")
    refusal(load_model, place(package, suffix))


@pytest.mark.parametrize("suffix", [".pt2", ".ts"])
def test_s3_a_torch_package_needs_trust_where_code_does(suffix, package, place):
    assert f"trust={sha256(package)!r}" in refusal(load_model, place(package, suffix))


@pytest.mark.parametrize("suffix", [".so", ".dll", ".aoti", ".pkl", ".joblib", ".onnx", ".npz"])
def test_s3_libraries_and_other_pickles_are_no_models(suffix, place, trap):
    refusal(load_model, place(trap.pickled(), suffix), trust=sha256(trap.pickled()))


# ------------------------------------------------------------------------- S4: paths of imports


@pytest.mark.parametrize(
    "name",
    [
        *("hf://org/model", "huggingface://org/model", "hub://org/model", "github://o:r@main/m"),
        *("git+https://host/repo", "torchhub:org/model", "ftp://host/m.pth", "http://host/m"),
        *("simplecache::https://host/m", "zip://m::https://host/a.zip", "reference://x"),
        *("https://localhost/m", "https://2130706433/m", "https://[::ffff:127.0.0.1]/m"),
        *("https://0xA9FEA9FE/m", "https://metadata.google.internal./m"),
    ],
)
def test_s4_names_that_lead_elsewhere_fetch_nothing(name, monkeypatch):
    def opened(*arguments, **options):
        pytest.fail(f"opened {arguments} {options}")

    monkeypatch.setattr(fsspec, "open", opened)
    monkeypatch.setattr(socket, "getaddrinfo", opened)
    monkeypatch.setattr(socket.socket, "connect", opened)
    for call in (load_model, card_of, ref_of):
        refusal(call, name)


@pytest.mark.parametrize("name", ["../x", "semantic/../semantic", "../demo-semantic", "", "/"])
def test_s4_bundled_names_are_names(name):
    assert "no bundled model" in refusal(load_model, f"demo:{name}")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """An honest module of a user's; imported afresh by each test."""
    folder = tmp_path / "lib"
    folder.mkdir()
    path = folder / "users_net.py"
    path.write_text(
        textwrap.dedent("""
        import torch
        from orthoflow import Model
        def model():
            net = torch.nn.Conv2d(1, 2, 1, bias=False)
            torch.nn.init.ones_(net.weight)
            return Model.from_torch(net, divisor=1)
        """)
    )
    monkeypatch.syspath_prepend(str(folder))
    yield path
    sys.modules.pop("users_net", None)


def test_s4_the_trusted_source_runs_and_not_a_compiled_file_beside_it(module, trap, tmp_path):
    """A .pyc that says it belongs to the source is what Python's own import would run."""
    honest = module.read_bytes()
    evil = tmp_path / "evil.py"
    evil.write_text(trap.source() + honest.decode())
    cached = importlib.util.cache_from_source(str(module))
    py_compile.compile(
        str(evil), cached, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    with trap.live():
        importlib.import_module("users_net")
    del sys.modules["users_net"]
    model = load_model("python:users_net:model", trust=sha256(honest))
    assert model.card.outputs == 2
    assert sys.modules["users_net"].__file__ == str(module)


def test_s4_a_module_that_fails_is_not_left_half_made(module):
    module.write_text("import torch\nraise RuntimeError('not here')\n")
    with pytest.raises(RuntimeError, match="not here"):
        load_model("python:users_net:model", trust=sha256(module.read_bytes()))
    assert "users_net" not in sys.modules


def test_s4_packages_are_imported_with_what_lies_in_them(module):
    package = module.parent / "users_nets"
    package.mkdir()
    (package / "__init__.py").write_text("from orthoflow import Model\nname = 'made'\n")
    (package / "small.py").write_text(
        "import torch\nfrom . import name, Model\n"
        "def model():\n"
        "    return Model.from_torch(torch.nn.Conv2d(1, 2, 1), divisor=1, name=name)\n"
    )
    name = "python:users_nets.small:model"
    try:
        trust = sha256((package / "small.py").read_bytes())
        assert card_of(name, trust=trust).name == "made"
        assert sys.modules["users_nets"].small is sys.modules["users_nets.small"]
    finally:
        for one in [one for one in sys.modules if one.startswith("users_nets")]:
            del sys.modules[one]


# ------------------------------------------------------------------------- S8: files that swell


def lying(content, old, new):
    """A checkpoint whose pickle says something else, of the same length."""
    assert content.count(old) == 1
    return content.replace(old, new)


UNPLAIN = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "csr": lambda: torch.eye(3).to_sparse_csr(),
    "meta": lambda: torch.empty(10**6, device="meta"),
    "expanded": lambda: torch.zeros(1).expand(10**6, 10**6),
    "expanded a little": lambda: torch.zeros(1).expand(100, 100),
    "quantized": lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
}
"""Tensors that torch saves, and that no U-Net is made of."""


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", UNPLAIN)
def test_s8_tensors_that_are_not_what_is_stored_are_refused(kind, place):
    content = saved({"w": UNPLAIN[kind]()})
    assert len(content) < 10_000
    with memory_grows_by_at_most(64 * MEBI):
        message = refusal(load_model, place(content))
    assert "tensor 'w'" in message or "parameters" in message


def test_s8_a_network_without_numbers_is_refused(net, place):
    state = {name: torch.empty_like(one, device="meta") for name, one in net.state_dict().items()}
    assert "stores 0 bytes" in refusal(load_model, place(saved(state)))


def test_s8_one_number_is_not_many_weights(net, place):
    """Views of one storage: each tensor alone is covered, all together are not."""
    largest = max(tensor.numel() for tensor in net.state_dict().values())
    shared = torch.zeros(largest)
    state = {
        name: shared[: one.numel()].view(one.shape)
        for name, one in net.state_dict().items()
        if one.is_floating_point()
    }
    state |= {n: one for n, one in net.state_dict().items() if not one.is_floating_point()}
    assert "they share memory" in refusal(load_model, place(saved(state)))


@pytest.mark.parametrize("keys", [(1, 2), (1, "a"), (("a",), "b")])
def test_s8_names_are_text(keys, place):
    content = saved({key: torch.zeros(1) for key in keys})
    assert "no state dict" in refusal(load_model, place(content))


@pytest.mark.parametrize("member", ["data/0", "data.pkl"])
def test_s8_a_zip_bomb_is_not_unpacked(member, place):
    """Hundreds of megabytes in one, as a tensor or as a pickle of 64 million lists."""
    bomb = bytes(256 * MEBI) if member == "data/0" else b"\x80\x02" + b"]0" * 2**26 + b"N."
    content = rezipped(saved({"w": torch.zeros(4)}), {member: bomb}, compress=True)
    size = len(bomb)
    del bomb
    assert len(content) < 2 * MEBI < size
    with memory_grows_by_at_most(64 * MEBI):
        assert "unpacks to" in refusal(load_model, place(content))


def test_s8_a_pickle_of_lists_beside_the_tensors_is_not_read(place, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    pickle = b"\x80\x02" + b"]0" * (adapt.MAX_INDEX_BYTES // 2) + b"N."
    content = rezipped(saved({"w": torch.zeros(4)}), {"data.pkl": pickle}, compress=False)
    assert "beside its tensors" in refusal(load_model, place(content))


@pytest.mark.parametrize("count", [2**30, 2**37])
def test_s8_a_legacy_checkpoint_that_lies_about_its_size(count, place):
    content = saved({"w": torch.zeros(4)}, _use_new_zipfile_serialization=False)
    number = b"\x8a\x06" + count.to_bytes(6, "little")
    content = lying(content, b"cpuq\x06K\x04", b"cpuq\x06" + number)
    with memory_grows_by_at_most(64 * MEBI):
        refusal(load_model, place(content))


def test_s8_a_broken_archive_is_damaged(place):
    content = saved({"w": torch.zeros(4)})
    for broken in (content[:-1], content[:-30], content + b"PK\x05\x06" + bytes(18), content[9:]):
        refusal(load_model, place(broken))


def header_of(content, *, length=None):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


def one_of(dtype, shape, size):
    return header_of({"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}})


@pytest.mark.parametrize(
    "content",
    [
        header_of({}, length=2**62),
        header_of({}, length=99 * MEBI),
        header_of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        header_of({f"w{n}": n for n in range(10**6)}),
        one_of("F32", [2**40], 4) + bytes(4),
        one_of("F32", [2**63, 2], 4) + bytes(4),
        one_of("F32", [2**63, 0], 0),
        one_of("F4", [2], 1) + bytes(1),
        one_of("F32", [1], 2**40) + bytes(4),
    ],
    ids=["length", "long", "deep", "many", "shape", "overflow", "empty", "dtype", "offset"],
)
def test_s8_headers_of_safetensors_that_swell(content, place):
    with memory_grows_by_at_most(64 * MEBI):
        assert "no valid safetensors file" in refusal(load_model, place(content, ".safetensors"))


@pytest.mark.parametrize(
    "facts",
    [
        {"tile": [10**6, 10**6]},
        {"tile": [2**20, 2**20, 2**20], "ndim": 3},
        {"divisor": 10**9},
        {"divisor": 8, "channels": 10**9},
        {"divisor": 8, "outputs": 10**9},
        {"divisor": 8, "outputs": 2**62},
    ],
    ids=lambda facts: "-".join(facts),
)
def test_s8_a_card_cannot_ask_for_a_tile_that_fills_the_memory(facts):
    message = refusal(Card.from_dict, {"name": "c", "outputs": 2, **facts})
    assert "at most 1073741824" in message


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
        "a: &a [*a]",
        "a: " + "[" * 20_000 + "]" * 20_000,
        "[" * 60_000,
        "a: [" + ",".join("1" * 20_000) + "]",
        "a: " + "1" * 60_000,
        "a: 1" + ":59" * 15_000,
        "a: 2001-99-99",
        "a: !!timestamp x",
        "a: !!int ''",
        "a: !!bool maybe",
        "a: !!python/object/apply:os.system [id]",
        "a: !!python/name:os.system",
        "? [a]\n: 1",
        "a: \0",
    ],
    ids=lambda text: text[:24].replace("\n", " ").replace("\0", "NUL"),
)
def test_s8_cards_of_yaml_that_swells_or_stumbles(text):
    assert len(text) <= MAX_CARD_BYTES
    with memory_grows_by_at_most(32 * MEBI):
        assert "not plain YAML" in refusal(parse_card, text, where="card.yaml")


def test_s8_a_card_of_gigabytes_is_not_read(place, tmp_path):
    path = place(saved({}))
    os.truncate(tmp_path / "model.card.yaml", 2**33)
    with memory_grows_by_at_most(32 * MEBI):
        assert "more than 65536 bytes" in refusal(card_of, path)
