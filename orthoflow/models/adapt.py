"""Files and objects to torch modules: one function per kind of source."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from packaging.version import Version

from orthoflow.errors import BadInput
from orthoflow.models import source as sources
from orthoflow.models.contract import Model
from orthoflow.models.nets import build_net, folded
from orthoflow.models.verified import imported

if TYPE_CHECKING:
    from orthoflow.models.card import Card
    from orthoflow.models.source import Kind, Source

MAX_PARAMETERS = 4 * 10**9
MAX_INDEX_BYTES = 8 * 2**20
"""Of names, shapes and the like beside the tensors: room for tens of thousands."""
SAFE_TORCH = (2, 10)
"""Since then a checkpoint cannot corrupt memory under ``weights_only`` as far as is known."""
CONVERT = (
    "in a session where you trust it, load it and write safetensors.torch.save_file("
    "module.state_dict(), 'weights.safetensors')"
)


def build_module(source: Source, kind: Kind, content: bytes, card: Card) -> torch.nn.Module:
    """Torch module from the bytes of a weights file; the caller has settled trust.

    Raises
    ------
    BadInput
        When the bytes are not what the kind says, or do not fit the card.
    """
    if kind == "script":
        return _script(source, content)
    if kind == "export":
        return _export(source, content)
    state = _state(source, content) if kind == "state" else _safetensors(source, content)
    return _with_state(source, card, state)


def import_model(source: Source, *, trust: str | None) -> Model:
    """Model from a ``python:pkg.mod:obj`` source: a `Model`, or a factory of one.

    Nothing of the package is imported before the module's source file has the trusted digest, and
    it is that content that runs.
    """
    content = Path(source.weights).read_bytes()
    sources.require_trust(content, trust, what=f"{source.name} is Python ({source.weights})")
    name, item = sources.python_object(source)
    try:
        found = getattr(imported(name, source.weights, content), item)
    except AttributeError as error:
        raise BadInput(f"module {name!r} has no {item!r}") from error
    if callable(found) and not isinstance(found, (Model, torch.nn.Module)):
        found = found()
    if isinstance(found, torch.nn.Module):
        found = _carded(found, source)
    if not isinstance(found, Model):
        raise BadInput(
            f"{source.name} gives {type(found).__name__}; it must be (or return) "
            "orthoflow.Model.from_torch(module, ...)"
        )
    return found


def _carded(module: torch.nn.Module, source: Source) -> Model:
    facts = getattr(module, "card", None)
    if facts is None:
        raise BadInput(
            f"{source.name} is a torch module without facts; return "
            "orthoflow.Model.from_torch(module, outputs=..., divisor=...), or give it `card`"
        )
    from orthoflow.models.card import Card  # noqa: PLC0415

    return Model.from_card(module, facts if isinstance(facts, Card) else Card.from_dict(facts))


def _with_state(source: Source, card: Card, state: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    if card.architecture is None:
        raise BadInput(
            f"card of {source.name!r} has no architecture, so its weights fit no network; add one "
            "such as {kind: unet, base: 16, depth: 3}, or use python:pkg.mod:obj"
        )
    # On "meta" nothing is allocated: a card cannot claim memory before weights prove its size.
    with torch.device("meta"):
        net = build_net(
            card.architecture, outputs=card.outputs, channels=card.channels, ndim=card.ndim
        )
    wanted = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            raise BadInput(
                f"weights of {source.name!r} do not fit the card's architecture: {name} is "
                f"{given.get(name, 'missing')}, wanted {wanted.get(name, 'no such tensor')}; "
                "correct the card, or give the weights that it describes"
            )
    floats = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    net.load_state_dict(floats, assign=True)
    return folded(net)


def _safetensors(source: Source, content: bytes) -> dict[str, torch.Tensor]:
    header = int.from_bytes(content[:8], "little")
    if header > MAX_INDEX_BYTES and len(content) > 8:
        raise BadInput(
            f"{source.weights} is no valid safetensors file: it states a header of {header} bytes; "
            f"at most {MAX_INDEX_BYTES} are read"
        )
    try:
        state: dict[str, torch.Tensor] = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BadInput(
            f"{source.weights} is no valid safetensors file: {_reason(error)}"
        ) from error
    return _checked(source, content, state)


def _state(source: Source, content: bytes) -> dict[str, torch.Tensor]:
    """State dict of a checkpoint, with tensors and plain data only."""
    _require_safe_torch(source)
    _check_archive(source, content)
    try:
        with warnings.catch_warnings():
            # torch wonders about pickles that it did not write; what they hold is checked below.
            warnings.simplefilter("ignore", UserWarning)
            loaded = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadInput(
            f"{source.weights} is a pickle of more than tensors and was refused "
            f"({_reason(error)}); {CONVERT}"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise BadInput(f"{source.weights} is damaged or no checkpoint: {_reason(error)}") from error
    for key in ("state_dict", "model_state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in loaded.items()
    ):
        raise BadInput(f"{source.weights} holds no state dict (names to tensors); {CONVERT}")
    return _checked(source, content, loaded)


def _require_safe_torch(source: Source) -> None:
    if Version(torch.__version__).release < SAFE_TORCH:
        least = ".".join(map(str, SAFE_TORCH))
        raise BadInput(
            f"{source.weights} is a pickle, which torch {torch.__version__} does not read safely "
            f"(CVE-2026-24747); install torch >= {least}, or {CONVERT}"
        )


def _check_archive(source: Source, content: bytes) -> None:
    """Refuse an archive that unpacks to more than it is; torch stores, and never compresses."""
    sizes = sources.archive_sizes(content)
    total, index = sum(sizes.values()), sizes.get("data.pkl", 0)
    if total > len(content):
        raise BadInput(
            f"{source.weights} has {len(content)} bytes and unpacks to {total}; "
            "save it with torch.save, uncompressed"
        )
    if index > MAX_INDEX_BYTES:
        raise BadInput(
            f"{source.weights} has a pickle of {index} bytes beside its tensors; at most "
            f"{MAX_INDEX_BYTES} are read: {CONVERT}"
        )


def _checked(
    source: Source, content: bytes, state: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The same tensors; refused where they are not plain, or claim what the file does not hold."""
    claimed = 0
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
            raise BadInput(f"{source.weights}: tensor {name!r} is not a plain one; {CONVERT}")
        claimed += tensor.numel()
        stored = 0 if tensor.is_meta else tensor.untyped_storage().nbytes()
        if tensor.numel() * tensor.element_size() > stored and tensor.numel() <= MAX_PARAMETERS:
            raise BadInput(
                f"{source.weights}: tensor {name!r} claims {tensor.numel()} numbers and stores "
                f"{stored} bytes; save it with .contiguous()"
            )
    if claimed > MAX_PARAMETERS:
        raise BadInput(
            f"{source.weights} claims {claimed} parameters; the limit is {MAX_PARAMETERS}"
        )
    used = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if used > len(content):
        raise BadInput(
            f"{source.weights} has {len(content)} bytes, and its tensors claim {used}: they share "
            "memory; save each as a .clone()"
        )
    return dict(state)


def _reason(error: Exception) -> str:
    """What a library says, in one line; torch advises to switch the defence off, which is cut."""
    text = " ".join(str(error).split())
    found = re.search(r"WeightsUnpickler error: (.*?)(?:\.? Please |$)", text)
    text = found[1] if found else text.partition("Re-running `torch.load`")[0]
    return "".join(filter(str.isprintable, text))[:200].strip() or type(error).__name__


def _script(source: Source, content: bytes) -> torch.nn.Module:
    try:
        module: Any = torch.jit.load(BytesIO(content), "cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise BadInput(
            f"{source.weights} is no valid TorchScript archive: {_reason(error)}"
        ) from error
    return module  # type: ignore[no-any-return]


def _export(source: Source, content: bytes) -> torch.nn.Module:
    try:
        program = torch.export.load(BytesIO(content))
    except (RuntimeError, ValueError, KeyError, AssertionError) as error:
        raise BadInput(
            f"{source.weights} is no valid exported program: {_reason(error)}"
        ) from error
    module: Any = program.module()
    return module  # type: ignore[no-any-return]
