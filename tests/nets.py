"""Small networks, volumes, and two ways to get every result of a run: in memory and on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import orthoflow as of
from orthoflow import graph, job, pipeline, work
from orthoflow.inputs import find_source
from orthoflow.options import Options
from orthoflow.plan import plan_run

RANDOM_WEIGHTS = 0.35
"""Standard deviation of weights: logits of either sign, far below the limit of 64."""


class Plain(torch.nn.Module):
    """Two 3-wide convolutions, random weights, biases: reach 2, any size, no phase."""

    def __init__(self, *, channels=1, outputs=2, ndim=2, seed=0, width=4):
        super().__init__()
        convolution = torch.nn.Conv2d if ndim == 2 else torch.nn.Conv3d
        self.first = convolution(channels, width, 3, padding=1)
        self.last = convolution(width, outputs, 3, padding=1)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data.normal_(0, RANDOM_WEIGHTS, generator=generator)

    def forward(self, tiles):
        return self.last(torch.relu(self.first(tiles)))


class Whole(torch.nn.Module):
    """Convolution, pooling, upsampling, convolution, in small whole numbers: no sum is rounded.

    Reach 6 at most (1 + 1 around the pooled grid of 2, twice), stride 2. Logits are multiples of
    1/256 below 64 for input up to 8.
    """

    def __init__(self, *, channels=1, outputs=2, seed=0):
        super().__init__()
        self.first = torch.nn.Conv2d(channels, 3, 3, padding=1)
        self.middle = torch.nn.Conv2d(3, 3, 3, padding=1)
        self.last = torch.nn.Conv2d(6, outputs, 3, padding=1)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data = torch.randint(-2, 3, parameter.shape, generator=generator).float()
        self.last.weight.data /= 256

    def forward(self, tiles):
        fine = torch.relu(self.first(tiles))
        coarse = torch.relu(self.middle(torch.nn.functional.max_pool2d(fine, 2)))
        coarse = torch.nn.functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        return self.last(torch.cat([fine, coarse], 1))


class Pointwise(torch.nn.Module):
    """Logits of a pixel from its own value and the largest around it: commutes with flips."""

    def __init__(self, ndim=2):
        super().__init__()
        self.pool = (torch.nn.MaxPool2d if ndim == 2 else torch.nn.MaxPool3d)(3, 1, 1)

    def forward(self, tiles):
        largest = self.pool(tiles)
        return torch.cat([tiles - 3, 2 * largest - tiles], 1)


class Squares(torch.nn.Module):
    """Three classes by the value of a pixel; squares of 8 pixels that know their middles."""

    def forward(self, tiles):
        classes = [-40 * (tiles - value) ** 2 for value in (0, 1, 2)]
        down, right = (4.0 - torch.arange(n) % 8 for n in tiles.shape[2:])
        peak = ((down[:, None] == 0) & (right == 0)) * 0.8
        heads = [one.expand_as(tiles) for one in (peak, down[:, None], right)]
        return torch.cat([*classes, *heads], 1)


class Cubes(torch.nn.Module):
    """Flows in three dimensions to the middles of cubes of 8 voxels, where a voxel is above 0."""

    def forward(self, tiles):
        inside = tiles > 0
        ways = [(3.5 - torch.arange(n) % 8).clamp(-1, 1) * 5 for n in tiles.shape[2:]]
        parts = torch.meshgrid(*ways, indexing="ij")
        flows = [part.expand_as(tiles) * inside for part in parts]
        return torch.cat([*flows, torch.where(inside, 10.0, -10.0)], 1)


class Boxes(torch.nn.Module):
    """A logit, centres and offsets of cubes of 8 voxels, where a voxel is above 0."""

    def forward(self, tiles):
        ways = [4.0 - torch.arange(n) % 8 for n in tiles.shape[2:]]
        parts = torch.meshgrid(*ways, indexing="ij")
        peak = torch.stack([part == 0 for part in parts]).all(0) * 0.8
        heads = [part.expand_as(tiles) for part in (peak, *parts)]
        return torch.cat([torch.where(tiles > 0, 10.0, -10.0), *heads], 1)


class Spoilt(torch.nn.Module):
    """As `Pointwise`; voxels from 250 on give NaN (253: infinity, 254: an error)."""

    def __init__(self):
        super().__init__()
        self.inner = Pointwise()

    def forward(self, tiles):
        if (tiles == 254).any():
            raise RuntimeError("the network met 254")
        logits = self.inner(tiles)
        logits = torch.where(tiles == 253, torch.inf, logits)
        return torch.where((tiles >= 250) & (tiles != 253), torch.nan, logits)


CALLS = []
"""Shapes of the tiles that `Counting` saw in this process."""


class Counting(Pointwise):
    """As `Pointwise`; notes every tile it sees in `CALLS`."""

    def forward(self, tiles):
        CALLS.append(tuple(tiles.shape))
        return super().forward(tiles)


def plain(**facts):
    """A model around `Plain` that takes any multiple of 4."""
    card = {"divisor": 4, "reach": 2, "stride": 1, **facts}
    if "tile" in card:
        del card["divisor"]
    outputs, channels = card.setdefault("outputs", 2), card.setdefault("channels", 1)
    module = Plain(outputs=outputs, channels=channels, ndim=card.get("ndim", 2))
    return of.Model.from_torch(module, **card)


def blobs(shape, seed=0, dtype=np.uint8, top=255):
    """Noise on a few broad waves: values 0 to `top`, nowhere constant."""
    random = np.random.default_rng(seed)
    axes = [np.sin(np.arange(n) * random.uniform(0.2, 0.6) + random.uniform(0, 6)) for n in shape]
    waves = axes[0]
    for axis in axes[1:]:
        waves = np.add.outer(waves, axis)
    mixed = waves / len(shape) + random.normal(0, 0.3, shape)
    return (np.clip(mixed / 3 + 0.5, 0, 1) * top).astype(dtype)


def with_holes(volume):
    """The volume with constant boxes across the borders of any blocks, and constant planes."""
    volume = volume.copy()
    z, y, x = volume.shape[-3:]
    volume[..., z // 4 : z // 4 * 3, y // 5 : y // 5 * 4, : x // 2] = 7
    volume[..., z // 3 :, y // 2 :, x // 3 :] = 0
    volume[..., -2:] = 9
    return volume


def planned(volume, model, **options):
    """Plan, job and source of a run that writes nothing."""
    wishes = pipeline.on_device(Options.from_mapping({"chunk": 8, **options}), None)
    source = find_source(volume, wishes)
    reference = pipeline.model_ref(model, wishes)
    plan = plan_run(source.facts, reference.card, wishes)
    bare = job.Job(plan, reference, source.ref, None)
    shared, _ = pipeline.prepared(None, bare, source, "test")
    return plan, shared, source


def everything(volume, model, **options):
    """Every result of a run by name, as arrays over the region; nothing is written."""
    plan, shared, source = planned(volume, model, **options)
    names = [o.name for o in plan.orientations]
    wanted = ["labels", "probabilities", "disagreement", "logits/consensus"]
    wanted += [f"{kind}/{name}" for kind in ("stacks", "logits") for name in names]
    found = {}
    for part in plan.parts():
        for block, nodes in graph._sums(graph.Direct(), plan, part, shared, source.array).items():
            for name, values in work.finish(shared, block, wanted, *nodes).items():
                whole = found.setdefault(
                    name, np.full((*values.shape[:-3], *plan.region.shape), 99, values.dtype)
                )
                whole[(..., *block.within(plan.region))] = values
    return found


def objects(output):
    """Bytes of every stored object of an output, but for the records of the run."""
    root = Path(output)
    files = [path for path in root.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in files
        if path.relative_to(root).parts[0] != "orthoflow"
    }


def tree(folder):
    """Every path under a folder: what a command may not add to."""
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


def assert_same(found, expected):
    """Two mappings of arrays are equal, bit for bit."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype, name
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def crop(arrays, roi):
    """The region "z0:z1,y0:y1,x0:x1" of every array."""
    spans = [part.split(":") for part in roi.split(",")]
    index = tuple(slice(int(a) if a else None, int(b) if b else None) for a, b in spans)
    return {name: values[(..., *index)] for name, values in arrays.items()}


def read(output, path):
    """All voxels of a stored array."""
    import zarr

    return zarr.open_array(str(output), path=path, mode="r")[:]
