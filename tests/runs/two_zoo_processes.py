"""Run by `torchrun`: fit the zoo of a tiny recipe, learn from it, and write down what this process ended with."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from tiny_runs import TINY_MCDI

from weightgen.backbones.backbone import Backbone
from weightgen.config.loading import load_recipe
from weightgen.files import tensors_hash, write_json
from weightgen.records import Features
from weightgen.runs.generator_training import GeneratorTraining
from weightgen.training.checkpoint import CheckpointFolder
from weightgen.training.learner import new_accelerator
from weightgen.zoo.build import ZooPlan
from weightgen.zoo.store import ZooFolder

OVERRIDES = (*TINY_MCDI, "zoo.tasks=1100", "training.held_out_classes=0")
"""Six shards, of two folds."""


def made_up(width: int) -> Features:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(11).repeat_interleave(9)
    values = 1.5 * torch.randn(11, width, generator=draw)[labels] + torch.randn(99, width, generator=draw)
    return Features(values, labels, tuple(map(str, range(11))))


def main(folder: Path) -> None:
    accelerator = new_accelerator(cpu=True)
    backbone = Backbone.create(model="conv4", options={"width": 5, "img_size": 16}, seed=0)
    recipe = load_recipe("mcdi", OVERRIDES)
    base, fit_shard = made_up(backbone.feature_width), ZooPlan.fit_shard
    training = GeneratorTraining(recipe, backbone, base, accelerator, inputs=base)
    zoo, own = ZooFolder(folder / "zoo"), []
    if accelerator.process_index == 1:  # comes late, when the other has a shard already
        while not zoo.shard_path(0).exists():
            time.sleep(0.01)
    ZooPlan.fit_shard = lambda plan, number: own.append(number) or fit_shard(plan, number)
    training.fit_zoo(zoo)
    checkpoints = CheckpointFolder(folder / "checkpoints")
    losses = [record["loss"] for record in training.records(checkpoints)]
    facts = {
        "processes": accelerator.num_processes,
        "fitted": own,
        "losses": losses,
        "weights": tensors_hash(dict(training.module.named_parameters())),
    }
    write_json(folder / f"process_{accelerator.process_index}.json", facts)
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
