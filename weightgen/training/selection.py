"""How good a generator is on base classes kept out of its training."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from weightgen.dataflow import Episode, Features
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.parameters.temperature import fit_scale
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.seeds import derive, generator

_BATCH = 25


@dataclass(frozen=True)
class HeldOut:
    """Fixed episodes of held-out base classes, on which steps are chosen and the scale is fitted.

    Asking for more classes or images than there are lowers the ways and the queries.
    """

    features: Features
    ways: int
    shots: tuple[int, ...]
    queries: int
    episodes: int
    seed: int

    def accuracy(self, pipeline: WeightGenerationPipeline) -> float:
        """Mean accuracy in percent over all shots."""
        correct = [
            (logits.argmax(-1) == episode.query_labels).float().mean() for episode, logits in self._answers(pipeline)
        ]
        return 100 * float(torch.stack(correct).mean())

    def scale(self, pipeline: WeightGenerationPipeline) -> float:
        """The factor on the logits that makes the probabilities honest, over all shots together."""
        answers = list(self._answers(pipeline))
        logits = torch.cat([logits.flatten(0, 1) for _, logits in answers])
        labels = torch.cat([episode.query_labels.flatten() for episode, _ in answers])
        return fit_scale(logits[None], labels[None])

    @torch.no_grad()
    def _answers(self, pipeline: WeightGenerationPipeline) -> list[tuple[Episode, torch.Tensor]]:
        sampler, fewest = EpisodeSampler(self.features), int(self.features.counts.min())
        ways, answers = min(self.ways, len(self.features.class_names)), []
        for shots in self.shots:
            shots = min(shots, fewest - 1)
            queries = min(self.queries, fewest - shots)
            for start in range(0, self.episodes, _BATCH):
                draw = generator(self.seed, "held-out", shots, start)
                batch = min(_BATCH, self.episodes - start)
                episode = sampler.sample(batch=batch, ways=ways, shots=shots, queries=queries, generator=draw)
                episode = episode.to(pipeline.device)
                noise = [generator(self.seed, "held-out head", shots, start + i) for i in range(batch)]
                answers.append((episode, pipeline.heads(episode, noise).logits(episode.query)))
        return answers


def split_held_out(features: Features, share: float, *, seed: int) -> tuple[Features, Features | None]:
    """Training classes and held-out classes (None when the share comes to fewer than two classes)."""
    names = features.class_names
    number = round(share * len(names))
    if number < 2 or len(names) - number < 2:
        return features, None
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(derive(seed, "held-out classes")))
    held = set(order[:number].tolist())
    return (
        features.of_classes([name for i, name in enumerate(names) if i not in held]),
        features.of_classes([name for i, name in enumerate(names) if i in held]),
    )
