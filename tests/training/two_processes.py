"""Run by `torchrun`: train a little, and write down what this process ended with."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.denoisers.class_transformer import ClassTransformer
from weightgen.features.standardizer import Standardizer
from weightgen.files import tensors_hash, write_json
from weightgen.objectives.query_loss import QueryLoss
from weightgen.records import Features
from weightgen.schedulers.schedulers import build_scheduler
from weightgen.spaces.class_rows import ClassRows
from weightgen.training.checkpoint import CheckpointFolder
from weightgen.training.episode_loss import EpisodeLoss
from weightgen.training.folds import cross_fitted
from weightgen.training.learner import new_accelerator
from weightgen.training.loop import train
from weightgen.training.options import TrainingOptions


def main(folder: Path) -> None:
    accelerator = new_accelerator(cpu=True)
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(12).repeat_interleave(9)
    values = torch.randn(12, 8, generator=draw)[labels] + 0.4 * torch.randn(108, 8, generator=draw)
    features = Features(values, labels, tuple(map(str, range(12))))
    torch.manual_seed(1)
    scheduler = build_scheduler("DDPMScheduler", {"prediction_type": "sample"})
    denoiser = ClassTransformer(feature_width=8, width=12, depth=1, heads=3, dropout=0.1)
    denoiser.set_noise_levels(scheduler)
    conditioner = TaskPrototypes()
    space = ClassRows()
    module = EpisodeLoss(
        denoiser=denoiser, conditioner=conditioner, space=space, scheduler=scheduler, objective=QueryLoss()
    )
    own = {"conditioner": conditioner, "space": space, "shots": (1, 2), "seed": 0}
    folds = cross_fitted(features, folds=2, standardizer=Standardizer(feature_width=8), **own)
    options = TrainingOptions(steps=4, episodes_per_step=6, ways=(2, 4), shots=(1, 2), queries=3, warmup_steps=0)
    checkpoints = CheckpointFolder(folder / "checkpoints")
    records = train(module, folds, options, score=None, seed=0, checkpoints=checkpoints, accelerator=accelerator)
    facts = {
        "processes": accelerator.num_processes,
        "losses": [record["loss"] for record in records],
        "weights": tensors_hash(dict(module.named_parameters())),
    }
    write_json(folder / f"process_{accelerator.process_index}.json", facts)
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
