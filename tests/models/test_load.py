"""Names, files and trust: what loads, what is refused, and that refused code never runs."""

from __future__ import annotations

import io
import pickle
import sys
import textwrap
import threading
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import safetensors.torch
import torch

from orthoflow.errors import BadInput
from orthoflow.models import source as sources
from orthoflow.models.card import CARD_FILE, WEIGHTS_FILE, Card, format_card
from orthoflow.models.contract import Model
from orthoflow.models.load import load_model, resolve_device, save_model
from orthoflow.models.location import sha256
from orthoflow.models.nets import UNet
from orthoflow.models.source import card_of, ref_of
from orthoflow.training.synthetic import make_volume

TILES = torch.rand((2, 1, 32, 32), generator=torch.Generator().manual_seed(0))
CARD = Card("small", outputs=2, divisor=4)


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return UNet(outputs=2, base=4, depth=2).eval()


@pytest.fixture
def folder(net, tmp_path):
    save_model(tmp_path / "small", net, CARD)
    return tmp_path / "small"


def write_card(path, card=CARD):
    path.write_text(format_card(card))


def refused(name, **options):
    """Message of the refusal; one line."""
    with pytest.raises(BadInput) as caught:
        load_model(name, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_comes_back_as_it_was(net, folder):
    model = load_model(folder)
    np.testing.assert_allclose(model(TILES), net(TILES).detach(), atol=1e-6)
    assert model.card.architecture == {"kind": "unet", "base": 4, "depth": 2, "norm": "batch"}
    assert (model.card.reach, model.card.stride) == (23, 4)
    assert model.card.activation_bytes > 4
    assert card_of(folder) == model.card
    assert ref_of(folder) == model.ref()
    assert ref_of(folder).payload is None
    assert sorted(path.name for path in folder.iterdir()) == [CARD_FILE, WEIGHTS_FILE]
    assert [path.name for path in folder.parent.iterdir()] == ["small"]


def test_a_model_is_kept_by_digest(folder, tmp_path):
    first = load_model(folder)
    assert load_model(str(folder)) is first
    assert load_model(ref_of(folder)) is first
    (folder / CARD_FILE).rename(tmp_path / "other.card.yaml")
    (folder / WEIGHTS_FILE).rename(tmp_path / "other.safetensors")
    assert load_model(tmp_path / "other.safetensors") is first


def test_threads_that_ask_at_once_get_one_model(folder):
    found = []
    threads = [threading.Thread(target=lambda: found.append(load_model(folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({id(model) for model in found}) == 1


def test_a_model_that_changed_since_the_plan_is_refused(tmp_path):
    folder = tmp_path / "other"
    save_model(folder, UNet(outputs=2, base=4, depth=2), CARD)
    ref = ref_of(folder)
    write_card(folder / CARD_FILE, card_of(folder).replace(stride=8))
    with pytest.raises(BadInput, match="not the one that was planned with"):
        load_model(ref)


def test_a_url(folder):
    store = fsspec.filesystem("memory")
    for name in (CARD_FILE, WEIGHTS_FILE):
        store.pipe_file(f"/models/small/{name}", (folder / name).read_bytes())
    model = load_model("memory://models/small")
    assert model.digest == load_model(folder).digest
    assert model.card == card_of(folder)


def test_saving_asks_before_it_replaces(net, folder):
    with pytest.raises(BadInput, match="exists; pass overwrite=True"):
        save_model(folder, net, CARD)
    save_model(folder, net, CARD.replace(name="second"), overwrite=True)
    assert card_of(folder).name == "second"
    assert [path.name for path in folder.parent.iterdir()] == ["small"]


def test_saving_leaves_nothing_behind_when_it_fails(net, tmp_path):
    with pytest.raises(BadInput, match="cannot be rebuilt from a card"):
        save_model(tmp_path / "m", torch.nn.Conv2d(1, 2, 1), CARD)
    with pytest.raises(BadInput):
        save_model(tmp_path / "m", net, CARD.replace(description="x" * 70_000))
    assert list(tmp_path.iterdir()) == []


def test_the_bundled_model_knows_cells():
    model = load_model("demo:semantic")
    assert model.card.normalization.method == "percentile"
    assert (model.card.outputs, model.card.divisor) == (2, 8)
    volume = make_volume((16, 128, 128), seed=301)
    low, high = np.percentile(volume.image, [1, 99])
    plane = (volume.image[8].astype(np.float32) - low) / (high - low)
    found = model(torch.from_numpy(plane.astype(np.float32))[None, None])[0].argmax(0).numpy() > 0
    truth = volume.labels[8] > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.8
    weights = sources.BUNDLED / "demo-semantic" / WEIGHTS_FILE
    assert weights.stat().st_size < 2_000_000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "demo:nothing",
            "'demo:nothing'; bundled: demo:flows, demo:panoptic, demo:semantic",
        ),
        ("no/such/folder", "does not exist; a model is demo:NAME"),
        ("resnet:50", "of no known form"),
        ("ftp://host/model", "scheme 'ftp' is not allowed"),
        ("simplecache::s3://bucket/model", "'::'"),
        ("s3://key:secret@bucket/model", "carries credentials"),
        ("https://host/model?X-Amz-Signature=secret", "carries credentials or a query"),
        ("https://127.0.0.1/model", "'127.0.0.1' is this machine"),
        ("https://169.254.169.254/model", "is this machine or its link"),
        ("https://localhost/model", "is this machine"),
        ("python:pkg.mod", "python:pkg.mod:obj"),
        ("python:no.such.module:net", "no module 'no.such.module'"),
        ("python:math:pi", "no module 'math' with Python source"),
    ],
)
def test_names_that_cannot_be(name, message):
    found = refused(name)
    assert message in found
    assert "secret" not in found


def test_missing_and_damaged_files(folder):
    weights = folder / WEIGHTS_FILE
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    assert "no valid safetensors file" in refused(folder)
    weights.write_bytes(b"")
    assert "no valid safetensors file" in refused(folder)
    weights.unlink()
    assert f"{WEIGHTS_FILE} is missing" in refused(folder)
    (folder / CARD_FILE).unlink()
    assert f"{CARD_FILE} does not exist" in refused(folder)


def test_weights_that_do_not_fit_the_card(folder):
    card = card_of(folder)
    write_card(folder / CARD_FILE, card.replace(outputs=3))
    assert "head.bias is (2,), wanted (3,)" in refused(folder)
    write_card(folder / CARD_FILE, card.replace(architecture=None))
    assert "no architecture" in refused(folder)
    deep = {**card.architecture, "base": 512, "depth": 7}
    write_card(folder / CARD_FILE, card.replace(architecture=deep))
    assert "do not fit the card's architecture" in refused(folder)


def test_a_checkpoint_of_tensors_loads(net, tmp_path):
    card = CARD.replace(architecture=net.architecture)
    write_card(tmp_path / "net.card.yaml", card)
    write_card(tmp_path / "old.card.yaml", card)
    torch.save({"state_dict": net.state_dict(), "epoch": 3}, tmp_path / "net.pth")
    torch.save(net.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("net.pth", "old.pt"):
        np.testing.assert_allclose(
            load_model(tmp_path / name)(TILES), net(TILES).detach(), atol=1e-6
        )
    (tmp_path / "net.card.yaml").unlink()
    assert "net.card.yaml does not exist" in refused(tmp_path / "net.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_with_code_is_refused_and_never_runs(zipped, tmp_path):
    """S1: weights_only, and no second try without it."""
    write_card(tmp_path / "evil.card.yaml")
    touched = tmp_path / "touched"
    torch.save({"w": Evil(touched)}, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    for trust in (None, sha256((tmp_path / "evil.pth").read_bytes())):
        message = refused(tmp_path / "evil.pth", trust=trust)
        assert "pickle of more than tensors" in message
        assert "safetensors.torch.save_file" in message
    assert not touched.exists()


def test_checkpoints_that_are_none(tmp_path):
    write_card(tmp_path / "x.card.yaml")
    path = tmp_path / "x.pth"
    path.write_bytes(pickle.dumps([1, 2]))
    assert "x.pth" in refused(path)
    path.write_bytes(b"not a checkpoint")
    assert "x.pth" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "hello")
    assert "damaged or no checkpoint" in refused(path)
    torch.save([torch.zeros(2)], path)
    assert "holds no state dict" in refused(path)


def test_expanded_tensors_are_refused(tmp_path):
    """S8: a kilobyte that claims 10**12 numbers, and one that claims fewer than the limit."""
    write_card(tmp_path / "x.card.yaml", CARD.replace(architecture={"kind": "unet", "base": 4}))
    for side, message in (
        (10**6, "claims 1000000000000 parameters"),
        (10**3, "and stores 4 bytes"),
    ):
        torch.save({"w": torch.zeros(1).expand(side, side)}, tmp_path / "x.pth")
        assert (tmp_path / "x.pth").stat().st_size < 10_000
        assert message in refused(tmp_path / "x.pth")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", ["net.ts", "net.pt"])
def test_torchscript_needs_trust(name, net, tmp_path):
    script = torch.jit.trace(net, TILES)
    script.save(tmp_path / name)
    write_card(tmp_path / "net.card.yaml")
    digest = sha256((tmp_path / name).read_bytes())
    assert (
        f"TorchScript, which can run any code when it is loaded; if you trust its author, pass "
        f"trust={digest!r}" in refused(tmp_path / name)
    )
    assert "names another content" in refused(tmp_path / name, trust="sha256:00")
    assert card_of(tmp_path / name) == CARD
    model = load_model(tmp_path / name, trust=digest)
    np.testing.assert_allclose(model(TILES), net(TILES).detach(), atol=1e-6)
    assert load_model(model.ref()) is model


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_exported_programs_need_trust(net, tmp_path):
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (TILES,), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "net.pt2")
    write_card(tmp_path / "net.card.yaml", Card("small", outputs=2, tile=(32, 32)))
    digest = sha256((tmp_path / "net.pt2").read_bytes())
    assert f"trust={digest!r}" in refused(tmp_path / "net.pt2")
    model = load_model(tmp_path / "net.pt2", trust=digest)
    np.testing.assert_allclose(model(TILES), net(TILES).detach(), atol=1e-6)
    (tmp_path / "net.card.yaml").unlink()
    assert "net.card.yaml does not exist" in refused(tmp_path / "net.pt2", trust=digest)


def test_a_tampered_export_never_runs(tmp_path):
    """S2: the digest is compared before anything opens the archive."""
    touched = tmp_path / "touched"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("m/data/sample_inputs/model.pt", pickle.dumps(Evil(touched)))
    (tmp_path / "evil.pt2").write_bytes(stream.getvalue())
    write_card(tmp_path / "evil.card.yaml")
    refused(tmp_path / "evil.pt2")
    refused(tmp_path / "evil.pt2", trust="sha256:" + "0" * 64)
    assert not touched.exists()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose import leaves a trace."""
    folder = tmp_path / "nets_of_a_user"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'imported')!r}).touch()\n"
    )
    (folder / "small.py").write_text(
        textwrap.dedent("""
        import torch
        from orthoflow import Model
        class Net(torch.nn.Module):
            def forward(self, tiles):
                return torch.cat((-tiles, tiles), 1)
        net = Net()
        carded = Net()
        carded.card = {"name": "carded", "outputs": 2, "divisor": 1}
        def model():
            return Model.from_torch(net, divisor=1, name="made")
        def unstable():
            torch.seed()
            return Model.from_torch(torch.nn.Conv2d(1, 2, 1), divisor=1)
        number = 5
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.startswith("nets_of_a_user")]:
        del sys.modules[name]


def test_python_objects_need_trust_before_anything_is_imported(package):
    digest = sha256((package / "small.py").read_bytes())
    name = "python:nets_of_a_user.small:model"
    assert f"trust={digest!r}" in refused(name)
    assert "names another content" in refused(name, trust="sha256:11")
    assert not (package.parent / "imported").exists()
    model = load_model(name, trust=digest)
    assert (package.parent / "imported").exists()
    np.testing.assert_array_equal(model(torch.ones(1, 1, 2, 2))[0, :, 0, 0], [-1, 1])
    assert card_of(name, trust=digest).name == "made"
    assert load_model(model.ref()) is model
    assert model.ref().payload is None
    assert load_model("python:nets_of_a_user.small:carded", trust=digest).card.name == "carded"
    assert "module without facts" in refused("python:nets_of_a_user.small:net", trust=digest)
    assert "has no 'gone'" in refused("python:nets_of_a_user.small:gone", trust=digest)
    assert "gives int" in refused("python:nets_of_a_user.small:number", trust=digest)
    ref = ref_of("python:nets_of_a_user.small:unstable", trust=digest)
    with pytest.raises(BadInput, match="not the one that was planned with"):
        load_model(ref)


def test_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(BadInput, match="'cuda:77' is not on this machine; found: cpu"):
        resolve_device("cuda:77")
    with pytest.raises(BadInput, match="'tpu'"):
        resolve_device("tpu")
    with pytest.raises(BadInput, match="precision 'int4' is unknown"):
        load_model("demo:semantic", precision="int4")


def test_no_gpu_is_never_the_cpu_by_accident(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(BadInput, match="'cuda' is not on this machine; found: cpu"):
        resolve_device("cuda")


@pytest.mark.gpu
def test_on_a_gpu_logits_agree_with_the_cpu():
    model, there = load_model("demo:semantic"), load_model("demo:semantic", device="auto")
    assert there.device.type == "cuda"
    near = there(TILES.to(there.device)).cpu()
    np.testing.assert_allclose(near, model(TILES), atol=0.02 * float(model(TILES).std()))


def test_the_card_says_one_name_of_a_model_in_memory(net):
    model = Model.from_torch(net)
    assert model.card.divisor == 4
    assert model.card.name == "UNet"


def test_safetensors_hold_what_was_trained(net, folder):
    state = safetensors.torch.load_file(folder / WEIGHTS_FILE)
    assert state.keys() == net.state_dict().keys()
    for name, tensor in net.state_dict().items():
        assert torch.equal(state[name], tensor)
