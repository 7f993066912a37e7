"""Accuracy against the number of denoiser calls, for several schedulers on the same episodes."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import torch

from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.shots import shots_label, shots_words
from weightgen.evaluation.comparison import half_width
from weightgen.evaluation.scoring import EpisodeSizes, score
from weightgen.interfaces import GeneratedHeads, Method
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Episode, Features, Progress
from weightgen.schedulers.schedulers import curve_schedulers, swap_scheduler

SCHEDULERS = ("MeanDDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
STEPS = (1, 2, 5, 10, 50)


@dataclass(frozen=True)
class _Setting(Method):
    """The pipeline with another scheduler and number of steps, one draw."""

    pipeline: WeightGenerationPipeline
    scheduler: Any
    steps: int

    @torch.no_grad()
    def fit(self, episode: Episode, rngs: Sequence[torch.Generator]) -> GeneratedHeads:
        swapped = copy.copy(self.pipeline)
        swapped.scheduler = self.scheduler
        return swapped.heads(episode, rngs, steps=self.steps, samples=1).to(episode.support.device)


def steps_curve(
    pipeline: WeightGenerationPipeline,
    features: Features,
    *,
    seed: int,
    episodes: int = 100,
    progress: Progress | None = None,
    **sizes: Unpack[EpisodeSizes],
) -> list[dict[str, Any]]:
    """Points {"scheduler", "steps", "shots", "accuracy", "ci95"}, all on the same episodes.

    One draw each: a scheduler other than the mean is judged with its own spread. No point for a chain
    without noise: in segments it has no other scheduler and no other number of steps, and of one step neither.
    """
    if not pipeline.can_draw:
        return []
    longest, shots = pipeline.scheduler.config.num_train_timesteps, shots_label(sizes["shots"])
    names = curve_schedulers(SCHEDULERS, pipeline.scheduler)
    settings = [(name, steps) for name in names for steps in STEPS if steps <= longest]
    points, sampler = [], EpisodeSampler(features)
    for i, (name, steps) in enumerate(settings):
        setting = _Setting(pipeline, swap_scheduler(name, pipeline.scheduler), steps)
        accuracy = 100 * score(setting, sampler, episodes=episodes, seed=seed, **sizes).accuracies
        judged = {"accuracy": float(accuracy.mean()), "ci95": half_width(accuracy)}
        points.append({"scheduler": name, "steps": steps, "shots": shots, **judged})
        if progress is not None:
            progress(f"steps against accuracy, {shots_words(shots)}", i + 1, len(settings))
    return points
