"""Commands that segment: run, demo."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import click

from orthoflow.cli.exits import REMEDY
from orthoflow.cli.reports import progress, report_lines, tell
from orthoflow.cli.wishes import AS_JSON, CONFIG, Grouped, given, job_of, three, with_wishes
from orthoflow.errors import BadInput, RunInterrupted
from orthoflow.options import CONSENSUS_OPTIONS, Options

_HEADINGS = {"dice": "Dice", "iou": "IoU", "f1": "F1", "f1 at 0.75": "F1 at 0.75"}


@with_wishes()
@click.command(cls=Grouped)
@click.argument("volume", metavar="INPUT", required=False)
@click.argument("target", metavar="OUTPUT", required=False)
@click.option("--model", help="The network: a name, a folder, a URL.")
@CONFIG
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
    paths, job = job_of(config, input=volume, target=target, model=wishes.pop("model"))
    volume, target, model = (paths[name] for name in ("input", "target", "model"))
    for name, value in {"input": volume, "output": target, "model": model}.items():
        if value is None:
            raise BadInput(f"{name} is missing; {REMEDY.format('run')}")
    options = {**job, **given(wishes)}
    checked = Options.from_mapping(options)

    from orthoflow import cluster, pipeline  # noqa: PLC0415 - imports torch

    if checked.cluster == "auto":
        options["cluster"] = cluster.local_kind(checked, otherwise="processes")

    try:
        with progress(quiet=quiet) as show:
            report = pipeline.run(volume, str(target), model=model, progress=show, **options)
    except KeyboardInterrupt as error:
        raise RunInterrupted(
            "interrupted; what is done is kept: run the same command with --resume"
        ) from error
    tell(report, as_json=as_json)


@with_wishes(only=CONSENSUS_OPTIONS)
@click.command(cls=Grouped)
@click.argument("xy")
@click.argument("xz")
@click.argument("yz")
@click.argument("target", metavar="OUTPUT")
@AS_JSON
@click.option("--quiet", is_flag=True, help="No progress.")
def consensus(
    xy: str, xz: str, yz: str, target: str, as_json: bool, quiet: bool, **wishes: Any
) -> None:
    """Make instances of OUTPUT from labels of the planes XY, XZ and YZ, made by any segmenter.

    \b
    orthoflow consensus xy.zarr xz.zarr yz.zarr out.zarr --votes 2
    orthoflow consensus xy.zarr - - out.zarr --votes 1 --instances empanada

    All three have the axes z, y, x of one volume; ids are unique within a plane, 0 is background.
    "-" stands for an orientation that there is not.
    """
    options = given(wishes)
    checked = Options.from_mapping(options)
    planes = {"xy": xy, "xz": xz, "yz": yz}

    from orthoflow.labelling import write_consensus  # noqa: PLC0415 - imports Dask

    if checked.cluster == "auto":
        # No network runs, so a GPU would be of no use.
        options["cluster"] = "processes"
    try:
        with progress(quiet=quiet) as show:
            report = write_consensus(
                {name: url for name, url in planes.items() if url != "-"},
                target,
                progress=show,
                **options,
            )
    except KeyboardInterrupt as error:
        raise RunInterrupted(
            "interrupted; what is done is kept: run the same command with --resume"
        ) from error
    tell(report, as_json=as_json)


@click.command()
@click.option("--out", "folder", default="demo", help="Folder for everything it makes.  [demo]")
@click.option(
    "--task",
    type=click.Choice(["semantic", "panoptic", "flows"]),
    default="semantic",
    help="What is found: foreground; or objects, by centres or by flows.  [semantic]",
)
@click.option("--shape", default="96,256,256", help="Volume z,y,x.  [96,256,256]")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the synthetic volume.  [0]")
@click.option("--workers", type=int, help="Worker processes.  [one per core]")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
def demo(folder: str, task: Any, shape: str, seed: int, workers: int | None, as_json: bool) -> None:
    """Segment a synthetic volume whose truth is known, and look at the result."""
    from orthoflow.demo import run_demo  # noqa: PLC0415 - imports torch

    with progress(quiet=False) as show:
        result = run_demo(
            Path(folder),
            task=task,
            shape=three("shape", shape),
            seed=seed,
            workers=workers,
            say=lambda text: click.echo(text, err=True),
            progress=show,
        )
    if as_json:
        click.echo(json.dumps({"scores": result.scores, "report": result.report}, indent=2))
        return
    click.echo("\n".join(report_lines(result.report)))
    heads = [_HEADINGS[key] for key in result.scores["consensus"]]
    click.echo(f"\n{'':<12}{''.join(f'{head:>12}' for head in heads)}   against the truth")
    for name, values in result.scores.items():
        click.echo(f"{name:<12}{''.join(f'{value:>12.4f}' for value in values.values())}")
    click.echo(
        textwrap.dedent(f"""
        look at    {result.picture}
        next, for the numbers behind it:
            orthoflow plan {result.volume} --model demo:{task}
        and for a volume of your own:
            orthoflow preview YOUR.zarr --model demo:{task}""")
    )
