"""What is typed: options made from `Options`, headings in the help, job files, texts of numbers."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from orthoflow.errors import BadInput
from orthoflow.options import Options, Wish, wish_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from orthoflow.geometry.box import Triple

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
CONFIG = click.option("--config", type=click.Path(), help="Job file with any of these options.")
STORAGE_OPTION = click.option(
    "--storage-option", multiple=True, metavar="K=V", help="Option of the store's client."
)


class Grouped(click.Command):
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

    def __init__(self, name: str, wish: Wish, default: Any, *, several: bool) -> None:
        spellings = [name.replace("_", "-"), *wish.aliases]
        if wish.kind == "flag":
            names = [f"--{s}/--no-{s}" for s in spellings]
        else:
            names = [f"--{s}" for s in spellings]
        super().__init__(
            [*names, name],
            default=None,
            multiple=several or wish.kind == "pairs",
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


def with_wishes(
    *,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
    several: Collection[str] = (),
) -> Callable[[click.Command], click.Command]:
    """Give a command every option of `Options`, or some; those of `several` are given as tuples."""

    def add(command: click.Command) -> click.Command:
        for entry in fields(Options):
            if entry.name not in without and (only is None or entry.name in only):
                wish = entry.metadata["wish"]
                more = entry.name in several
                command.params.append(_WishOption(entry.name, wish, entry.default, several=more))
        return command

    return add


def given(wishes: dict[str, Any]) -> dict[str, Any]:
    """Options that were typed."""
    return {name: value for name, value in wishes.items() if value not in (None, ())}


def apart(
    wishes: dict[str, Any], several: Collection[str]
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Options with one value, and those of `several` that were typed with more.

    Several values are one option typed several times, or, where it takes one number, a list with
    commas.
    """
    single, more = {}, {}
    for name, value in given(wishes).items():
        if name not in several:
            single[name] = value
            continue
        listed = wish_of(name).kind in ("int", "float", "text")
        values = [part for one in value for part in (one.split(",") if listed else [one])]
        if len(values) > 1:
            more[name] = values
        else:
            single[name] = values[0]
    return single, more


def job_of(config: str | None, **typed: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Paths and model, as typed or else from the job file; and the job file's options."""
    from orthoflow.jobfile import PATHS, read_job  # noqa: PLC0415 - reads YAML

    job = {} if config is None else read_job(config)
    paths = {name: job.pop(name, None) for name in PATHS}
    return paths | {name: value for name, value in typed.items() if value is not None}, job


def three(name: str, text: str) -> Triple:
    """Three whole numbers of a text z,y,x."""
    try:
        z, y, x = (int(part) for part in text.split(","))
    except ValueError as error:
        raise BadInput(f"{name} {text!r} is not of the form z,y,x with whole numbers") from error
    return (z, y, x)
