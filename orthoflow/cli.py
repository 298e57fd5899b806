"""The `orthoflow` command: reads arguments, calls one function, prints. Nothing else prints."""

from __future__ import annotations

import json
import sys
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orthoflow.errors import BadInput, BlockFailed, StoreRefused
from orthoflow.options import Options, Wish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orthoflow.geometry.box import Triple

EXIT_BAD_INPUT, EXIT_BLOCKS_FAILED, EXIT_STORE, EXIT_INTERRUPTED = 2, 3, 4, 5

_CODES = {BadInput: EXIT_BAD_INPUT, BlockFailed: EXIT_BLOCKS_FAILED, StoreRefused: EXIT_STORE}
_REMEDY = "see orthoflow {} --help"
_EXTRAS = {"torch": "inference", "safetensors": "inference", "matplotlib": "show"}


class _Grouped(click.Command):
    """A command whose help shows options under the headings of `Wish.group`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(param, "heading", "This command"), []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class _WishOption(click.Option):
    """A command-line option made from a field of `Options`."""

    def __init__(self, name: str, wish: Wish, default: Any) -> None:
        spellings = [name.replace("_", "-"), *wish.aliases]
        if wish.kind == "flag":
            names = [f"--{s}/--no-{s}" for s in spellings]
        else:
            names = [f"--{s}" for s in spellings]
        super().__init__(
            [*names, name],
            default=None,
            multiple=wish.kind == "pairs",
            help=wish.help + _default_text(default),
            metavar=None if wish.kind == "flag" else _metavar(wish),
        )
        self.heading = wish.group


def _metavar(wish: Wish) -> str:
    if wish.choices:
        return "|".join(wish.choices)
    plain = {"int": "N", "float": "X", "voxels": "N[,N,N]", "floats": "X[,X,X]", "pairs": "K=V"}
    return plain.get(wish.kind, "TEXT")


def _default_text(default: Any) -> str:
    if default in (None, (), False):
        return ""
    shown = ",".join(f"{v:g}" for v in default) if isinstance(default, tuple) else default
    return f"  [{'on' if default is True else shown}]"


def _with_wishes(*, without: Iterable[str] = ()) -> Callable[[click.Command], click.Command]:
    """Give a command every option of `Options`."""
    left_out = set(without)

    def add(command: click.Command) -> click.Command:
        for entry in fields(Options):
            if entry.name not in left_out:
                wish = entry.metadata["wish"]
                command.params.append(_WishOption(entry.name, wish, entry.default))
        return command

    return add


def _given(wishes: dict[str, Any]) -> dict[str, Any]:
    """Options that were typed."""
    return {name: value for name, value in wishes.items() if value not in (None, ())}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="orthoflow", message="%(prog)s %(version)s")
def cli() -> None:
    """Segment volumes with 2-D and 3-D networks in three orientations, on a laptop or a cluster.

    A first look:  orthoflow demo
    """


@cli.command()
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--storage-option", multiple=True, metavar="K=V", help="Option of the store's client."
)
def info(url: str, as_json: bool, storage_option: tuple[str, ...]) -> None:
    """Show what is stored at URL: axes, levels, voxel size, dtype, codecs."""
    from orthoflow.stores.volumes import summarize  # noqa: PLC0415 - imports zarr

    options = Options.from_mapping({"storage_option": storage_option})
    facts = summarize(url, options.storage_option)
    click.echo(json.dumps(facts, indent=2) if as_json else "\n".join(_info_lines(facts)))


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


_CONFIG = click.option("--config", type=click.Path(), help="Job file with any of these options.")


@_with_wishes(without=("tile", "cluster", "scheduler", "overwrite"))
@cli.command(cls=_Grouped)
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
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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
    paths, job = _job(config, input=volume)
    if shape is None:
        volume = paths["input"]
    if own["tile"] is None and own["divisor"] is None:
        own["model"] = own["model"] or paths["model"]
    if own["model"] is not None and own["tile"] is not None:
        wishes["tile"] = own.pop("tile")
    options = Options.from_mapping({**job, **_given(wishes)})
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


@_with_wishes()
@cli.command(cls=_Grouped)
@click.argument("volume", metavar="INPUT", required=False)
@click.argument("target", metavar="OUTPUT", required=False)
@click.option("--model", help="The network: a name, a folder, a URL.")
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--quiet", is_flag=True, help="No progress.")
def run(
    volume: str | None,
    target: str | None,
    config: str | None,
    as_json: bool,
    quiet: bool,
    **wishes: Any,
) -> None:
    """Segment INPUT with a network and write OME-Zarr to OUTPUT.

    \b
    orthoflow run in.zarr out.zarr --model demo:semantic
    orthoflow run --config job.yaml

    A job file has the options' names as keys, and `input`, `target` and `model`.
    """
    paths, job = _job(config, input=volume, target=target, model=wishes.pop("model"))
    volume, target, model = (paths[name] for name in ("input", "target", "model"))
    for name, value in {"input": volume, "output": target, "model": model}.items():
        if value is None:
            raise BadInput(f"{name} is missing; {_REMEDY.format('run')}")
    options = {**job, **_given(wishes)}
    checked = Options.from_mapping(options)

    from orthoflow import cluster, pipeline  # noqa: PLC0415 - imports torch

    if checked.cluster == "auto":
        options["cluster"] = cluster.local_kind(checked, otherwise="processes")

    with _progress(quiet=quiet) as show:
        report = pipeline.run(volume, str(target), model=model, progress=show, **options)
    click.echo(json.dumps(report, indent=2) if as_json else "\n".join(_report_lines(report)))
    if report["failed"]:
        for block, reason in report["failed"].items():
            click.echo(f"failed block {block}: {reason}", err=True)
        sys.exit(EXIT_BLOCKS_FAILED)


def _job(config: str | None, **typed: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Paths and model, as typed or else from the job file; and the job file's options."""
    from orthoflow.jobfile import PATHS, read_job  # noqa: PLC0415 - reads YAML

    job = {} if config is None else read_job(config)
    paths = {name: job.pop(name, None) for name in PATHS}
    return paths | {name: value for name, value in typed.items() if value is not None}, job


