"""A script: a zoo built by processes that are killed with SIGKILL, again and again, until one comes through.

Argument: a folder. Attempt n dies at its n-th moment: before a step of a fit, and right
before or right after a shard is renamed into place. Prints how many shards there were at each death, and of what kind
the moment was.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from made_up_plans import plan_of

from weightgen.zoo.build import build_zoo
from weightgen.zoo.store import ZooFolder

rename, step = os.replace, torch.optim.Adam.step


def build(folder: ZooFolder, last_moment: int, report: Path) -> None:
    """One attempt in this process; ends it."""
    seen = 0

    def moment(kind: str) -> None:
        nonlocal seen
        seen += 1
        if seen == last_moment:
            report.write_text(kind)
            os.kill(os.getpid(), signal.SIGKILL)

    def renamed(*paths: str) -> None:
        moment("before a rename")
        rename(*paths)
        moment("after a rename")

    def stepped(optimiser: torch.optim.Adam) -> None:
        moment("in a fit")
        step(optimiser)

    os.replace, torch.optim.Adam.step = renamed, stepped
    plan = plan_of()
    build_zoo(folder, plan)
    folder.finish(plan.shards, key=plan.key(), class_names=plan.class_names)
    os._exit(0)


def main() -> None:
    folder, report, deaths = ZooFolder(Path(sys.argv[1]) / "zoo"), Path(sys.argv[1]) / "report", []
    while True:
        child = os.fork()
        if not child:
            build(folder, len(deaths) + 1, report)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != -signal.SIGKILL:
            break
        deaths.append((report.read_text(), len(list(folder.path.glob("shard-*")))))
    print(json.dumps(deaths))
    sys.exit(status)


torch.set_num_threads(1)  # none of which a fork would lose
main()
