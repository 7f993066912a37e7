"""Which methods make a classifier of a whole training set, and how each is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from weightgen import registry
from weightgen.errors import InputError
from weightgen.evaluation.transfer import TransferMethod
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Features, LinearHeads
from weightgen.runs.rivals import OWN
from weightgen.seeds import generator

NO_DENOISER = "no_denoiser"
ONE_STEP = "one_step"


@dataclass(frozen=True)
class GeneratorFit:
    """A generator as a method: its chain in place of a fit.

    steps: denoiser calls in a row, its own number if None. network: False leaves the denoiser's form alone.
    """

    pipeline: WeightGenerationPipeline
    steps: int | None = None
    network: bool = True

    def fit(self, train: Features, *, seed: int) -> WrittenClassifier:
        """The head that the chain writes for the whole training set."""
        denoiser = None if self.network else self.pipeline.denoiser.without_network
        noise = [generator(seed, "head")]
        head = self.pipeline.dataset_heads(train, noise, steps=self.steps, denoiser=denoiser)
        # Onto the features' device inside the timed part: an accelerator has then really finished.
        return WrittenClassifier(LinearHeads(head.weight.to(train.values.device), head.bias.to(train.values.device)))


@dataclass(frozen=True)
class WrittenClassifier:
    """A head, or the mixture of its draws."""

    head: LinearHeads

    def __call__(self, features: Float[Tensor, "images feature"], /) -> Float[Tensor, "images classes"]:
        """Logits of raw features; log-probabilities of a mixture."""
        if self.head.weight.shape[1] == 1:
            return self.head.logits(features[None])[0]
        return self.head.probabilities(features[None])[0].log()


def probe_variants() -> dict[str, tuple[str, dict[str, Any]]]:
    """Every probe's methods: by name the probe and its options."""
    return {
        method: (name, options)
        for name in registry.names("probes")
        for method, options in registry.get("probes", name).variants().items()
    }


def chosen_transfer_methods(methods: Sequence[str] | None, *, can_step: bool) -> list[str]:
    """The names asked for, all if None. Raises InputError for a name that is unknown, given twice, or cannot run.

    can_step: whether the generator's chain means the same in a single step; a chain in segments does not.
    """
    known = [OWN, NO_DENOISER, ONE_STEP, *probe_variants()]
    if methods is None:
        return [name for name in known if can_step or name != ONE_STEP]
    for i, name in enumerate(methods):
        if name not in known:
            raise InputError(f"unknown method '{name}'{registry.nearest(name, known)}")
        if name in methods[:i]:
            raise InputError(f"method '{name}' is named twice; name it once")
        if name == ONE_STEP and not can_step:
            raise InputError(f"method '{name}': a chain in segments runs in all its steps; leave the method out")
    return list(methods)


def transfer_kind(name: str) -> str:
    """Either "generator", "ablation" for the generator with something taken away, or "baseline" for a probe."""
    if name == OWN:
        return OWN
    return "ablation" if name in (NO_DENOISER, ONE_STEP) else "baseline"


def build_transfer_method(name: str, pipeline: WeightGenerationPipeline) -> TransferMethod:
    """A method ready to fit."""
    if name == OWN:
        return GeneratorFit(pipeline)
    if name == NO_DENOISER:
        return GeneratorFit(pipeline, network=False)
    if name == ONE_STEP:
        return GeneratorFit(pipeline, steps=1)
    probe, options = probe_variants()[name]
    made: TransferMethod = registry.create("probes", probe, options)
    return made
