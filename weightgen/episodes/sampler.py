"""Draws batches of episodes from features, all of a batch at once."""

import torch
from jaxtyping import Bool, Int, Num
from torch import Tensor

from weightgen.episodes.shots import Shots, fewest_and_most
from weightgen.episodes.unlabelled import UnlabelledDraw, pick
from weightgen.errors import InputError
from weightgen.records import Episode, Features


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
        self,
        *,
        batch: int,
        ways: int,
        shots: Shots,
        queries: int,
        generator: torch.Generator,
        unlabelled: UnlabelledDraw | None = None,
        classes: Int[Tensor, "batch ways"] | None = None,
        as_they_hold: bool = False,
    ) -> Episode:
        """A batch of episodes.

        Args:
            batch: episodes.
            ways: classes of an episode.
            shots: support images of a class; a pair (least, most) draws each class's number evenly.
            queries: query images of a class, none of them in the support.
            generator: decides everything; the same state gives the same episodes, and support and
                queries do not depend on the unlabelled images.
            unlabelled: further images without labels; none if None.
            classes: rows of `class_names` for each episode; drawn if None.
            as_they_hold: a class with fewer than `shots + queries` images gives what it has beside its queries.

        Raises:
            InputError: too few classes, or a class with fewer than `shots + queries` images.
        """
        least, most = fewest_and_most(shots)
        self.check(ways=ways, shots=1 if as_they_hold else most, queries=queries, unlabelled=unlabelled)
        extra = 0 if unlabelled is None else unlabelled.extra_classes
        order = torch.rand(batch, len(self._counts), generator=generator)
        if classes is not None:  # these first, in this order; then in the order of the draw
            order.scatter_(1, classes, 2.0 + torch.arange(ways, 0, -1).expand(batch, -1))
        drawn = order.topk(ways + extra).indices
        classes, distractors = drawn[:, :ways], drawn[:, ways:]
        rows, present = self._shuffled(classes, generator)
        kept = torch.randint(least, most + 1, (batch, ways, 1), generator=generator)
        if as_they_hold:  # queries first, for they must be there
            most = min(most, rows.shape[-1] - queries)
            rows, present = (
                torch.cat([x[..., queries : queries + most], x[..., :queries], x[..., queries + most :]], -1)
                for x in (rows, present)
            )
            kept = kept.minimum((self._counts[classes] - queries)[..., None])
        values = self.features.values[rows[:, :, : most + queries]]
        labels = torch.arange(ways).repeat_interleave(queries).expand(batch, -1)
        query = values[:, :, most:].flatten(1, 2)
        left = rows[:, :, most + queries :], present[:, :, most + queries :]
        others, others_mask = self._unlabelled(unlabelled, query, left, distractors, generator)
        return Episode(
            support=values[:, :, :most],
            support_mask=torch.arange(most) < kept,
            query=query,
            query_labels=labels,
            classes=classes,
            unlabelled=others,
            unlabelled_mask=others_mask,
            crops=None if self.features.crops is None else self.features.crops[rows[:, :, :most]],
        )

    def _shuffled(
        self, classes: Int[Tensor, "batch ways"], generator: torch.Generator
    ) -> tuple[Int[Tensor, "batch ways images"], Bool[Tensor, "batch ways images"]]:
        """Rows of `features.values` of each class in random order, absent ones last, and which are there."""
        largest = int(self._counts.max())
        keys = torch.rand(*classes.shape, largest, generator=generator)
        present = torch.arange(largest) < self._counts[classes][..., None]
        order = keys.masked_fill(~present, -1.0).argsort(-1, descending=True)
        return self._starts[classes][..., None] + torch.where(present, order, 0), present

    def _unlabelled(
        self,
        wanted: UnlabelledDraw | None,
        query: Num[Tensor, "batch queries feature"],
        left: tuple[Int[Tensor, "batch ways images"], Bool[Tensor, "batch ways images"]],
        distractors: Int[Tensor, "batch extra"],
        generator: torch.Generator,
    ) -> tuple[Num[Tensor, "batch unlabelled feature"], Bool[Tensor, "batch unlabelled"]]:
        """Images beside support and queries (`left`), and of other classes; and which of them are there."""
        if wanted is not None and wanted.transductive:
            return query, torch.ones(query.shape[:2], dtype=torch.bool)
        if wanted is None or wanted.images == 0:
            return query[:, :0], torch.ones(len(query), 0, dtype=torch.bool)
        own = wanted.images - wanted.distractor_images
        parts = [pick(*left, number=own, concentration=wanted.concentration, generator=generator)]
        if wanted.distractor_images:
            pool = self._shuffled(distractors, generator)
            parts.append(pick(*pool, number=wanted.distractor_images, concentration=None, generator=generator))
        rows, there = (torch.cat(pieces, 1) for pieces in zip(*parts, strict=True))
        return self.features.values[rows], there

    def fewest_unlabelled(self, *, ways: int, shots: Shots, queries: int, unlabelled: UnlabelledDraw | None) -> int:
        """How many unlabelled images an episode has at least; fewer than asked for where small classes run out."""
        if unlabelled is None:
            return 0
        if unlabelled.transductive:
            return ways * queries
        counts, others = self._counts.sort().values, unlabelled.distractor_images
        left = int((counts[:ways] - fewest_and_most(shots)[1] - queries).sum())
        return min(unlabelled.images - others, left) + min(others, int(counts[: unlabelled.extra_classes].sum()))

    def check(self, *, ways: int, shots: Shots, queries: int, unlabelled: UnlabelledDraw | None = None) -> None:
        """Raise InputError if episodes of this size cannot be drawn."""
        shots = fewest_and_most(shots)[1]
        classes, extra = len(self._counts), 0 if unlabelled is None else unlabelled.extra_classes
        if ways > classes:
            raise InputError(f"{ways} ways need {ways} classes and there are {classes}; lower the ways")
        if ways + extra > classes:
            raise InputError(
                f"{ways} ways and {extra} classes of distractors need {ways + extra} classes and there are {classes}; "
                "lower the ways, or leave the distractors out (--distractors 0)"
            )
        fewest = int(self._counts.argmin())
        if shots + queries > int(self._counts[fewest]):
            raise InputError(
                f"class '{self.features.class_names[fewest]}' has {int(self._counts[fewest])} images, and {shots} "
                f"shots with {queries} queries need {shots + queries}; lower shots or queries"
            )
