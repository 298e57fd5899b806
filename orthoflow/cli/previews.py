"""The command that shows what a network makes of a little: preview."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orthoflow.cli.reports import progress, tell
from orthoflow.cli.wishes import AS_JSON, Grouped, apart, three, with_wishes
from orthoflow.errors import BadInput, RunInterrupted
from orthoflow.options import SLICE_OPTIONS, Options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orthoflow.slices import Trials

_SIZE = "48,256,256"
_LONG_RUNS = ("overwrite", "resume", "retry_failed", "take_over")


@with_wishes(
    several=SLICE_OPTIONS,
    without=(
        *("roi", "output", "name", "levels", "keep_stacks", "disagreement"),
        *("compression_level", "ome_version", "cluster", "scheduler", "workers", "memory_limit"),
        *("num_parts", "part_id"),
    ),
)
@click.command(cls=Grouped)
@click.argument("volume", metavar="INPUT")
@click.option("--model", required=True, help="The network: a name, a folder, a URL.")
@click.option("--at", help="Centre z,y,x of the region.  [the volume's]")
@click.option("--size", help=f"Size z,y,x of the region.  [{_SIZE}; of slices: all]")
@click.option("--picture", default="preview.png", help="Where the picture goes.  [preview.png]")
@click.option(
    "--slice",
    "slices",
    multiple=True,
    metavar="xy:N",
    help="Show the objects of one plane instead (xy:30, xz:30, yz:30; several with commas). Then "
    f"{', '.join(name.replace('_', '-') for name in SLICE_OPTIONS)} may have several values, with "
    "commas or typed again: each combination is tried.",
)
@click.option("--truth", help="With --slice: the true objects, labels of the volume's shape.")
@click.option(
    "--batch",
    metavar="OUTPUT",
    help="Label every plane of the volume by itself, into OUTPUT (OME-Zarr); planes of "
    "--orientations, xy unless given.",
)
@AS_JSON
@click.option("--quiet", is_flag=True, help="No progress (--batch).")
def preview(volume: str, as_json: bool, quiet: bool, **wishes: Any) -> None:
    """Segment a small region and draw it: exactly what a full run gives there.

    \b
    orthoflow preview in.zarr --model demo:semantic
    orthoflow preview in.zarr --model demo:panoptic --slice xy:30 --center-threshold 0.05,0.1,0.2
    orthoflow preview in.zarr --model demo:panoptic --batch planes.zarr
    """
    own = {name: wishes.pop(name) for name in ("model", "at", "size", "picture")}
    own |= {name: wishes.pop(name) for name in ("slices", "truth", "batch")}
    options, sweep = apart(wishes, SLICE_OPTIONS)
    _check(own, options, sweep)
    if own["batch"] is not None:
        _batch(volume, own, options, as_json=as_json, quiet=quiet)
    elif own["slices"]:
        _slices(volume, own, options, sweep, as_json=as_json)
    else:
        _region(volume, own, options, as_json=as_json)


def _check(own: dict[str, Any], options: dict[str, Any], sweep: dict[str, list[Any]]) -> None:
    """Refuse what belongs to another way of looking."""
    if own["batch"] is not None:
        for name in ("slices", "truth", "at", "size"):
            if own[name]:
                raise BadInput(
                    f"{name.rstrip('s')} does not go with batch, which labels whole volumes; leave "
                    "one of them out"
                )
    else:
        for name in _LONG_RUNS:
            if name in options:
                raise BadInput(f"{name} is for batch, which writes an output; leave it out")
    if sweep and not own["slices"]:
        name, values = next(iter(sweep.items()))
        raise BadInput(
            f"{name} {','.join(map(str, values))}: several values are compared on slices; use "
            "slice, as in --slice xy:30, or one value"
        )
    if own["truth"] is not None and not own["slices"]:
        raise BadInput("truth is compared on slices; use slice, as in --slice xy:30")


def _region(volume: str, own: dict[str, Any], options: dict[str, Any], *, as_json: bool) -> None:
    from orthoflow.look import look  # noqa: PLC0415 - imports torch

    found = look(
        volume,
        own["model"],
        Path(own["picture"]),
        centre=None if own["at"] is None else three("at", own["at"]),
        size=three("size", own["size"] or _SIZE),
        options=options,
    )
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"wrote {found['picture']}: region {found['roi']}, {found['seconds']:.1f} s")
    objects = f"{found['instances']:,} objects, " if "instances" in found else ""
    click.echo(
        f"{objects}foreground {found['foreground']:.1%}, disagreement {found['disagreement']:.1%}"
    )
    click.echo(
        f"the whole volume: about {found['seconds_whole'] / 60:.1f} minutes of one core or GPU"
    )


def _slices(
    volume: str,
    own: dict[str, Any],
    options: dict[str, Any],
    sweep: dict[str, list[Any]],
    *,
    as_json: bool,
) -> None:
    from orthoflow.slices import preview_slices  # noqa: PLC0415 - imports torch

    trials = preview_slices(
        volume,
        own["model"],
        own["slices"],
        sweep=sweep,
        truth=own["truth"],
        at=None if own["at"] is None else three("at", own["at"]),
        size=None if own["size"] is None else three("size", own["size"]),
        picture=own["picture"],
        **options,
    )
    click.echo(json.dumps(trials.to_dict(), indent=2) if as_json else "\n".join(_lines(trials)))


def _lines(trials: Trials) -> Iterator[str]:
    """Trials in words: a table, and the best setting to be pasted."""
    yield f"wrote {trials.picture}: {', '.join(trials.slices)}, {trials.seconds:.1f} s"
    limits = list(trials.trials[0].scores)
    rows = [["setting", "objects", *(f"F1 at IoU {limit}" for limit in limits)]]
    for one in trials.trials:
        scores = (f"{one.scores[limit]:.3f}" for limit in limits)
        rows.append([one.command or "as given", f"{one.objects:,}", *scores])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = (text.rjust(width) for text, width in zip(others, widths[1:], strict=True))
        yield "   ".join((first.ljust(widths[0]), *cells))
    if trials.best is not None and len(trials.trials) > 1:
        yield f"best: {trials.trials[trials.best].command}"


def _batch(
    volume: str, own: dict[str, Any], options: dict[str, Any], *, as_json: bool, quiet: bool
) -> None:
    from orthoflow.cluster import local_kind  # noqa: PLC0415 - imports Dask
    from orthoflow.slices import label_planes  # noqa: PLC0415 - imports torch

    options["cluster"] = local_kind(Options.from_mapping(options), otherwise="processes")
    try:
        with progress(quiet=quiet) as show:
            report = label_planes(volume, own["batch"], own["model"], progress=show, **options)
    except KeyboardInterrupt as error:
        raise RunInterrupted(
            "interrupted; what is done is kept: run the same command with --resume"
        ) from error
    tell(report, as_json=as_json)
