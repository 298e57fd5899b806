"""Models onto devices: loaded once per process, by digest."""

from __future__ import annotations

import copy
import functools
import pickle
import shutil
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch

from orthoflow.errors import BadInput
from orthoflow.models import source as sources
from orthoflow.models.adapt import build_module, import_model
from orthoflow.models.card import CARD_FILE, WEIGHTS_FILE, Card, ModelRef, format_card, parse_card
from orthoflow.models.contract import Model, Precision, place
from orthoflow.models.location import sha256
from orthoflow.models.nets import UNet
from orthoflow.models.reach import activation_bytes, measure_reach

if TYPE_CHECKING:
    from orthoflow.models.source import Source

# Two threads of a worker that want the same model must not both read it.
_LOADING = threading.Lock()
PRECISIONS = ("float32", "bfloat16")
KEPT_MODELS = 4


def load_model(
    model: Model | ModelRef | str | Path,
    *,
    device: str = "cpu",
    precision: Precision = "float32",
    trust: str | None = None,
) -> Model:
    """Load a model for inference; kept per process by digest, device and precision.

    Parameters
    ----------
    model
        "demo:semantic", a folder with `card.yaml` and `weights.safetensors` (path or URL), a file
        (.safetensors, .pt, .pth; .ts and .pt2 with trust), "python:pkg.mod:obj" with trust, a
        reference, or a model (to put it on another device).
    device
        "auto" (the first GPU if there is one), "cpu", "cuda" or "cuda:1".
    precision
        "float32" or "bfloat16"; logits are float32 either way.
    trust
        ``sha256:…`` of code that may be run: the module's source file, or the file itself.

    Raises
    ------
    BadInput
        When there is no such model or device, the model breaks the contract, or it is code and
        `trust` is not its digest.
    """
    if precision not in PRECISIONS:
        raise BadInput(f"precision {precision!r} is unknown; use one of {', '.join(PRECISIONS)}")
    place_on = resolve_device(device)
    if isinstance(model, Model):
        model = model.ref()
    ref = model if isinstance(model, ModelRef) else sources.ref_of(model, trust)
    with _LOADING:
        return _kept(ref, str(place_on), precision)


def resolve_device(device: str) -> torch.device:
    """Torch device for "auto", "cpu", "cuda" or "cuda:N".

    Raises
    ------
    BadInput
        When this machine has no such device; asked for a GPU, never the CPU instead.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = ["cpu", *(f"cuda:{index}" for index in range(count))]
    if device == "auto":
        device = "cuda" if count else "cpu"
    if device == "cuda" and count:
        return torch.device("cuda", torch.cuda.current_device())
    if device not in found:
        raise BadInput(f"device {device!r} is not on this machine; found: {', '.join(found)}")
    return torch.device(device)


def save_model(
    folder: str | Path, module: torch.nn.Module, card: Card, *, overwrite: bool = False
) -> Card:
    """Write a U-Net of ours as a folder of `weights.safetensors` and `card.yaml`.

    The folder appears whole or not at all. `reach`, `stride` and `activation_bytes` are measured
    where the card has none; `architecture` is the module's.

    Raises
    ------
    BadInput
        When the folder exists and `overwrite` is not set, or the module is not one that a card can
        describe.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise BadInput(f"model folder {folder} exists; pass overwrite=True or another folder")
    if not isinstance(module, UNet):
        raise BadInput(
            f"{type(module).__name__} cannot be rebuilt from a card, only orthoflow's UNet can; "
            "offer it as python:pkg.mod:obj, or export it to .pt2"
        )
    card = _measured(module, card.replace(architecture=module.architecture, digest=None))
    text = format_card(card)
    parse_card(text, where=f"the card for {folder}")
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir(parents=True)
    try:
        (partial / WEIGHTS_FILE).write_bytes(safetensors.torch.save(state))
        (partial / CARD_FILE).write_text(text, encoding="utf-8")
        _put_in_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return card


def _put_in_place(partial: Path, folder: Path) -> None:
    """Rename; an older folder steps aside first, since no rename replaces a full folder."""
    if not folder.exists():
        partial.rename(folder)
        return
    old = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.partial")
    folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old)


@functools.lru_cache(maxsize=KEPT_MODELS)
def _kept(ref: ModelRef, device: str, precision: Precision) -> Model:
    """Load by reference; equal digests are one entry."""
    if ref.payload is not None:
        module: torch.nn.Module = pickle.loads(ref.payload)
        return _placed(module, ref, device, precision)
    source = sources.find_source(ref.source)
    if source.kind == "python":
        model = import_model(source, trust=ref.trust)
        _same(ref, model.digest)
        # The imported object is its owner's: it must not be moved or cast here.
        return _placed(copy.deepcopy(model.module), ref, device, precision)
    return _placed(_from_files(source, ref), ref, device, precision)


def _from_files(source: Source, ref: ModelRef) -> torch.nn.Module:
    card = sources.read_source_card(source)
    content = sources.read_weights(source, trust=ref.trust)
    _same(ref, card.digest_of(sha256(content)))
    return build_module(source, sources.kind_of(source, content), content, card)


def _same(ref: ModelRef, digest: str) -> None:
    if digest != ref.digest:
        raise BadInput(
            f"model {ref.source!r} is not the one that was planned with: its digest is {digest}, "
            f"then it was {ref.digest}; it must not change during a run"
        )


def _placed(module: torch.nn.Module, ref: ModelRef, device: str, precision: Precision) -> Model:
    return place(
        module,
        ref.card,
        digest=ref.digest,
        device=torch.device(device),
        precision=precision,
        reference=ref,
    )


def _measured(module: torch.nn.Module, card: Card) -> Card:
    model = Model.from_card(module, card)
    reach, stride = measure_reach(model)
    used = activation_bytes(model, card.example_shape(least=256 if card.ndim == 2 else 64))
    return card.replace(
        reach=reach if card.reach is None else card.reach,
        stride=stride,
        activation_bytes=round(used, 1) if card.activation_bytes is None else card.activation_bytes,
    )
