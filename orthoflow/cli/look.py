"""Commands that look before anything is done: info, plan."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from orthoflow.cli.exits import printable
from orthoflow.cli.wishes import (
    AS_JSON,
    CONFIG,
    STORAGE_OPTION,
    Grouped,
    given,
    job_of,
    with_wishes,
)
from orthoflow.errors import BadInput
from orthoflow.options import Options

if TYPE_CHECKING:
    from collections.abc import Iterable


@click.command()
@click.argument("url")
@AS_JSON
@STORAGE_OPTION
def info(url: str, as_json: bool, storage_option: tuple[str, ...]) -> None:
    """Show what is stored at URL: axes, levels, voxel size, dtype, codecs."""
    from orthoflow.stores.volumes import summarize  # noqa: PLC0415 - imports zarr

    options = Options.from_mapping({"storage_option": storage_option})
    facts = summarize(url, options.storage_option)
    click.echo(json.dumps(facts, indent=2) if as_json else printable("\n".join(_info_lines(facts))))


def _info_lines(facts: dict[str, Any]) -> list[str]:
    lines = []
    for name, value in facts.items():
        if name == "levels":
            for level in value:
                shown = ", ".join(f"{k} {_plain(v)}" for k, v in level.items() if v is not None)
                lines.append(f"{'level':<14}{shown}")
        elif value not in (None, [], {}):
            lines.append(f"{name.replace('_', ' '):<14}{_plain(value)}")
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return (
            " x ".join(_plain(v) for v in value) if _numbers(value) else ", ".join(map(str, value))
        )
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(v, (int, float)) for v in values)


@with_wishes(without=("tile", "cluster", "scheduler", "overwrite"))
@click.command(cls=Grouped)
@click.argument("volume", metavar="[INPUT]", required=False)
@click.option("--shape", help="Shape z,y,x (or c,z,y,x) of a volume that does not exist yet.")
@click.option("--dtype", default="uint8", help="Its dtype, with --shape.  [uint8]")
@click.option("--model", help="The network: a name, a folder, a URL.")
@click.option(
    "--tile", help="Instead of a model: a network with this fixed input, one side or two."
)
@click.option("--divisor", type=int, help="Instead of a model: a fully convolutional network.")
@click.option("--stride", type=int, help="Period of that network's phase.  [divisor, or 16]")
@click.option("--reach", type=int, help="Pixels that network sees to each side.  [unknown]")
@CONFIG
@AS_JSON
def plan(
    volume: str | None, shape: str | None, config: str | None, as_json: bool, **wishes: Any
) -> None:
    """Show every number of a run before it runs: tiles, blocks, bytes, memory, time.

    \b
    orthoflow plan in.zarr --model demo:semantic
    orthoflow plan --shape 68,984,984 --tile 256 --overlap 0.1 --json
    """
    from orthoflow.plan import plan_run  # noqa: PLC0415 - imports NumPy
    from orthoflow.plan.costs import require_memory  # noqa: PLC0415

    own = {
        name: wishes.pop(name) for name in ("dtype", "model", "tile", "divisor", "stride", "reach")
    }
    paths, job = job_of(config, input=volume)
    if shape is None:
        volume = paths["input"]
    if own["tile"] is None and own["divisor"] is None:
        own["model"] = own["model"] or paths["model"]
    if own["model"] is not None and own["tile"] is not None:
        wishes["tile"] = own.pop("tile")
    options = Options.from_mapping({**job, **given(wishes)})
    made = plan_run(
        _plan_facts(volume, shape, own["dtype"], options), _plan_card(own, options), options
    )
    if options.memory_limit is not None:
        require_memory(made, options.memory_limit)
    click.echo(json.dumps(made.to_dict(), indent=2) if as_json else str(made))


def _plan_facts(volume: str | None, shape: str | None, dtype: str, options: Options) -> Any:
    from orthoflow.geometry.facts import VolumeFacts  # noqa: PLC0415

    if (volume is None) == (shape is None):
        raise BadInput("give either an INPUT or --shape, as in --shape 68,984,984")
    if volume is not None:
        from orthoflow.inputs import find_source  # noqa: PLC0415 - imports zarr

        return find_source(volume, options).facts
    assert shape is not None
    try:
        sides = tuple(int(part) for part in shape.split(","))
    except ValueError:
        sides = ()
    if len(sides) not in (3, 4) or min(sides) < 1:
        raise BadInput(f"shape {shape!r} is not of the form z,y,x or c,z,y,x with positive numbers")
    channels = sides[0] if len(sides) == 4 else 1
    z, y, x = sides[-3:]
    return VolumeFacts(name="shape", shape=(z, y, x), dtype=_plain_dtype(dtype), channels=channels)


def _plain_dtype(name: str) -> str:
    import numpy as np  # noqa: PLC0415 - not needed for --help

    try:
        found = np.dtype(name)
    except TypeError:
        found = np.dtype(np.void)
    if found.kind not in "iuf":
        raise BadInput(f"dtype {name!r} is no plain number; use one such as uint8 or float32")
    return found.name


def _plan_card(own: dict[str, Any], options: Options) -> Any:
    from orthoflow.models import Card, card_of  # noqa: PLC0415 - reads YAML

    given = [name for name in ("model", "tile", "divisor") if own.get(name) is not None]
    if len(given) != 1:
        raise BadInput("give one of --model, --tile (a fixed input) and --divisor")
    if own["model"] is not None:
        return card_of(own["model"], options.trust)
    tile = None
    if own.get("tile") is not None:
        sides = Options.from_mapping({"tile": own["tile"]}).tile or ()
        tile = sides * 2 if len(sides) == 1 else sides
    return Card(
        name=f"any network of {given[0]} {own[given[0]]}",
        outputs=2,
        ndim=2 if tile is None else len(tile),
        tile=tile,
        divisor=own["divisor"],
        stride=own["stride"] or 0,
        reach=own["reach"],
    )
