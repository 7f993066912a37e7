"""How good a generator is on base classes kept out of its training."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Episode, Features
from weightgen.seeds import generator

_BATCH = 25


@dataclass(frozen=True)
class HeldOut:
    """Fixed episodes of held-out base classes, on which steps are chosen.

    Asking for more classes or images than there are lowers the ways and the queries.

    inputs: of what heads act on.
    """

    inputs: Features
    ways: int
    shots: tuple[int, ...]
    queries: int
    episodes: int
    seed: int
    unlabelled: UnlabelledDraw | None = None

    def accuracy(self, pipeline: WeightGenerationPipeline) -> float:
        """Mean accuracy in percent over all shots, and with and without the unlabelled images if there are any."""
        kinds = [None] if self.unlabelled is None else [None, self.unlabelled]
        correct = [
            (logits.argmax(-1) == episode.query_labels).float().mean()
            for unlabelled in kinds
            for episode, logits in self._answers(pipeline, unlabelled)
        ]
        return 100 * float(torch.stack(correct).mean())

    @torch.no_grad()
    def _answers(
        self, pipeline: WeightGenerationPipeline, unlabelled: UnlabelledDraw | None
    ) -> Iterator[tuple[Episode, torch.Tensor]]:
        sampler, fewest = EpisodeSampler(self.inputs), int(self.inputs.counts.min())
        ways = min(self.ways, len(self.inputs.class_names))
        for shots in self.shots:
            shots = min(shots, fewest - 1)
            queries = min(self.queries, fewest - shots)
            for start in range(0, self.episodes, _BATCH):
                draw = generator(self.seed, "held-out", shots, start)
                batch = min(_BATCH, self.episodes - start)
                episode = sampler.sample(
                    batch=batch, ways=ways, shots=shots, queries=queries, generator=draw, unlabelled=unlabelled
                ).to(pipeline.device)
                noise = [generator(self.seed, "held-out head", shots, start + i) for i in range(batch)]
                yield episode, pipeline.heads(episode, noise).logits(episode.query)


def split_held_out(features: Features, share: float, *, seed: int) -> tuple[Features, Features | None]:
    """Training classes and held-out classes (None when the share comes to fewer than two classes)."""
    families = len(features.families)
    number = round(share * families)
    if number < 2 or families - number < 2:
        return features, None
    groups = features.groups(families, generator(seed, "held-out classes"))
    held = [name for group in groups[:number] for name in group]
    return features.without(held), features.of_classes(held)
