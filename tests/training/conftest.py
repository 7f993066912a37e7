"""A tiny lesson: a small denoiser, a few base classes, and a score when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from weightgen.checkpoint import CheckpointFolder
from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.denoisers.class_transformer import ClassTransformer
from weightgen.features.standardizer import Standardizer
from weightgen.objectives.query_loss import QueryLoss
from weightgen.records import Features
from weightgen.schedulers.schedulers import build_scheduler
from weightgen.spaces.class_rows import ClassRows
from weightgen.training.episode_loss import EpisodeLoss
from weightgen.training.folds import Fold, cross_fitted
from weightgen.training.loop import train
from weightgen.training.options import TrainingOptions

OPTIONS: dict[str, Any] = {
    "steps": 9,
    "episodes_per_step": 3,
    "ways": (2, 5),
    "shots": (1, 3),
    "queries": 4,
    "learning_rate": 5e-3,
    "warmup_steps": 2,
    "ema_halflife_steps": 3,
    "evaluate_every": 2,
    "checkpoint_every": 2,
}


@dataclass
class Run:
    """A training run in a folder; every instance starts from the same weights."""

    folder: Path
    folds: tuple[Fold, ...]
    options: dict[str, Any] = field(default_factory=dict)
    score: Callable[[torch.nn.Module], float] | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        torch.manual_seed(11)
        scheduler = build_scheduler("DDPMScheduler", {"prediction_type": "sample"})
        denoiser = ClassTransformer(feature_width=8, width=12, depth=1, heads=3, bands=2, dropout=self.dropout)
        denoiser.set_noise_levels(scheduler)
        self.module = EpisodeLoss(
            denoiser=denoiser,
            conditioner=TaskPrototypes(),
            space=ClassRows(),
            scheduler=scheduler,
            objective=QueryLoss(),
        )
        self.checkpoints = CheckpointFolder(self.folder)

    def records(self) -> Iterator[dict[str, Any]]:
        score, module = self.score, self.module
        options = TrainingOptions(**{**OPTIONS, **self.options})
        return train(
            self.module,
            self.folds,
            options,
            score=None if score is None else lambda: score(module),
            seed=5,
            checkpoints=self.checkpoints,
            accelerator=Accelerator(cpu=True),
        )

    def weights(self) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.module.parameters()])


@pytest.fixture(scope="session")
def two_folds(base_features: Features) -> tuple[Fold, ...]:
    return cross_fitted(
        base_features,
        folds=2,
        standardizer=Standardizer(feature_width=8),
        conditioner=TaskPrototypes(),
        space=ClassRows(),
        shots=(1, 3),
        seed=1,
    )


@pytest.fixture
def make_run(tmp_path: Path, two_folds: tuple[Fold, ...]) -> Callable[..., Run]:
    def make(folder: str = "checkpoints", **arguments: Any) -> Run:
        return Run(tmp_path / folder, two_folds, **arguments)

    return make
