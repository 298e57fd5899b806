"""What every side is given: one plain network with random weights, and one synthetic volume."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

DIVISOR = 8
OUTPUTS = 3


class PlainUNet(nn.Module):
    """Four levels of two convolutions (16, 32, 64, 128 channels), no normalisation; divisor 8.

    The sizes of Cellpose 3's network, halved, without its style vector: what a pixel becomes
    depends on its surroundings only, so any way of tiling has to give the same function.
    """

    def __init__(self, base: int = 16) -> None:
        super().__init__()
        widths = [base, 2 * base, 4 * base, 8 * base]
        before = [1, *widths[:-1]]
        self.down = nn.ModuleList(_pair(a, b) for a, b in zip(before, widths, strict=True))
        ups = zip(reversed(widths[1:]), reversed(widths[:-1]), strict=True)
        self.up = nn.ModuleList(_pair(a + b, b) for a, b in ups)
        self.head = nn.Conv2d(base, OUTPUTS, 1)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        skips = []
        x = tiles
        for level, pair in enumerate(self.down):
            x = pair(x if level == 0 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for pair in self.up:
            x = pair(torch.cat((skips.pop(), nn.functional.interpolate(x, scale_factor=2.0)), 1))
        return self.head(x)


def _pair(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(after, after, 3, padding=1),
        nn.ReLU(inplace=True),
    )


class Counted(nn.Module):
    """A network that counts what it is given and its own CPU seconds.

    Totals are kept per process, whoever copies it; a second torch thread's seconds are not seen.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        shape = "x".join(map(str, tiles.shape))
        CALLS[shape] = CALLS.get(shape, 0) + 1
        begin = time.thread_time()
        logits = self.network(tiles)
        SECONDS.append(time.thread_time() - begin)
        return logits


CALLS: dict[str, int] = {}
SECONDS: list[float] = []


def counts() -> dict[str, Any]:
    """Tiles, pixels and calls per shape since the start or the last :func:`forget`."""
    shapes = {tuple(map(int, key.split("x"))): n for key, n in CALLS.items()}
    return {
        "tiles": sum(shape[0] * n for shape, n in shapes.items()),
        "pixels": sum(shape[0] * shape[-1] * shape[-2] * n for shape, n in shapes.items()),
        "calls": dict(CALLS),
        "forward_s": sum(SECONDS),
    }


def forget() -> None:
    CALLS.clear()
    SECONDS.clear()


def make(folder: Path, shape: tuple[int, ...]) -> None:
    """Write weights.pt and volume.npy: bright blobs on noise, float32, seeded."""
    torch.manual_seed(0)
    torch.save(PlainUNet().state_dict(), folder / "weights.pt")
    rng = np.random.default_rng(0)
    volume = rng.normal(0.0, 0.2, shape).astype(np.float32)
    grid = [np.arange(n, dtype=np.float32) for n in shape]
    for _ in range(int(np.prod(shape)) // 40_000):
        center = [rng.uniform(0, n) for n in shape]
        radius = rng.uniform(4, 10)
        near = [np.exp(-(((g - c) / radius) ** 2)) for g, c in zip(grid, center, strict=True)]
        box = tuple(slice(*np.flatnonzero(p > 0.01)[[0, -1]] + [0, 1]) for p in near)
        z, y, x = (p[s] for p, s in zip(near, box, strict=True))
        volume[box] += z[:, None, None] * y[None, :, None] * x[None, None, :]
    np.save(folder / "volume.npy", volume)


def whole(shape: tuple[int, ...], chunk: int = 128) -> tuple[int, ...]:
    """One block for a volume that is in memory in any case: whole output chunks around `shape`."""
    return tuple(-(-n // chunk) * chunk for n in shape)


def volume_in(folder: Path) -> npt.NDArray[np.float32]:
    loaded: npt.NDArray[np.float32] = np.load(folder / "volume.npy")
    return loaded


def network_in(folder: Path) -> Counted:
    network = PlainUNet()
    network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return Counted(network).eval()


def plain_pass(
    network: nn.Module, plane: npt.NDArray[np.float32], margin: int = 0
) -> npt.NDArray[np.float32]:
    """Logits (outputs, y, x) of a whole plane in `margin` zeros (and more up to the divisor)."""
    after = [margin + -(n + 2 * margin) % DIVISOR for n in plane.shape]
    padded = np.pad(plane, [(margin, a) for a in after])
    with torch.no_grad():
        logits = network(torch.from_numpy(padded)[None, None])[0].numpy()
    inner = tuple(slice(margin, margin + n) for n in plane.shape)
    cut: npt.NDArray[np.float32] = logits[(slice(None), *inner)]
    return cut


def deviation(
    ours: npt.NDArray[np.float32], plain: npt.NDArray[np.float32], border: int = 0
) -> float:
    """Largest difference over the largest value, `border` pixels off the edge."""
    inner = (slice(None), *(slice(border, n - border) for n in plain.shape[1:]))
    return float(np.abs(ours[inner] - plain[inner]).max() / np.abs(plain[inner]).max())
