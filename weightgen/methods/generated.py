"""What a trained generator writes, and the ablations that every table sets beside it."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from weightgen.interfaces import GeneratedHeads, Method
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Condition, Episode
from weightgen.schedulers.local_ddpm import LocalDDPMScheduler
from weightgen.schedulers.schedulers import chain_of

SAMPLES = 8


class Generated(Method):
    """A trained generator, as `generator`, and its ablations, each without a part of it or read in another way.

    Args:
        pipeline: the generator, with the scheduler, steps and samples of its own.
    """

    kind: ClassVar[Literal["generator", "ablation"]] = "generator"
    takes_inputs = True

    def __init__(self, *, pipeline: WeightGenerationPipeline) -> None:
        self.pipeline = pipeline

    @classmethod
    def variants(cls) -> dict[str, tuple[type[Method], dict[str, Any]]]:
        methods = {"generator": Generated, "draws": Draws, "inductive": Inductive, "no_crops": NoCrops}
        methods |= {"no_denoiser": NoDenoiser, "one_step": OneStep, "random_denoiser": RandomDenoiser}
        return {name: (method, {}) for name, method in methods.items()}

    @torch.no_grad()
    def fit(self, episode: Episode, rngs: Sequence[torch.Generator]) -> GeneratedHeads:
        """The chain in place of a fit, its noise drawn from `rngs`."""
        return self.heads(episode, rngs).to(episode.support.device)

    def heads(self, episode: Episode, rngs: Sequence[torch.Generator], **options: Any) -> GeneratedHeads:
        """One head per episode; `options` are keyword arguments of `WeightGenerationPipeline.heads`."""
        if episode.class_names is None:
            return self.pipeline.heads(episode, rngs, **options)
        return self.pipeline.dataset_heads(episode.images(0), rngs, **options)


class Draws(Generated):
    """The mixture of eight heads, each from noise of its own, instead of the mean head."""

    kind = "ablation"
    protocols = ("episodes",)

    def heads(self, episode: Episode, rngs: Sequence[torch.Generator], **options: Any) -> GeneratedHeads:
        return super().heads(episode, rngs, samples=SAMPLES, **options)


class Inductive(Generated):
    """The generator on the labelled images alone: what the unlabelled ones are worth."""

    kind = "ablation"
    protocols = ("episodes",)
    uses_unlabelled = True

    def heads(self, episode: Episode, rngs: Sequence[torch.Generator], **options: Any) -> GeneratedHeads:
        return super().heads(episode.labelled_only(), rngs, **options)


class NoCrops(Generated):
    """The generator on the whole support images alone: what their crops are worth."""

    kind = "ablation"
    protocols = ("episodes",)

    def heads(self, episode: Episode, rngs: Sequence[torch.Generator], **options: Any) -> GeneratedHeads:
        return super().heads(replace(episode, crops=None), rngs, **options)


class NoDenoiser(Generated):
    """The generator with its network's output set to zero: same statistics, same chain, same readout."""

    kind = "ablation"

    def heads(self, episode: Episode, rngs: Sequence[torch.Generator], **options: Any) -> GeneratedHeads:
        return super().heads(episode, rngs, denoiser=self.pipeline.denoiser.without_network, **options)


class OneStep(Generated):
    """The generator in a single denoiser call: what is left when the chain is not run.

    One call of a chain in segments gives the first segment's local target, and no more.
    """

    kind = "ablation"

    def heads(self, episode: Episode, rngs: Sequence[torch.Generator], **options: Any) -> GeneratedHeads:
        if self.pipeline.scheduler.config.get("segments", 1) == 1:
            return super().heads(episode, rngs, steps=1, **options)
        chain, whole = self.pipeline.scheduler, copy.copy(self.pipeline)
        plain = LocalDDPMScheduler.from_config(chain.config, segments=1, prediction_type="sample")
        whole.register_to_config(chain=chain_of(plain))  # what `first_target` predicts is not what was trained
        whole.scheduler = plain

        def first_target(noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
            return chain.target_of(self.pipeline.denoiser(noisy, time, condition), time, noisy)

        return Generated(pipeline=whole).heads(episode, rngs, steps=1, denoiser=first_target, **options)


class RandomDenoiser(Generated):
    """The generator with random weights instead of learnt ones, output layers included.

    MetaDiff's released code samples from an average of weights that it never updates, so that its published
    evaluation measures just this. Here training starts from output layers of zero, where a network adds nothing to the
    form it corrects; such layers are drawn as torch draws any linear layer, which is what the release has.
    """

    kind = "ablation"
    protocols = ("episodes",)

    def __init__(self, *, pipeline: WeightGenerationPipeline) -> None:
        super().__init__(pipeline=pipeline)
        trained = pipeline.denoiser
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.denoiser = type(trained)(**{k: v for k, v in trained.config.items() if not k.startswith("_")})
            for layer in self.denoiser.modules():
                if isinstance(layer, torch.nn.Linear) and not layer.weight.any():
                    layer.reset_parameters()
        self.denoiser.set_noise_levels(pipeline.scheduler)
        self.denoiser.to(pipeline.device).eval()

    def heads(self, episode: Episode, rngs: Sequence[torch.Generator], **options: Any) -> GeneratedHeads:
        return super().heads(episode, rngs, denoiser=self.denoiser, **options)
