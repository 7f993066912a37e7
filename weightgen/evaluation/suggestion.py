"""Which unlabelled images to label next: those whose labels would change the head's answers on most of the others."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from datasets import Dataset
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from weightgen.episodes.dataset_episode import episode_of
from weightgen.errors import InputError
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Episode, Features
from weightgen.schedulers.reverse_chain import MeanDDPMScheduler
from weightgen.seeds import generator as seeded

_LABELS = 2  # that an image is tried with: its most probable classes
_MOST_CANDIDATES, _ROWS_WRITTEN = 256, 2**13  # fewer of many classes, for a trial writes a row for each
_SHOTS = 20  # of a class that a trial head is written from
_ENTRIES_AT_ONCE = 2**24  # 64 MiB of support features


@dataclass(frozen=True)
class Suggestion:
    """An image to label next: where it is, and as JSON values "image", "looks_like", "probability" and "change"."""

    pool: Dataset
    row: int
    values: dict[str, Any]


def suggested(
    pipeline: WeightGenerationPipeline,
    features: Features,
    unlabelled: Float[Tensor, "extra feature"],
    *,
    number: int,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Unlabelled images, the most useful to label first; any first few of them are a choice of that number.

    One image after the other is taken that adds most to the expected change of all others, where each counts the
    largest change that any image taken so far brings it, so that no two are taken for the same reason.

    Args:
        features, unlabelled: raw features of the support and of the unlabelled images.
        number: how many to name; all where there are fewer.
        seed: decides the noise; and, of more than 256 unlabelled images (fewer from 32 classes on), which 256 are tried
            and looked at.
        progress: called with "suggesting", heads written and heads in all.

    Returns:
        For each "row" (of `unlabelled`), "looks_like" and "probability" (the most probable class now), and "change":
        percent by which the predictions change on average, beyond what the images before bring.

    Raises:
        InputError: the generator's heads are not written from labelled features.
    """
    if pipeline.space.takes_images or pipeline.class_names is not None:
        raise InputError(
            "--suggest asks what a label would change, and this generator's heads are not written from labelled "
            "features; take another, such as --generator universal"
        )
    most = max(number, min(_MOST_CANDIDATES, _ROWS_WRITTEN // len(features.class_names)))
    drawn = torch.randperm(len(unlabelled), generator=seeded(seed, "suggested"))[:most].sort().values
    now, change = expected_change(pipeline, features, unlabelled[drawn], seed=seed, progress=progress)
    probability, best = now.max(1)
    return [
        {
            "row": int(drawn[i]),
            "looks_like": features.class_names[int(best[i])],
            "probability": float(probability[i]),
            "change": 100 * gain / len(drawn),
        }
        for i, gain in covering(change, number)
    ]


@torch.no_grad()
def expected_change(
    pipeline: WeightGenerationPipeline,
    features: Features,
    pool: Float[Tensor, "pool feature"],
    *,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Float[Tensor, "pool ways"], Float[Tensor, "pool pool"]]:
    """Class probabilities of images; and how far those in the columns would move by the label of those in the rows.

    Every image is tried with each of its two most probable classes: a head is written from the support and it. How far
    another's probabilities move (total variation) is weighed by how probable the two classes are. Where the chain is
    the noise-free mean, trial heads take one step.
    """
    steps = 1 if type(pipeline.scheduler) is MeanDDPMScheduler else None
    whole = episode_of(features)
    whole = replace(whole, support=whole.support[:, :, :_SHOTS], support_mask=whole.support_mask[:, :, :_SHOTS])
    now = _probabilities(pipeline, whole, pool, steps=steps, seed=seed)[0]
    likely = now.topk(min(_LABELS, now.shape[1]), dim=1)
    share = likely.values / likely.values.sum(1, keepdim=True)
    change = now.new_zeros(len(pool), len(pool))
    trials = torch.cartesian_prod(torch.arange(len(pool)), torch.arange(share.shape[1]))
    size = max(1, _ENTRIES_AT_ONCE // max(1, whole.support.numel(), now.numel()))
    for start in range(0, len(trials), size):
        image, rank = trials[start : start + size].unbind(1)
        episode = _with_one_more(whole, pool[image], likely.indices[image, rank])
        moved = (_probabilities(pipeline, episode, pool, steps=steps, seed=seed) - now).abs().sum(-1) / 2
        change.index_add_(0, image, share[image, rank, None] * moved)
        if progress is not None:
            progress("suggesting", min(start + size, len(trials)), len(trials))
    return now, change


def covering(change: Float[Tensor, "pool pool"], number: int) -> Iterator[tuple[int, float]]:
    """Rows whose largest entries of every column sum up to most, taken one at a time, and what each adds to the sum."""
    covered, free = change.new_zeros(len(change)), torch.ones(len(change), dtype=torch.bool)
    for _ in range(min(number, len(change))):
        added = (change - covered).clamp(min=0).sum(1).masked_fill(~free, -1.0)
        best = int(added.argmax())
        free[best] = False
        covered = torch.maximum(covered, change[best])
        yield best, float(added[best])


def _with_one_more(whole: Episode, images: Float[Tensor, "batch feature"], labels: Int[Tensor, " batch"]) -> Episode:
    """The episode once for every image, with that image as one more of its class."""
    each = torch.arange(len(images))
    repeated = whole[torch.zeros_like(each)]
    support, mask = pad(repeated.support, (0, 0, 0, 1)), pad(repeated.support_mask, (0, 1))
    support[each, labels, -1], mask[each, labels, -1] = images, True
    return replace(repeated, support=support, support_mask=mask, class_names=None)


def _probabilities(
    pipeline: WeightGenerationPipeline,
    episode: Episode,
    pool: Float[Tensor, "pool feature"],
    *,
    steps: int | None,
    seed: int,
) -> Float[Tensor, "batch pool ways"]:
    """Of the pool, by the head of every episode, all from the same noise."""
    noise = [seeded(seed, "generate") for _ in range(len(episode))]
    heads = pipeline.heads(episode.support_only(), noise, steps=steps, samples=1)
    return heads.logits(pool.to(pipeline.device).expand(len(episode), -1, -1)).softmax(-1).cpu()
