"""A folder of everything that a command may be pointed at: volumes, models, texts, good and bad."""

from __future__ import annotations

import shutil

import numpy as np
import torch
import yaml
import zarr
from zarr.codecs import BytesCodec

from orthoflow.models import Card, save_model
from orthoflow.models.nets import UNet

SHAPE = (12, 24, 20)


def make_everything(folder):
    """Fill the folder, and give it back."""
    _make_volumes(folder)
    _make_odd_stores(folder)
    _make_models(folder)
    _make_texts(folder)
    return folder


def image():
    return np.random.default_rng(3).integers(0, 200, SHAPE).astype(np.uint8)


def stored(path, data, **more):
    array = zarr.create_array(
        path, shape=data.shape, dtype=data.dtype, chunks=(8,) * data.ndim, **more
    )
    if data.size:
        array[...] = data
    return array


def _make_volumes(folder):
    volume = image()
    nan = volume.astype(np.float32)
    nan[3, 4, 5] = np.nan
    nan[3, 4, 6] = np.inf
    arrays = {
        "in": volume,
        "nan": nan,
        "plane": volume[0],
        "four": np.stack([volume] * 3),
        "five": volume[None, None],
        "empty": volume[:0],
        "complex": volume.astype(np.complex64),
        "bool": volume > 99,
        "int64": volume.astype(np.int64),
        "unit": volume.astype(np.float32) / 200,
        "signed": volume.astype(np.int16),
        "big": volume.astype(">u2"),
        "bigger": volume.astype(">f4"),
    }
    # zarr stores little-endian numbers of the dtypes above unless it is told otherwise.
    ends = {"big": {"zarr_format": 2}, "bigger": {"serializer": BytesCodec(endian="big")}}
    for name, array in arrays.items():
        stored(folder / f"{name}.zarr", array, **ends.get(name, {}))
    stored(folder / "rgb.zarr", np.stack([volume] * 3), dimension_names=list("czyx"))
    stored(folder / "movie.zarr", np.stack([volume] * 3), dimension_names=list("tzyx"))
    stored(folder / "turned.zarr", volume.transpose(), dimension_names=list("xyz"))


def _make_odd_stores(folder):
    volume = image()
    group = zarr.open_group(folder / "group.zarr", mode="w")
    for name in ("left", "right"):
        group.create_array(name, data=volume)
    axes = [{"name": axis, "type": "space"} for axis in "zyx"]
    flat = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0, 1, 1]}]}]
    ome = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": flat}]}
    image_group = zarr.open_group(folder / "flat.zarr", mode="w", attributes={"ome": ome})
    image_group.create_array("0", data=volume)
    metadata = (folder / "in.zarr/zarr.json").read_text()
    for name, text in {
        "cut": metadata[: len(metadata) // 2],
        "codec": metadata.replace('"zstd"', '"mystery"'),
    }.items():
        stored(folder / f"{name}.zarr", volume)
        (folder / f"{name}.zarr/zarr.json").write_text(text)
    (folder / "nothing.zarr").mkdir()
    (folder / "other.zarr").mkdir()
    (folder / "other.zarr/notes.txt").write_text("mine")


def _make_models(folder):
    torch.manual_seed(0)
    net = UNet(outputs=2, base=2, depth=2)
    save_model(folder / "tiny", net, Card(name="tiny", outputs=2, divisor=4))
    card = yaml.safe_load((folder / "tiny/card.yaml").read_text())
    cards = {
        "wrong": {**card, "outpust": 2},
        "eight-bit": {**card, "normalization": {"method": "fixed", "mean": 146.8, "std": 32.6}},
        "by-volume": {**card, "normalization": "zscore"},
        "three-outputs": {**card, "outputs": 3},
    }
    for name, changed in cards.items():
        shutil.copytree(folder / "tiny", folder / name)
        (folder / name / "card.yaml").write_text(yaml.safe_dump(changed))
    torch.save({"weights": print}, folder / "evil.pt")
    (folder / "evil.card.yaml").write_text(yaml.safe_dump(card))
    (folder / "cut.pt").write_bytes(b"PK\x03\x04 cut off")
    (folder / "cut.card.yaml").write_text(yaml.safe_dump(card))
    shutil.copytree(folder / "tiny", folder / "corrupt")
    whole = (folder / "tiny/weights.safetensors").read_bytes()
    (folder / "corrupt/weights.safetensors").write_bytes(whole[: len(whole) // 2])
    shutil.copytree(folder / "tiny", folder / "bare")
    (folder / "bare/weights.safetensors").unlink()
    (folder / "code.pt2").write_bytes(b"PK")
    (folder / "code.card.yaml").write_text(yaml.safe_dump({**card, "name": "code"}))


def _make_texts(folder):
    texts = {
        "notes.txt": "no model, no volume, no job",
        "typo.yaml": "input: in.zarr\nmodel: tiny\noverlpa: 0.5\n",
        "tagret.yaml": "input: in.zarr\nmodel: tiny\ntagret: o.zarr\n",
        "twice.yaml": "votes: 2\nvote-threshold: 2\n",
        "value.yaml": "input: in.zarr\nmodel: tiny\ntarget: o.zarr\nvotes: two\n",
        "broken.yaml": "overlap: [0.5\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