def _report_lines(report: dict[str, Any]) -> list[str]:
    stages = ", ".join(f"{k} {v:.1f}" for k, v in report["seconds_by_stage"].items())
    rate = report["voxels"] / max(report["seconds"], 1e-9)
    return [
        f"wrote {report['output']}",
        f"{report['blocks']:,} of {report['blocks_planned']:,} blocks, {report['voxels']:,} voxels "
        f"in {report['seconds']:.1f} s ({rate / 1e6:.2f} Mvoxel/s) on {report['device']}",
        f"{report['tiles']:,} tiles, {report['network_pixels'] / 1e6:,.1f} Mpixel, "
        f"{report['patches_skipped']:,} of {report['patches']:,} patches empty",
        f"seconds of all workers: {stages}",
    ]


@_with_wishes(
    without=(
        *("roi", "output", "name", "overwrite", "levels", "keep_stacks", "disagreement"),
        *("compression_level", "ome_version", "cluster", "scheduler", "workers", "memory_limit"),
    )
)
@cli.command(cls=_Grouped)
@click.argument("volume", metavar="INPUT")
@click.option("--model", required=True, help="The network: a name, a folder, a URL.")
@click.option("--at", help="Centre z,y,x of the region.  [the volume's]")
@click.option("--size", default="48,256,256", help="Size z,y,x of the region.  [48,256,256]")
@click.option("--picture", default="preview.png", help="Where the picture goes.  [preview.png]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def preview(volume: str, at: str | None, as_json: bool, **wishes: Any) -> None:
    """Segment a small region and draw it: exactly what a full run gives there."""
    from orthoflow.look import look  # noqa: PLC0415 - imports torch

    own = {name: wishes.pop(name) for name in ("model", "size", "picture")}
    found = look(
        volume,
        own["model"],
        Path(own["picture"]),
        centre=None if at is None else _three("at", at),
        size=_three("size", own["size"]),
        options=_given(wishes),
    )
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"wrote {found['picture']}: region {found['roi']}, {found['seconds']:.1f} s")
    click.echo(f"foreground {found['foreground']:.1%}, disagreement {found['disagreement']:.1%}")
    click.echo(
        f"the whole volume: about {found['seconds_whole'] / 60:.1f} minutes of one core or GPU"
    )


def _three(name: str, text: str) -> Triple:
    try:
        z, y, x = (int(part) for part in text.split(","))
    except ValueError as error:
        raise BadInput(f"{name} {text!r} is not of the form z,y,x with whole numbers") from error
    return (z, y, x)


@cli.command()
@click.option("--out", "folder", default="demo", help="Folder for everything it makes.  [demo]")
@click.option("--shape", default="96,256,256", help="Volume z,y,x.  [96,256,256]")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the synthetic volume.  [0]")
@click.option("--workers", type=int, help="Worker processes.  [one per core]")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
def demo(folder: str, shape: str, seed: int, workers: int | None, as_json: bool) -> None:
    """Segment a synthetic volume whose truth is known, and look at the result."""
    from orthoflow.demo import run_demo  # noqa: PLC0415 - imports torch

    with _progress(quiet=False) as show:
        result = run_demo(
            Path(folder),
            shape=_three("shape", shape),
            seed=seed,
            workers=workers,
            say=lambda text: click.echo(text, err=True),
            progress=show,
        )
    if as_json:
        click.echo(json.dumps({"scores": result.scores, "report": result.report}, indent=2))
        return
    click.echo("\n".join(_report_lines(result.report)))
    click.echo(f"\n{'':<12}{'Dice':>8}{'IoU':>8}   against the truth")
    for name, both in result.scores.items():
        click.echo(f"{name:<12}{both['dice']:>8.4f}{both['iou']:>8.4f}")
    click.echo(
        textwrap.dedent(f"""
        look at    {result.picture}
        next, for the numbers behind it:
            orthoflow plan {result.volume} --model demo:semantic
        and for a volume of your own:
            orthoflow preview YOUR.zarr --model demo:semantic""")
    )


def _progress(*, quiet: bool) -> Any:
    from orthoflow.progress import shown  # noqa: PLC0415 - imports rich

    return shown(quiet=quiet)


def main(arguments: list[str] | None = None) -> None:
    """Run the command; every foreseen failure is one line and an exit code of its own."""
    try:
        cli.main(arguments, prog_name="orthoflow", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.UsageError as error:
        command = "" if error.ctx is None else error.ctx.command_path.partition(" ")[2]
        message = error.format_message().rstrip(".")
        _stop(f"{message}; {_REMEDY.format(command)}", EXIT_BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        _stop("interrupted; the output is incomplete", EXIT_INTERRUPTED)
    except (BadInput, BlockFailed, StoreRefused) as error:
        _stop(str(error), next(code for kind, code in _CODES.items() if isinstance(error, kind)))
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        extra = f"orthoflow[{_EXTRAS[error.name]}]"
        _stop(f"{error.name} is not installed; pip install '{extra}'", EXIT_BAD_INPUT)


def _stop(message: str, code: int) -> None:
    click.echo(f"orthoflow: {' '.join(message.split())}", err=True)
    sys.exit(code)
