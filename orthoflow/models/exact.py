"""The same bits for a tile whatever else is in its batch, on a CPU.

torch picks a convolution's algorithm by the size of the whole batch: a single small tile (at most
20,480 numbers in a layer) takes another one than two, and a 1-wide convolution changes at sixteen
tiles and with the number of threads. The sums differ in the last bit of float32. Choosing the
algorithm here makes a tile's logits independent of its company; it costs nothing measurable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CONVOLUTIONS = {torch.conv2d: 2, torch.conv3d: 3}


# Operations that treat every tile alike in any batch: single IEEE operations, comparisons, copies,
# fixed sums of a few neighbours, and convolutions of the one algorithm. Left out: matrix products
# (blocked by the size of the batch) and functions whose vectors and remainders may differ (exp).
INDEPENDENT = frozenset(
    {"relu", "relu_", "leaky_relu", "leaky_relu_", "add", "add_", "sub", "sub_", "mul", "mul_"}
    | {"max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d"}
    | {"upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "cat", "clone", "copy_"}
    | {"native_batch_norm", "_native_batch_norm_legit_no_training", "constant_pad_nd"}
    | {"mkldnn_convolution", "detach", "alias", "view", "slice", "_to_copy", "clamp", "clamp_"}
    | {"select", "unsqueeze", "expand", "empty", "as_strided", "neg"}
)


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes whether every operation is one that treats tiles alike in any batch."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.independent = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to keep its compiler out of here torch would import it, for seconds."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation; half precision knows one algorithm of convolution only."""
        del types
        name = func.overloadpacket.__name__
        half = name == "convolution" and args[0].dtype == torch.bfloat16 and not args[6]
        self.independent &= half or name in INDEPENDENT
        return func(*args, **(kwargs or {}))


def can_fix_algorithm() -> bool:
    """Whether this build of torch has the library whose algorithm we choose (oneDNN)."""
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


class FixedAlgorithm(TorchFunctionMode):
    """While active, float32 convolutions on a CPU use one algorithm, whatever their size."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace the two convolutions; let everything else pass."""
        del types
        kwargs = kwargs or {}
        ndim = CONVOLUTIONS.get(func)
        if ndim is None or not _is_plain(*args, **kwargs):
            return func(*args, **kwargs)
        return _convolve(ndim, *args, **kwargs)


def _is_plain(tiles: torch.Tensor, *args: Any, **kwargs: Any) -> bool:
    """Float32 on a CPU, outside autocast, with padding in numbers; half precision has one way."""
    padding = kwargs.get("padding", args[3] if len(args) > 3 else 0)
    return (
        tiles.dtype == torch.float32
        and tiles.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and not isinstance(padding, str)
    )


def _convolve(  # noqa: PLR0913 - the signature of torch.conv2d
    ndim: int,
    input: torch.Tensor,  # noqa: A002
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> torch.Tensor:
    # A tile without its batch axis is allowed by torch.conv2d only.
    single = input.ndim == ndim + 1
    tiles = input[None] if single else input
    result = torch.mkldnn_convolution(
        tiles,
        weight,
        bias,
        _per_axis(padding, ndim),
        _per_axis(stride, ndim),
        _per_axis(dilation, ndim),
        groups,
    )
    return result[0] if single else result


def _per_axis(value: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * ndim
    return tuple(value) if len(value) == ndim else (value[0],) * ndim
