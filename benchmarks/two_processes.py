"""How much faster two processes are than one at what they share: a zoo, features, training.

python benchmarks/two_processes.py      (part of make bench)

Every run is of `torchrun`, with one process or two of one thread each, by turns. Time counts from where all processes
are ready to where all are done, so that start-up plays no part.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, Dataset, Image
from datasets import Features as Columns
from PIL.Image import fromarray

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.feature_cache import features_of
from weightgen.backbones.packaged import DEFAULT_BACKBONE
from weightgen.checkpoint import CheckpointFolder
from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.denoisers.class_transformer import ClassTransformer
from weightgen.features.standardizer import Standardizer
from weightgen.objectives.query_loss import QueryLoss
from weightgen.records import Calibration, Features
from weightgen.schedulers.schedulers import build_scheduler
from weightgen.spaces.class_rows import ClassRows
from weightgen.training.episode_loss import EpisodeLoss
from weightgen.training.folds import Fold
from weightgen.training.learner import new_accelerator
from weightgen.training.loop import train
from weightgen.training.options import TrainingOptions
from weightgen.zoo.build import Source, ZooPlan, fitted_zoo
from weightgen.zoo.store import ZooFolder
from weightgen.zoo_targets.ideal_prototypes import ideal_prototypes
from weightgen.zoo_targets.trajectories import Trajectories

WIDTH, CLASSES, IMAGES, PICTURES = 256, 60, 20, 128
REPEATS = 3


def works(folder: Path) -> Iterator[tuple[str, float]]:
    """What is shared, and the seconds that it took all processes of a run."""
    accelerator, draw = new_accelerator(cpu=True), torch.Generator().manual_seed(0)
    labels = torch.arange(CLASSES).repeat_interleave(IMAGES)
    values = torch.randn(CLASSES, WIDTH, generator=draw)[labels] + torch.randn(len(labels), WIDTH, generator=draw)
    base = Features(values, labels, tuple(map(str, range(CLASSES))))
    standardizer = Standardizer(feature_width=WIDTH).fit(base).along_axes()
    prototypes, space = ideal_prototypes(base, standardizer), ClassRows()
    source = Source(space, base, standardizer, prototypes, Calibration())
    plan = ZooPlan(Trajectories(tasks=400), (source,), ways=(5, 20), seed=0, backbone="")
    backbone = Backbone.create(model=DEFAULT_BACKBONE, pretrained=True)
    pixels = torch.randint(256, (PICTURES, 224, 224, 3), dtype=torch.uint8, generator=draw).numpy()
    columns = Columns({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    halves = [number % 2 for number in range(PICTURES)]
    pictures = Dataset.from_dict({"image": list(map(fromarray, pixels)), "label": sorted(halves)}, features=columns)
    scheduler = build_scheduler("DDPMScheduler", {"prediction_type": "sample"})
    denoiser, conditioner = ClassTransformer(feature_width=WIDTH), TaskPrototypes()
    denoiser.set_noise_levels(scheduler)
    module = EpisodeLoss(
        denoiser=denoiser, conditioner=conditioner, space=space, scheduler=scheduler, objective=QueryLoss()
    )
    options = TrainingOptions(steps=40, episodes_per_step=32, ways=(5, 20), shots=(1, 5), queries=5)
    fold, checkpoints = Fold(base, prototypes, standardizer, Calibration()), CheckpointFolder(folder / "checkpoints")
    own: dict[str, Any] = {"checkpoints": checkpoints, "accelerator": accelerator}
    shared = {
        "zoo": lambda: fitted_zoo(ZooFolder(folder / "zoo"), plan, accelerator),
        "features": lambda: features_of(backbone, pictures, batch_size=16, accelerator=accelerator),
        "training": lambda: list(train(module, (fold,), options, score=None, seed=0, **own)),
    }
    for name, work in shared.items():
        accelerator.wait_for_everyone()
        begin = time.perf_counter()
        work()
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            yield name, time.perf_counter() - begin
    accelerator.end_training()


def seconds(processes: int) -> dict[str, float]:
    """Of a run of its own."""
    with tempfile.TemporaryDirectory() as folder:
        own = {**os.environ, "OMP_NUM_THREADS": "1", "WEIGHTGEN_CACHE": f"{folder}/cache"}
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), __file__, folder]
        subprocess.run(command, env=own, check=True, capture_output=True)
        return dict(json.loads((Path(folder) / "seconds.json").read_text()))


def compared() -> list[dict[str, Any]]:
    """Seconds of one process, and how much faster two are."""
    runs = [(seconds(1), seconds(2)) for _ in range(REPEATS)]
    return [
        {
            "work": work,
            "seconds": statistics.median(one[work] for one, _ in runs),
            "faster": statistics.median(one[work] / two[work] for one, two in runs),
        }
        for work in runs[0][0]
    ]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        timed = list(works(Path(sys.argv[1])))
        if timed:
            (Path(sys.argv[1]) / "seconds.json").write_text(json.dumps(timed))
    else:
        for row in compared():
            print(row)
