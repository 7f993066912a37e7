"""A script: `weightgen train` in processes that are killed with SIGKILL, again and again, until one comes through.

Arguments: a folder, and those of `weightgen train`. In `calm/` of the folder nothing is killed. In `killed/` a process
dies right before or right after it renames a file into place, every attempt one rename later than the one before; those
are the moments at which what lies on the disk changes. Prints what each attempt was at when it died.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from tiny_runs import hurry
from weightgen.cli.main import app

import weightgen.runs.evaluation_run

hurry(pytest.MonkeyPatch())
weightgen.runs.evaluation_run.evaluate_run = lambda *_, **__: []
rename = os.replace


def train(arguments: list[str], last_rename: int | None, before: bool) -> None:
    """One attempt in this process; ends it."""
    seen = 0

    def counted(*paths: str) -> None:
        nonlocal seen
        seen += 1
        if seen == last_rename and before:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*paths)
        if seen == last_rename:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = counted
    try:
        app(["train", *arguments, "--quiet"])
    except SystemExit as end:
        os._exit(int(end.code or 0))
    os._exit(3)


def until_finished(place: Path, kill: bool, arguments: list[str]) -> list[str]:
    """Attempts until one is not killed; what each was at when it died."""
    os.environ["WEIGHTGEN_CACHE"] = str(place / "cache")
    died_at: list[str] = []
    while True:
        attempt = len(died_at) + 1
        child = os.fork()
        if not child:
            train([*arguments, "--out", str(place / "runs")], attempt if kill else None, before=bool(attempt % 2))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != -signal.SIGKILL:
            break
        pretrained = list((place / "runs").glob("*/backbone"))
        died_at.append("training" if pretrained else "pretraining")
    if status:
        sys.exit(status)
    return died_at


def main() -> None:
    place, *arguments = sys.argv[1:]
    until_finished(Path(place) / "calm", False, arguments)
    print(json.dumps(until_finished(Path(place) / "killed", True, arguments)))


main()
