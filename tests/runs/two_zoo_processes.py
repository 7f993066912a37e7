"""Run by `torchrun`, and by a test: features, a zoo, learning from it and without one, and what came of it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import torch
from accelerate import Accelerator
from datasets import ClassLabel, Dataset, Image
from datasets import Features as Columns
from PIL.Image import fromarray

from weightgen.backbones import feature_cache
from weightgen.backbones.backbone import Backbone
from weightgen.backbones.feature_cache import features_of, features_with_crops
from weightgen.checkpoint import CheckpointFolder
from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.config.loading import load_recipe
from weightgen.denoisers.class_transformer import ClassTransformer
from weightgen.features.standardizer import Standardizer
from weightgen.files import tensors_hash, write_json
from weightgen.objectives.query_loss import QueryLoss
from weightgen.records import Features
from weightgen.runs.generator_training import GeneratorTraining
from weightgen.schedulers.schedulers import build_scheduler
from weightgen.spaces.class_rows import ClassRows
from weightgen.training.episode_loss import EpisodeLoss
from weightgen.training.folds import cross_fitted
from weightgen.training.learner import new_accelerator
from weightgen.training.loop import train
from weightgen.training.options import TrainingOptions
from weightgen.zoo.build import ZooPlan
from weightgen.zoo.store import ZooFolder


def made_up(width: int) -> Features:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(11).repeat_interleave(9)
    values = 1.5 * torch.randn(11, width, generator=draw)[labels] + torch.randn(99, width, generator=draw)
    return Features(values, labels, tuple(map(str, range(11))))


def learn(folder: Path, accelerator: Accelerator) -> dict:
    """Train a little on episodes that the processes share."""
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
    return {
        "losses": [record["loss"] for record in records],
        "weights": tensors_hash(dict(module.named_parameters())),
    }


def shared_features(folder: Path, backbone: Backbone, accelerator: Accelerator) -> dict:
    """Features of 13 pictures in batches of 4, and of their crops; how many this process computed, kept ones none."""
    os.environ["WEIGHTGEN_CACHE"] = str(folder / "cache")
    draw, computed, forward = torch.Generator().manual_seed(0), [], backbone.forward
    pixels = torch.randint(256, (13, 16, 16, 3), dtype=torch.uint8, generator=draw).numpy()
    columns = Columns({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    data = Dataset.from_dict({"image": list(map(fromarray, pixels)), "label": [0] * 6 + [1] * 7}, features=columns)
    backbone.forward = lambda images: computed.append(len(images)) or forward(images)
    values = [features_of(backbone, data, batch_size=4, accelerator=accelerator).values for _ in range(2)]
    with mock.patch.object(feature_cache, "_IMAGES_AT_ONCE", 16):
        both = [features_with_crops(backbone, data, accelerator=accelerator) for _ in range(2)]
    backbone.forward = forward
    crops = [features.crops for features in both]
    assert torch.equal(*values) and torch.equal(both[0].values, values[0]) and torch.equal(*crops)
    return {"computed": computed, "values": tensors_hash({"values": values[0], "crops": crops[0]})}


def main(folder: Path, overrides: Sequence[str], accelerator: Accelerator) -> None:
    """overrides: those of `mcdi`."""
    backbone = Backbone.create(model="conv4", options={"width": 5, "img_size": 16}, seed=0)
    features = shared_features(folder, backbone, accelerator)
    recipe = load_recipe("mcdi", overrides)
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
        "features": features,
        "fitted": own,
        "losses": losses,
        "weights": tensors_hash(dict(training.module.named_parameters())),
        "without a zoo": learn(folder / "without", accelerator),
    }
    write_json(folder / f"process_{accelerator.process_index}.json", facts)
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), new_accelerator(cpu=True))
