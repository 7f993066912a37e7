"""The whole pipeline with an untrained network."""

from collections.abc import Sequence

import torch

from weightgen.methods._generated import Ablation
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Episode, LinearHeads


class RandomDenoiser(Ablation):
    """The generator with random weights instead of learnt ones, output layers included.

    MetaDiff's released code samples from an average of weights that it never updates, so that its published
    evaluation measures just this. Here training starts from output layers of zero, where a network adds nothing to the
    form it corrects; such layers are drawn as torch draws any linear layer, which is what the release has.
    """

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
        self.denoiser.attune(pipeline.scheduler)
        self.denoiser.to(pipeline.device).eval()

    def heads(self, episode: Episode, rngs: Sequence[torch.Generator]) -> LinearHeads:
        return self.written(episode, rngs, denoiser=self.denoiser)
