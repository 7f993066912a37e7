"""Draws batches of episodes from features, all of a batch at once."""

from __future__ import annotations

import torch

from weightgen.dataflow import Episode, Features
from weightgen.errors import InputError


class EpisodeSampler:
    """Vectorised N-way K-shot sampling without replacement, of classes and of images within a class.

    Args:
        features: labelled features; they stay where they are, episodes are gathered from them.
    """

    def __init__(self, features: Features) -> None:
        self.features = features
        self._counts = features.counts
        self._starts = self._counts.cumsum(0) - self._counts

    def sample(
        self, *, batch: int, ways: int, shots: int | tuple[int, int], queries: int, generator: torch.Generator
    ) -> Episode:
        """A batch of episodes.

        Args:
            batch: episodes.
            ways: classes of an episode.
            shots: support images of a class; a pair (least, most) draws each class's number evenly.
            queries: query images of a class, none of them in the support.
            generator: decides everything; the same state gives the same episodes.

        Raises:
            InputError: fewer than `ways` classes, or a class with fewer than `shots + queries` images.
        """
        least, most = (shots, shots) if isinstance(shots, int) else shots
        self.check(ways=ways, shots=most, queries=queries)
        order = torch.rand(batch, len(self._counts), generator=generator)
        classes = order.topk(ways).indices
        images = self._draw_images(classes, most + queries, generator)
        values = self.features.values[images]
        kept = torch.randint(least, most + 1, (batch, ways, 1), generator=generator)
        labels = torch.arange(ways).repeat_interleave(queries).expand(batch, -1)
        return Episode(
            support=values[:, :, :most],
            support_mask=torch.arange(most) < kept,
            query=values[:, :, most:].flatten(1, 2),
            query_labels=labels,
            classes=classes,
        )

    def _draw_images(self, classes: torch.Tensor, number: int, generator: torch.Generator) -> torch.Tensor:
        """Rows of `features.values` for each class, shape (batch, ways, number)."""
        largest = int(self._counts.max())
        keys = torch.rand(*classes.shape, largest, generator=generator)
        keys = keys.masked_fill(torch.arange(largest) >= self._counts[classes][..., None], -1.0)
        return self._starts[classes][..., None] + keys.topk(number).indices

    def check(self, *, ways: int, shots: int, queries: int) -> None:
        """Raise InputError if episodes of this size cannot be drawn."""
        if ways > len(self._counts):
            raise InputError(f"{ways} ways need {ways} classes and there are {len(self._counts)}; lower the ways")
        fewest = int(self._counts.argmin())
        if shots + queries > int(self._counts[fewest]):
            raise InputError(
                f"class '{self.features.class_names[fewest]}' has {int(self._counts[fewest])} images, and {shots} "
                f"shots with {queries} queries need {shots + queries}; lower shots or queries"
            )
