"""The networks we define: plain convolutional nets, built from a card's `architecture`."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from orthoflow.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

Norm = Literal["batch", "none"]

# Wide enough for any published U-Net; a card cannot ask for a module that fills the memory.
MAX_BASE = 512
MAX_DEPTH = 7
KERNEL = 3


class UNet(nn.Module):
    """U-Net for 2-D or 3-D tiles: any size that is a multiple of ``2 ** depth``.

    Two 3-wide convolutions per level, max pooling, `base` channels at full resolution and twice as
    many a level down. On the way up, channels are halved by a 1-wide convolution *before* nearest
    upsampling: the two commute, and there are four (eight) times fewer pixels below. Nearest
    upsampling and not a transposed convolution: it has no weights that differ with the phase of a
    pixel, so no checkerboard, and it costs a copy.

    An output depends on nothing but the pixels within its reach: zero padding, no global pooling,
    no attention, no norm over the tile. Batch norm is a scale and a shift once trained.

    Parameters
    ----------
    outputs
        Logit channels.
    channels
        Input channels.
    base
        Channels at full resolution.
    depth
        Number of poolings.
    ndim
        2 or 3.
    norm
        "batch", or "none" (convolutions with a bias).
    """

    def __init__(
        self,
        *,
        outputs: int,
        channels: int = 1,
        base: int = 16,
        depth: int = 3,
        ndim: int = 2,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        _check_architecture(base=base, depth=depth, ndim=ndim, norm=norm)
        self.architecture: dict[str, Any] = {
            "kind": "unet",
            "base": base,
            "depth": depth,
            "norm": norm,
        }
        self.outputs, self.channels, self.ndim = outputs, channels, ndim
        widths = [base * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            _Pair(before, after, ndim, norm) for before, after in pairwise([channels, *widths])
        )
        upward = list(pairwise(reversed(widths)))
        self.narrow = nn.ModuleList(_convolution(ndim, wide, slim, 1) for wide, slim in upward)
        self.up = nn.ModuleList(_Pair(2 * slim, slim, ndim, norm) for _, slim in upward)
        self.head = _convolution(ndim, base, outputs, 1)

    @property
    def divisor(self) -> int:
        """Every side of a tile is a multiple of this."""
        return int(2 ** self.architecture["depth"])

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Map (n, channels, [d,] h, w) to logits (n, outputs, [d,] h, w)."""
        pool = functional.max_pool2d if self.ndim == 2 else functional.max_pool3d
        features = self.down[0](tiles)
        skips = []
        for level in self.down[1:]:
            skips.append(features)
            features = level(pool(features, 2))
        for narrow, level in zip(self.narrow, self.up, strict=True):
            raised = functional.interpolate(narrow(features), scale_factor=2.0, mode="nearest")
            features = level(torch.cat((skips.pop(), raised), dim=1))
        logits: torch.Tensor = self.head(features)
        return logits


class _Pair(nn.Module):
    """Twice: convolution, norm, ReLU."""

    def __init__(self, before: int, after: int, ndim: int, norm: Norm) -> None:
        super().__init__()
        self.first = _convolution(ndim, before, after, KERNEL)
        self.second = _convolution(ndim, after, after, KERNEL)
        self.norm1: nn.Module = _norm(ndim, after, norm)
        self.norm2: nn.Module = _norm(ndim, after, norm)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features = functional.relu_(self.norm1(self.first(features)))
        return functional.relu_(self.norm2(self.second(features)))


def build_net(architecture: Mapping[str, Any], *, outputs: int, channels: int, ndim: int) -> UNet:
    """Untrained network from a card's `architecture`.

    Raises
    ------
    BadInput
        For an unknown kind or key, or numbers out of range.

    >>> build_net({"kind": "unet", "base": 4, "depth": 2}, outputs=2, channels=1, ndim=2).divisor
    4
    """
    facts = dict(architecture)
    kind = facts.pop("kind", None)
    if kind != "unet":
        raise BadInput(f"architecture kind {kind!r} is unknown; known: 'unet'")
    unknown = sorted(set(facts) - {"base", "depth", "norm"})
    if unknown:
        raise BadInput(f"architecture key {unknown[0]!r} is unknown; a unet has base, depth, norm")
    return UNet(outputs=outputs, channels=channels, ndim=ndim, **facts)


def folded(net: UNet) -> UNet:
    """The same function without norm layers: batch norm folded into its convolution.

    `net` itself is unchanged. Logits agree to rounding (about 1e-6 of their scale).
    """
    plain = copy.deepcopy(net).eval()
    if net.architecture["norm"] == "none":
        return plain
    for pair in [*plain.down, *plain.up]:
        pair.first = fuse_conv_bn_eval(pair.first, pair.norm1)
        pair.second = fuse_conv_bn_eval(pair.second, pair.norm2)
        pair.norm1 = pair.norm2 = nn.Identity()
    plain.architecture["norm"] = "none"
    return plain


def _convolution(ndim: int, before: int, after: int, width: int) -> nn.Module:
    kind = nn.Conv2d if ndim == 2 else nn.Conv3d
    return kind(before, after, width, padding=width // 2)


def _norm(ndim: int, channels: int, norm: Norm) -> nn.Module:
    if norm == "none":
        return nn.Identity()
    return nn.BatchNorm2d(channels) if ndim == 2 else nn.BatchNorm3d(channels)


def _check_architecture(*, base: Any, depth: Any, ndim: Any, norm: Any) -> None:
    for name, value, most in (("base", base, MAX_BASE), ("depth", depth, MAX_DEPTH)):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise BadInput(f"architecture {name} {value!r} must be a whole number from 1 to {most}")
    if norm not in ("batch", "none"):
        raise BadInput(f"architecture norm {norm!r} is unknown; use 'batch' or 'none'")
    if ndim not in (2, 3):
        raise BadInput(f"architecture ndim {ndim!r} is unknown; use 2 or 3")
