"""A script: jobs that start processes, all forked from this one, so that everything is imported once.

Its argument is JSON, for each job: the folder that it works in, whose files are there before (null for none), whether
torchrun runs it in two processes, a script and its arguments. What a job printed is in `out` of the folder, and in
`err` what was said, torchrun's account included.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
from pathlib import Path

import tiny_runs  # noqa: F401
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

import weightgen.runs.evaluation_run
import weightgen.runs.training_run  # noqa: F401


def alone(words: list[str]) -> None:
    """Run a script in one process. Raises RuntimeError where it fails."""
    if not (child := os.fork()):
        sys.argv = words
        code = 1
        try:
            runpy.run_path(words[0], run_name="__main__")
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError(words[0])


start = Path.cwd()
for name, before, twice, *words in json.loads(sys.argv[1]):
    folder = start / name
    if before is None:
        folder.mkdir()
    else:
        shutil.copytree(start / before, folder)
    for stream, file in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / file, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), stream)
    os.chdir(folder)
    if not twice:
        alone(words)
        continue
    try:
        main(["--standalone", "--nproc-per-node", "2", "--start-method", "fork", "--run-path", *words])
    except ChildFailedError as error:
        print(error, file=sys.stderr, flush=True)
