"""Measure child processes in turn, on the same cores, and write down where and what it was.

Standard library only: the children run in other projects' environments.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
ANSWER = "answer: "  # the line of a child's output that holds its answer


@dataclass(frozen=True, slots=True)
class Child:
    """A process to measure: a command that ends with a line made by :func:`answer`."""

    command: tuple[str, ...]
    cores: tuple[int, ...]
    threads: int = 1


# --- in the child -------------------------------------------------------------------------------


def _seconds() -> tuple[float, float, float]:
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    user, system = sum(u.ru_utime for u in used), sum(u.ru_stime for u in used)
    return time.perf_counter(), user + system, system


@contextmanager
def stopwatch() -> Iterator[dict[str, float]]:
    """Seconds of the body: wall, CPU (user and system, all threads, ended children), system."""
    measured: dict[str, float] = {}
    before = _seconds()
    yield measured
    spent = (end - begin for begin, end in zip(before, _seconds(), strict=True))
    measured |= dict(zip(("wall_s", "cpu_s", "system_s"), spent, strict=True))


def _peak_rss_bytes() -> int:
    """Largest resident memory of this process.

    From /proc where there is one: ru_maxrss of a child starts at what its parent had.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def answer(**facts: Any) -> None:
    """Print what was measured; the last thing a child does."""
    print(ANSWER + json.dumps(facts | {"peak_rss_bytes": _peak_rss_bytes()}), flush=True)


# --- in the parent ------------------------------------------------------------------------------


def run(child: Child) -> dict[str, Any]:
    """Run one child on its cores and return its answer; its progress goes to stderr."""
    threads = str(child.threads)
    names = ("OMP", "MKL", "OPENBLAS", "NUMBA")
    environment = os.environ | {f"{name}_NUM_THREADS": threads for name in names}
    done = subprocess.run(
        child.command,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, child.cores),
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(ANSWER)]
    if done.returncode or not lines:
        raise SystemExit(f"{' '.join(child.command)}\nended with {done.returncode}\n{done.stdout}")
    return dict(json.loads(lines[-1].removeprefix(ANSWER)))


def in_turn(children: Mapping[str, Child], *, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Run every child once per round: A B A B, so that a slow minute of the machine hits all."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in children}
    for turn in range(rounds):
        for name, child in children.items():
            note(f"round {turn + 1} of {rounds}: {name}")
            answers[name].append(run(child))
            note(f"  {answers[name][-1]['cpu_s']:.1f} CPU seconds")
    return answers


def median(answers: Sequence[Mapping[str, Any]], key: str) -> float:
    return statistics.median(float(a[key]) for a in answers)


def spread(answers: Sequence[Mapping[str, Any]], key: str) -> float:
    """(largest - smallest) / median: how far the rounds disagree."""
    values = [float(a[key]) for a in answers]
    return (max(values) - min(values)) / statistics.median(values)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def first_cores(count: int) -> tuple[int, ...]:
    """The first cores this process may use."""
    return tuple(sorted(os.sched_getaffinity(0))[:count])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table; the first row's keys are the columns."""
    columns = list(rows[0])
    cells = [columns, ["-" * len(c) for c in columns]]
    cells += [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    padded = ([c.ljust(w) for c, w in zip(line, widths, strict=True)] for line in cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in padded)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1 else f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def machine() -> dict[str, Any]:
    """Facts that a reader needs to compare seconds."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        cpu = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), cpu)
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def save(name: str, result: Mapping[str, Any]) -> Path:
    """Write a result with machine facts below benchmarks/results."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **result}, indent=2), encoding="utf-8")
    return path


def verdict(goals: Mapping[str, tuple[float, str, float]]) -> bool:
    """Print each goal (value, ">=" or "<=", bound) as met or missed; True when all are met."""
    met = True
    for name, (value, sign, bound) in goals.items():
        good = value >= bound if sign == ">=" else value <= bound
        met &= good
        print(f"{'met   ' if good else 'MISSED'}  {name}: {value:.3f} (goal {sign} {bound:g})")
    return met


def make_environment(folder: Path, steps: Sequence[Sequence[str]]) -> Path:
    """A virtual environment in `folder` made by `pip install` steps, unless it is there already.

    Returns its Python. All steps use the repository's constraints, so that peers and orthoflow run
    the same torch.
    """
    python = folder / "bin" / "python"
    done = folder / ".installed"
    wanted = json.dumps([list(step) for step in steps])
    if done.exists() and done.read_text(encoding="utf-8") == wanted:
        return python
    note(f"making {folder}")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    constraints = ["-c", str(ROOT / "constraints.txt")]
    for step in steps:
        install = [str(python), "-m", "pip", "install", "-q", *constraints, *step]
        subprocess.run(install, check=True)
    done.write_text(wanted, encoding="utf-8")
    return python
