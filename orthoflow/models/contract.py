"""The narrow contract of a network: tiles in, logits out."""

from __future__ import annotations

import copy
import dataclasses
import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Literal

import cloudpickle  # type: ignore[import-untyped]
import torch

from orthoflow.errors import BadInput
from orthoflow.models.card import CPU_BATCH_PIXELS, Card, ModelRef, Normalization
from orthoflow.models.exact import FixedAlgorithm, Operations, can_fix_algorithm
from orthoflow.models.fingerprint import module_digest
from orthoflow.models.heads import Task
from orthoflow.models.nets import UNet, folded

Precision = Literal["float32", "bfloat16"]
Layout = Literal["channels_last", "contiguous"]

FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
MEMORY = "memory"


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A network as the kernels see it: placed on a device, in eval mode, checked.

    Make one with `Model.from_torch` or `orthoflow.load_model`, never directly.
    """

    card: Card
    digest: str
    """``sha256:…`` of the weights and of the card's facts that can change an output voxel."""
    module: torch.nn.Module = field(repr=False)
    device: torch.device
    precision: Precision
    layout: Layout
    """Memory format of the tiles the module is given."""
    shared: bool = False
    """Whether tiles may share a batch on a CPU: every operation treats them alike in any batch."""
    reference: ModelRef | None = field(default=None, repr=False)
    """Where it was loaded from; None for a module in memory."""

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of tiles.

        Parameters
        ----------
        tiles
            (n, channels, h, w) or (n, channels, d, h, w), float32, on the model's device.

        Returns
        -------
        torch.Tensor
            (n, outputs, same spatial shape), float32, on the same device; no gradient.
        """
        # On a CPU small batches are as fast or faster, so splitting one costs nothing.
        together = len(tiles)
        if self.device.type == "cpu":
            together = max(1, CPU_BATCH_PIXELS // math.prod(tiles.shape[2:])) if self.shared else 1
        parts = [self.raw(part) for part in torch.split(tiles, together)]
        logits = parts[0] if len(parts) == 1 else torch.cat(parts)  # type: ignore[arg-type]
        return logits.float()  # type: ignore[attr-defined, no-any-return]  # checked at load

    def raw(self, tiles: torch.Tensor) -> object:
        """Whatever the module returns for `tiles`, in whatever dtype."""
        # Our nets are cast; a foreign module may make float32 tensors of its own, which only
        # autocast can mix with half precision.
        half = self.precision == "bfloat16"
        cast = half and isinstance(self.module, UNet)
        dtype = torch.bfloat16 if cast else torch.float32
        tiles = _in_layout(tiles.to(dtype), FORMATS[self.layout])
        mixed = torch.autocast(self.device.type, torch.bfloat16, enabled=half and not cast)
        fixed = (
            FixedAlgorithm() if self.device.type == "cpu" and can_fix_algorithm() else nullcontext()
        )
        with torch.no_grad(), mixed, fixed:
            return self.module(tiles)

    @classmethod
    def from_torch(  # noqa: PLR0913 - the facts of a card, given by hand
        cls,
        module: torch.nn.Module,
        *,
        outputs: int | None = None,
        divisor: int | None = None,
        tile: tuple[int, ...] | None = None,
        channels: int = 1,
        ndim: int = 2,
        task: Task = "semantic",
        normalization: str | Normalization = "none",
        reach: int | None = None,
        stride: int | None = None,
        name: str | None = None,
    ) -> Model:
        """Model from any torch module in memory; the module itself is copied, not changed.

        Parameters
        ----------
        module
            Maps (n, channels, [d,] h, w) float32 to (n, outputs, [d,] h, w).
        outputs
            Output channels, 2 unless given. Task semantic: 1 is a sigmoid, 2 and more a softmax.
        divisor, tile
            Exactly one: the divisor of every side of a fully convolutional network, or the only
            input size it takes. Our own `UNet` knows its `outputs` and `divisor`.
        channels, ndim
            Input channels; 2 for planes, 3 for boxes.
        task
            "semantic", "panoptic" or "flows"; it says what the outputs are, in what order
            (`orthoflow.models.heads`).
        normalization
            A method's name or a `Normalization`.
        reach, stride
            Pixels an output depends on to each side, and the period of the network's phase; they
            decide how close stripes may be packed (`orthoflow.models.reach.measure_reach`).
        name
            Shown in messages; the module's class unless given.

        Raises
        ------
        BadInput
            For facts that contradict each other, or a module that does not keep the contract.
        """
        if isinstance(module, UNet):
            outputs = module.outputs if outputs is None else outputs
            divisor = module.divisor if divisor is None and tile is None else divisor
        card = Card(
            name=type(module).__name__ if name is None else name,
            outputs=2 if outputs is None else outputs,
            ndim=ndim,
            channels=channels,
            task=task,
            tile=tile,
            divisor=divisor,
            stride=stride or 0,
            reach=reach,
            normalization=Normalization.of(normalization),
        )
        return cls.from_card(module, card)

    @classmethod
    def from_card(cls, module: torch.nn.Module, card: Card) -> Model:
        """Model from a torch module in memory and a complete card; the module is copied."""
        if isinstance(module, UNet):
            module = folded(module)
            card = card.replace(architecture=module.architecture)
        else:
            module = copy.deepcopy(module)
        digest = card.digest_of(module_digest(module))
        return place(module, card.replace(digest=digest), digest=digest)

    def ref(self) -> ModelRef:
        """Reference for workers; carries the pickled module if there is nothing to load it from."""
        if self.reference is not None:
            return self.reference
        payload = cloudpickle.dumps(self.module)
        return ModelRef(digest=self.digest, source=MEMORY, card=self.card, payload=payload)


def place(
    module: torch.nn.Module,
    card: Card,
    *,
    digest: str,
    device: torch.device | None = None,
    precision: Precision = "float32",
    reference: ModelRef | None = None,
) -> Model:
    """Put `module` on a device for inference and check it; `module` is changed in place."""
    device = torch.device("cpu") if device is None else device
    _freeze(module)
    module.to(device)
    if precision == "bfloat16" and isinstance(module, UNet):
        module.to(torch.bfloat16)
    layout: Layout = "channels_last" if card.ndim == 2 else "contiguous"
    model = Model(card, digest, module, device, precision, layout, reference=reference)
    if isinstance(module, UNet) or card.ndim != 2:
        return check_model(_laid_out(model))
    try:
        return check_model(_laid_out(model))
    except BadInput:
        # Some modules reshape with `view`, which needs the contiguous layout; a module that breaks
        # the contract for another reason breaks it here too.
        return check_model(_laid_out(dataclasses.replace(model, layout="contiguous")))


def check_model(model: Model) -> Model:
    """Run one small batch, compare what comes back with the card, and look at the operations.

    Returns
    -------
    Model
        The same, knowing whether tiles may share a batch.

    Raises
    ------
    BadInput
        When the module fails, or returns no tensor, whole numbers, another number of channels or
        another spatial shape.
    """
    card = model.card
    shape = (2, card.channels, *card.example_shape())
    count = 2 * card.channels
    ramp = torch.linspace(0.0, 1.0, count, device=model.device).view(2, card.channels)
    tiles = ramp.view(2, card.channels, *(1,) * card.ndim).expand(shape).contiguous()
    name = f"model {card.name!r}"
    seen = Operations()
    try:
        with seen:
            logits = model.raw(tiles)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BadInput(
            f"{name} fails on float32 tiles of shape {shape}, which its card allows "
            f"(channels={card.channels}, tile={card.tile}, divisor={card.divisor}): {reason}"
        ) from error
    if not isinstance(logits, torch.Tensor):
        raise BadInput(
            f"{name} returns {type(logits).__name__}, not one tensor of logits; wrap it in "
            "a module whose forward returns the logits alone"
        )
    if not logits.is_floating_point():
        raise BadInput(
            f"{name} returns {logits.dtype}; return floating-point logits, before softmax or argmax"
        )
    wanted = (2, card.outputs, *shape[2:])
    if tuple(logits.shape) != wanted:
        raise BadInput(
            f"{name} maps {shape} to {tuple(logits.shape)}, its card promises {wanted}: logits of "
            f"the input's spatial shape with outputs={card.outputs} channels; correct the card, or "
            "wrap the module so that it crops or upsamples"
        )
    return dataclasses.replace(model, shared=seen.independent and can_fix_algorithm())


def _in_layout(tiles: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
    """Same numbers in one layout; copied only where they lie otherwise.

    One channel, or one tile, is in both layouts at once. What torch then takes it for depends on
    strides that say nothing, so they are set.
    """
    tiles = tiles.contiguous(memory_format=layout)
    strides = torch.empty(tiles.shape, device="meta", memory_format=layout).stride()
    return tiles.as_strided(tiles.shape, strides, tiles.storage_offset())


def _freeze(module: torch.nn.Module) -> None:
    # An exported program refuses eval(): it was exported in one mode.
    if not isinstance(module, torch.fx.GraphModule):
        module.eval()
    # Not `module.requires_grad_`, which TorchScript lacks.
    for parameter in module.parameters():
        parameter.requires_grad_(False)  # noqa: FBT003 - torch's own signature


def _laid_out(model: Model) -> Model:
    if model.card.ndim == 2:
        model.module.to(memory_format=FORMATS[model.layout])  # type: ignore[call-overload]
    return model
