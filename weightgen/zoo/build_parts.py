"""What a zoo of a backbone's parts is made of, and its shards."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightgen.episodes.sampler import EpisodeSampler
from weightgen.files import tensors_hash, text_hash
from weightgen.records import Episode, Features
from weightgen.seeds import generator
from weightgen.selectors._part import Part
from weightgen.zoo.fit import FitOptions, Fitted
from weightgen.zoo.fit_parts import fit_parts
from weightgen.zoo.members import Shard

_TASKS_IN_SHARD = 32
_START = 0.01  # standard deviation of the shared start; a channel's scale is about 1
_MOST_IMAGES = 5  # of a class in one half; an epoch that looks at fewer images costs less, and the next sees others


@dataclass(frozen=True)
class PartPlan:
    """What a zoo of parts is made of.

    pixels: images of the classes that tasks are drawn from. tasks: at least so many. ways: fewest and most classes of a
    task; all of a shard have equally many.
    """

    part: Part
    pixels: Features
    tasks: int
    ways: tuple[int, int]
    fit: FitOptions
    seed: int

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.tasks // _TASKS_IN_SHARD)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the pixels; members name classes by their place here."""
        return self.pixels.class_names

    def key(self) -> str:
        """Changes with anything that changes the zoo."""
        data = tensors_hash({"values": self.pixels.values, "labels": self.pixels.labels})
        backbone = self.part.backbone.weights_hash() + self.part.backbone.preprocessing_key()
        drawn = repr((self.tasks, self.ways, self.seed, self.part.layout.to_dict()))
        return text_hash(self.fit.model_dump_json(), drawn, *self.class_names, data, backbone)

    def fit_shard(self, number: int) -> Shard:
        """The members of one shard."""
        draw, present = generator(self.seed, "zoo", number), len(self.class_names)
        least, most = (min(ways, present) for ways in self.ways)
        ways = int(torch.randint(least, most + 1, (), generator=draw))
        classes = torch.rand(_TASKS_IN_SHARD, present, generator=draw).topk(ways).indices
        fitted = fit_to_classes(self.part, self.pixels, classes, options=self.fit, seed=self.seed, draw=draw)
        return Shard(fold=0, classes=classes, targets=fitted.targets.cpu(), accuracy=fitted.accuracy.cpu())


def part_start(parameters: int, *, seed: int) -> Float[Tensor, " parameters"]:
    """The offset that every task starts from; `seed` is the plan's."""
    return _START * torch.randn(parameters, generator=generator(seed, "zoo start"))


def fit_to_classes(
    part: Part,
    pixels: Features,
    classes: Int[Tensor, "tasks ways"],
    *,
    options: FitOptions,
    seed: int,
    draw: torch.Generator,
) -> Fitted:
    """Offsets for tasks of these classes, rows of `class_names`, fitted to all their images.

    What the support of an episode leaves out is what there is to learn. Halves are drawn from `draw`.
    """
    sampler, (tasks, ways) = EpisodeSampler(pixels), classes.shape
    half = min(_MOST_IMAGES, int(pixels.counts.min()) // 2)

    def split(epoch: int) -> Episode:
        return sampler.sample(batch=tasks, ways=ways, shots=half, queries=half, generator=draw, classes=classes)

    return fit_parts(part, split, start=part_start(part.layout.size, seed=seed), options=options)


def fit_to_support(part: Part, episode: Episode, *, options: FitOptions, seed: int, draw: torch.Generator) -> Fitted:
    """Offsets fitted to the supports of pixel episodes alone; a single image of a class is on both sides."""
    support, (ways, shots) = episode.support, episode.support.shape[1:3]
    half = max(1, shots // 2)

    def split(epoch: int) -> Episode:
        order = torch.rand(support.shape[:3], generator=draw).argsort(-1)
        mixed = support.take_along_dim(order[..., None], 2)
        query = mixed[:, :, -half:]
        return Episode(
            support=mixed[:, :, : max(1, shots - half)],
            support_mask=episode.support_mask[:, :, : max(1, shots - half)],
            query=query.flatten(1, 2),
            query_labels=torch.arange(ways).repeat_interleave(half).expand(len(support), -1),
            classes=episode.classes,
            unlabelled=episode.unlabelled,
            unlabelled_mask=episode.unlabelled_mask,
        )

    return fit_parts(part, split, start=part_start(part.layout.size, seed=seed), options=options)
