"""Facts about a network: what the plan needs, no weights, no torch."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import yaml

from orthoflow.errors import BadInput
from orthoflow.models.heads import Task, check_heads, check_things, class_count
from orthoflow.plainyaml import plain_data

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Method = Literal["none", "zscore", "minmax", "percentile", "fixed"]
Scope = Literal["volume", "patch"]

CARD_FILE = "card.yaml"
WEIGHTS_FILE = "weights.safetensors"
MAX_CARD_BYTES = 64 * 1024
DEFAULT_TILE_STRIDE = 16
"""Phase assumed of a network with a fixed input whose card states none."""
CPU_BATCH_PIXELS = 2**16
"""Tiles that go through a CPU together: one of 256 x 256, four of 128 x 128."""
MOST_NUMBERS = 2**30
"""In the input or the logits of the smallest tile that a network takes: 4 GiB of float32."""

# Facts that leave every output voxel as it is; they stay out of the digest.
PROSE = frozenset(
    {"name", "description", "license", "training", "classes", "speed", "speed_note", "digest"}
    | {"activation_bytes"}
)


@dataclass(frozen=True, slots=True)
class Normalization:
    """How raw voxels become network input, per channel.

    ``none``: as they are. ``zscore``: (x - mean) / std. ``minmax``: (x - min) / (max - min).
    ``percentile``: (x - p_low) / (p_high - p_low). ``fixed``: (x - mean) / std with the two numbers
    of the card, on raw values. The statistics are those of the whole volume or of each patch.
    """

    method: Method = "none"
    scope: Scope = "volume"
    low: float = 1.0
    """Lower percentile, 0 to 100 (method "percentile")."""
    high: float = 99.0
    """Upper percentile, 0 to 100 (method "percentile")."""
    mean: float | None = None
    """Subtracted from raw values (method "fixed")."""
    std: float | None = None
    """Divisor of raw values (method "fixed")."""

    def __post_init__(self) -> None:
        _one_of("normalization method", self.method, get_args(Method))
        _one_of("normalization scope", self.scope, get_args(Scope))
        for name in ("low", "high"):
            _number(f"normalization {name}", getattr(self, name))
        if not 0 <= self.low < self.high <= 100:
            raise BadInput(
                f"normalization percentiles low={self.low}, high={self.high} must keep "
                "0 <= low < high <= 100"
            )
        if self.method == "fixed":
            _number("normalization mean", self.mean)
            _number("normalization std", self.std, above=0.0)

    @classmethod
    def of(cls, value: Normalization | str | Mapping[str, Any]) -> Normalization:
        """From a method's name, a mapping of this class's fields, or itself.

        >>> Normalization.of("zscore").method
        'zscore'
        """
        if isinstance(value, Normalization):
            return value
        if isinstance(value, str):
            return cls(method=value)  # type: ignore[arg-type]
        return cls(**_known("normalization", value, cls))


@dataclass(frozen=True, slots=True)
class Card:
    """Facts about one network; `card.yaml` beside its weights.

    Exactly one of `tile` and `divisor` is given. Everything is checked at construction and refused
    with `BadInput`.
    """

    name: str
    outputs: int
    """Output channels. Task semantic: logits; 1 is a sigmoid, 2 and more are a softmax."""
    ndim: int = 2
    """2: sees (n, channels, h, w); 3: sees (n, channels, d, h, w)."""
    channels: int = 1
    """Input channels."""
    task: Task = "semantic"
    """What the outputs mean; `orthoflow.models.heads` says it channel by channel."""
    heads: tuple[tuple[str, int], ...] = ()
    """Name and channels of each head, in output order.

    Empty: one head of all outputs, or the heads that the task panoptic or flows has.
    """
    classes: tuple[str, ...] = ()
    """Names of the classes, background first; empty: unnamed."""
    things: tuple[int, ...] = ()
    """Classes of a panoptic network that consist of instances; empty: all but the background."""
    tile: tuple[int, ...] | None = None
    """The only input size the network takes, `ndim` numbers of pixels."""
    divisor: int | None = None
    """Fully convolutional: any input size that is a multiple of this."""
    stride: int = 0
    """Period of the network's phase in pixels; 0 means the divisor, or 16 for a fixed tile."""
    reach: int | None = None
    """Pixels to each side an output depends on; None: unknown, or the whole tile."""
    normalization: Normalization = field(default_factory=Normalization)
    voxel_size: tuple[float, float, float] | None = None
    """Micrometres (z, y, x) the network was trained at."""
    diameter: float | None = None
    """Typical object diameter in network pixels."""
    activation_bytes: float | None = None
    """Most bytes of tensors alive at once in a float32 pass, per input pixel."""
    speed: float | None = None
    """Network pixels per second, on the machine that `speed_note` names."""
    speed_note: str = ""
    architecture: Mapping[str, Any] | None = field(default=None, hash=False)
    """How to build the module, as in ``{"kind": "unet", "base": 12, "depth": 3}``."""
    description: str = ""
    license: str = ""
    training: Mapping[str, Any] | None = field(default=None, hash=False)
    """How it was trained: seed, command, data, measured quality."""
    digest: str | None = field(default=None, compare=False)
    """Filled by loading; never in the file."""

    def __post_init__(self) -> None:
        _one_of("card task", self.task, get_args(Task))
        _one_of("card ndim", self.ndim, (2, 3))
        _check_prose(self)
        for name in ("outputs", "channels"):
            _integer(f"card {name}", getattr(self, name), least=1)
        _check_size(self)
        _check_figures(self)
        _check_lists(self)
        check_things(self)
        if self.stride == 0:
            object.__setattr__(self, "stride", self.divisor or DEFAULT_TILE_STRIDE)

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Card:
        """Card from plain data; unknown keys are refused with the nearest known one."""
        given = _known("card", facts, cls, hidden=("digest",))
        for name in ("name", "outputs"):
            if name not in given:
                raise BadInput(f"card has no {name!r}; add it (docs/models.md lists the fields)")
        if "normalization" in given:
            given["normalization"] = Normalization.of(given["normalization"])
        for name in ("tile", "classes", "things", "voxel_size"):
            if given.get(name) is not None:
                given[name] = _sequence(f"card {name}", given[name])
        heads = given.get("heads")
        if heads is not None:
            pairs = heads.items() if isinstance(heads, dict) else _sequence("card heads", heads)
            given["heads"] = tuple(tuple(pair) for pair in pairs)
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for YAML or JSON: no tuples, no digest, no field at its default."""
        facts: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name == "digest" or (item.name != "normalization" and value == item.default):
                continue
            facts[item.name] = _plain(value)
        facts["heads"] = dict(self.heads)
        if not self.heads:
            del facts["heads"]
        return facts

    def replace(self, **changes: Any) -> Card:
        """Copy of this card with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    def digest_of(self, weights: str) -> str:
        """``sha256:…`` over the weights' digest and every fact that can change an output voxel."""
        facts = {key: value for key, value in self.to_dict().items() if key not in PROSE}
        text = json.dumps([weights, facts], sort_keys=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def example_shape(self, *, least: int = 32) -> tuple[int, ...]:
        """Spatial shape of a small input the network takes: the tile, or at least `least` pixels.

        >>> Card("c", outputs=2, divisor=12).example_shape()
        (36, 36)
        """
        if self.tile is not None:
            return self.tile
        divisor = self.divisor or 1
        return (-(-least // divisor) * divisor,) * self.ndim


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model by reference: small unless it lives in memory only; picklable; equal by digest.

    Workers load it once and keep it by `digest` (`orthoflow.models.load.load_model`).
    """

    digest: str
    source: str = field(compare=False)
    """A bundled name, a folder or file (path or URL), ``python:…``, or "memory"."""
    card: Card = field(compare=False)
    payload: bytes | None = field(default=None, compare=False, repr=False)
    """The pickled module of a model in memory, else None."""
    trust: str | None = field(default=None, compare=False)
    """Digest of the code that may be run for it."""

    def __dask_tokenize__(self) -> tuple[str, str]:
        return ("orthoflow-model", self.digest)


def check_channels(card: Card, channels: int) -> None:
    """Refuse data whose channels are not those of the network.

    Raises
    ------
    BadInput
        With both numbers.
    """
    if card.channels != channels:
        remedy = f"give a volume of {card.channels}"
        if card.channels == 1:
            remedy = f"choose one with --channel, 0 to {channels - 1},"
        raise BadInput(
            f"model {card.name!r} takes {card.channels} channel{'s' * (card.channels != 1)}, the "
            f"volume has {channels}; {remedy} or take another model"
        )


def parse_card(text: str | bytes, *, where: str) -> Card:
    """Card from YAML; only plain data is built, whatever tags the text carries.

    Raises
    ------
    BadInput
        Naming the file, for text that is too long, no YAML mapping, or not a card.
    """
    content = text.encode() if isinstance(text, str) else text
    facts = plain_data(content, where=where, limit=MAX_CARD_BYTES)
    if not isinstance(facts, dict):
        raise BadInput(f"{where} holds {type(facts).__name__}, a card is a mapping of fields")
    try:
        return Card.from_dict(facts)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error


def read_card(path: Path) -> Card:
    """Card from a YAML file."""
    return parse_card(path.read_bytes(), where=str(path))


def format_card(card: Card) -> str:
    """YAML of a card, fields in the order of the class."""
    return yaml.dump(
        card.to_dict(), Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=96
    )


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def _check_size(card: Card) -> None:
    if (card.tile is None) == (card.divisor is None):
        raise BadInput(
            f"card {card.name!r} has tile={card.tile} and divisor={card.divisor}; give exactly "
            "one: tile for a network with a fixed input size, divisor for a fully convolutional one"
        )
    if card.tile is not None:
        if len(card.tile) != card.ndim:
            raise BadInput(f"card tile {card.tile} must have ndim={card.ndim} numbers")
        for side in card.tile:
            _integer("card tile side", side, least=1)
    if card.divisor is not None:
        _integer("card divisor", card.divisor, least=1)
    _integer("card stride", card.stride, least=0)
    if card.reach is not None:
        _integer("card reach", card.reach, least=0)
    # Each network is tried with such a tile when it is loaded.
    numbers = math.prod(card.example_shape()) * max(card.channels, card.outputs)
    if numbers > MOST_NUMBERS:
        raise BadInput(
            f"card {card.name!r}: its smallest tile {card.example_shape()} with {card.channels} "
            f"channels and {card.outputs} outputs has {numbers} numbers; at most {MOST_NUMBERS}"
        )


def _check_figures(card: Card) -> None:
    for name in ("diameter", "activation_bytes", "speed"):
        if getattr(card, name) is not None:
            _number(f"card {name}", getattr(card, name), above=0.0)
    if card.voxel_size is not None:
        if len(card.voxel_size) != 3:
            raise BadInput(f"card voxel_size {card.voxel_size} must have 3 numbers (z, y, x)")
        for size in card.voxel_size:
            _number("card voxel_size", size, above=0.0)
    if not isinstance(card.normalization, Normalization):
        raise BadInput(f"card normalization {card.normalization!r} is not a Normalization")


def _check_prose(card: Card) -> None:
    for name in ("name", "speed_note", "description", "license"):
        _text(f"card {name}", getattr(card, name))
    for name in ("architecture", "training"):
        if not isinstance(getattr(card, name), (dict, type(None))):
            raise BadInput(f"card {name} {getattr(card, name)!r} must be a mapping")


def _check_lists(card: Card) -> None:
    for pair in card.heads:
        if len(pair) != 2:
            raise BadInput(f"card heads entry {pair!r} must be a name and its number of channels")
        _text("card head", pair[0])
        _integer(f"card head {pair[0]!r}", pair[1], least=1)
    total = sum(size for _, size in card.heads)
    if card.heads and total != card.outputs:
        raise BadInput(f"card heads have {total} channels together, outputs is {card.outputs}")
    heads = check_heads(card.task, card.heads, outputs=card.outputs, ndim=card.ndim)
    object.__setattr__(card, "heads", heads)
    for name in card.classes:
        _text("card class", name)
    wanted = class_count(card)
    # The heads of a semantic network may be anything.
    free = card.task == "semantic" and card.heads
    if card.classes and not free and len(card.classes) != wanted:
        raise BadInput(
            f"card classes names {len(card.classes)} classes, outputs={card.outputs} has {wanted}"
        )


def _known(
    what: str, facts: Mapping[str, Any], cls: type, hidden: tuple[str, ...] = ()
) -> dict[str, Any]:
    if not isinstance(facts, dict):
        raise BadInput(f"{what} {facts!r} must be a mapping of fields")
    names = [item.name for item in dataclasses.fields(cls) if item.name not in hidden]
    for key in facts:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.0)[0]
            raise BadInput(f"unknown {what} key {key!r}; did you mean {near!r}?")
    return dict(facts)


def _sequence(what: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise BadInput(f"{what} {value!r} must be a list")
    return tuple(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Normalization):
        return dataclasses.asdict(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _one_of(what: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed or isinstance(value, bool):
        raise BadInput(f"{what} {value!r} is unknown; use one of {', '.join(map(str, allowed))}")


def _integer(what: str, value: object, *, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadInput(f"{what} {value!r} must be a whole number of at least {least}")


def _number(what: str, value: object, *, above: float | None = None) -> None:
    floor = -math.inf if above is None else above
    if isinstance(value, (int, float)) and not isinstance(value, bool) and floor < value < math.inf:
        return
    bound = "" if above is None else f" above {above:g}"
    raise BadInput(f"{what} {value!r} must be a finite number{bound}")


def _text(what: str, value: object) -> None:
    if not isinstance(value, str):
        raise BadInput(f"{what} {value!r} must be text")
