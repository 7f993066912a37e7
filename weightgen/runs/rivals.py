"""Which methods a comparison has, and how each is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from weightgen import registry
from weightgen.baselines._baseline import FeatureBaseline
from weightgen.baselines._own_variants import OwnVariant
from weightgen.errors import InputError
from weightgen.evaluation.scoring import EpisodeSizes
from weightgen.evaluation.tuning import tune
from weightgen.interfaces import Method
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Episode, Features, LinearHeads

OWN = "generator"
INDUCTIVE = "inductive"
DRAWS = "draws"
PARTS = {"the chain": "one_step", "the learnt network": "no_denoiser"}  # what is measured against which part


@dataclass(frozen=True)
class GeneratorMethod:
    """The generator as a method: its own read, steps and samples."""

    pipeline: WeightGenerationPipeline
    name: str = OWN

    @torch.no_grad()
    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> LinearHeads:
        """Heads by the whole chain."""
        return self.pipeline.heads(episode, generators)


def chosen_methods(methods: Sequence[str] | None, *, unlabelled: bool, can_draw: bool) -> list[str]:
    """The names asked for; None means all that run with, or without, unlabelled images.

    `draws` is left out of all where the generator cannot draw, and where there are unlabelled images: its every step
    would go through them again for every draw, which takes longer than everything else together.

    Raises InputError for a name that is unknown, given twice, or of a method that cannot run here.
    """
    known = [OWN, *registry.names("baselines")]
    if not methods:
        left_out = set() if unlabelled else {name for name in known if needs_unlabelled(name)}
        if unlabelled or not can_draw:
            left_out.add(DRAWS)
        return [name for name in known if name not in left_out]
    for i, name in enumerate(methods):
        if name not in known:
            raise InputError(f"unknown method '{name}'{registry.nearest(name, known)}")
        if name in methods[:i]:
            raise InputError(f"method '{name}' is named twice; name it once")
        if name == DRAWS and not can_draw:
            raise InputError(f"method '{name}': a chain in segments has no noise to draw with; leave the method out")
        if needs_unlabelled(name) and not unlabelled:
            raise InputError(f"method '{name}' needs unlabelled images; give --unlabelled N, or leave the method out")
    return list(methods)


def needs_unlabelled(name: str) -> bool:
    """Whether a method has no meaning, or nothing new to say, without unlabelled images."""
    if name in (OWN, INDUCTIVE):
        return name == INDUCTIVE
    rival = registry.get("baselines", name)
    return issubclass(rival, FeatureBaseline) and rival.uses_unlabelled


def kind_of(name: str) -> str:
    """Either "generator", "baseline", or "ablation" for the generator with something taken away or read otherwise."""
    if name == OWN:
        return OWN
    return "ablation" if issubclass(registry.get("baselines", name), OwnVariant) else "baseline"


def build_method(
    name: str, pipeline: WeightGenerationPipeline, training: Features, *, sizes: EpisodeSizes, seed: int
) -> Method:
    """A method ready to run; a baseline tuned on `training` for episodes of these sizes."""
    if name == OWN:
        return GeneratorMethod(pipeline)
    rival = registry.get("baselines", name)
    if issubclass(rival, FeatureBaseline):
        return tune(rival, training, seed=seed, **sizes)
    return rival(pipeline=pipeline)
