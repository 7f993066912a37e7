"""Run by `torchrun`: commands of weightgen with few episodes to choose by, whose second process may be killed.

Arguments: the step at which it is killed, 0 for never, and those of the commands, with `then` between two of them.
At the end each process says on stderr how many images it has computed features of.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys

import pytest
import torch
from tiny_runs import hurry
from weightgen.cli.main import app

from weightgen.backbones.backbone import Backbone
from weightgen.training.learner import Learner

hurry(pytest.MonkeyPatch())
descend, steps = Learner.descend, []


def counted(learner: Learner, loss: object) -> None:
    steps.append(loss)
    if len(steps) == int(sys.argv[1]) and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    descend(learner, loss)  # type: ignore[arg-type]


Learner.descend = counted  # type: ignore[method-assign]
forward, seen = Backbone.forward, []


def noted(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    seen.append(len(images))
    return forward(backbone, images)


Backbone.forward = noted  # type: ignore[method-assign]
for then, words in itertools.groupby(sys.argv[2:], "then".__eq__):
    try:
        if not then:
            app(list(words))
    except SystemExit as end:
        if end.code:
            raise
print(f"process {os.environ['RANK']} computed features of {sum(seen)} images", file=sys.stderr)
