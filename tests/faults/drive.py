"""A driver in a process of its own, to be killed, through the command line and its exit codes.

From a shell: ``python -m tests.faults.drive job.json``. A job is a dict: `arguments` as they are
typed after `orthoflow`, `traps` (the folder of orders), `tile`, `folder` (for what it prints),
`environment`, `patches` (constants of modules, as "module:name"; a dict gets further entries).
"""

from __future__ import annotations

import json
import os
import pkgutil
import resource
import signal
import sys
from pathlib import Path

from orthoflow import cli, pipeline
from tests.faults.traps import trap_model


def main(job):
    """Run the command as the leader of a session, so that Ctrl-C reaches all it started."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(job["environment"])
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(f"{job['folder']}/{name}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    for name, value in job["patches"].items():
        _patch(name, value)
    pipeline.model_ref = lambda *_: trap_model(job["traps"], job["tile"]).ref()
    if job.get("memory"):
        resource.setrlimit(resource.RLIMIT_AS, (job["memory"], job["memory"]))
    try:
        cli.main(job["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _patch(name, value):
    parent, _, attribute = name.rpartition("." if "." in name.partition(":")[2] else ":")
    there = pkgutil.resolve_name(parent)
    if isinstance(value, dict):
        getattr(there, attribute).update(value)
    else:
        setattr(there, attribute, value)


def typed(command, *places, **options):
    """Arguments as they are typed."""
    words = [command, *map(str, places)]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        elif isinstance(value, (tuple, list)):
            words += [flag, ",".join(map(str, value))]
        else:
            words += [flag, str(value)]
    return words


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
