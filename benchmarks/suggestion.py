"""Labels for the images that `generate --suggest` names, against labels for random ones and other choices.

    python benchmarks/suggestion.py features:a.safetensors … --episodes 300

An episode has ten classes with one labelled image each and 60 unlabelled ones of these classes, drawn at random. Each
way of choosing puts 20 of these into an order; the head of the universal generator is then written with the first 5, 10
and 20 labelled truly, and judged on 15 further images a class. All ways see the same episodes. Printed for every data
set as Markdown: accuracy, and the paired difference from random labels with its 95 % interval. `margin` and `entropy`
take the images that the head is least sure of; `k-centre` those farthest from all labelled ones (Sener and Savarese
2018); `plain change` those whose label alone would change most, without looking at what others bring.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from weightgen.backbones.backbone import FeatureBackbone
from weightgen.backbones.feature_cache import features_of
from weightgen.data.sources import open_data
from weightgen.episodes.dataset_episode import episode_of
from weightgen.evaluation.suggestion import covering, expected_change
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Episode, Features
from weightgen.seeds import generator
from weightgen.universal.generator import universal_generator

_WAYS, _POOL, _QUERIES, _LABELS = 10, 60, 15, (5, 10, 20)


def farthest(pool: Tensor, labelled: Tensor, number: int) -> list[int]:
    """One image after the other, each the farthest from all labelled or chosen so far, of features at unit length."""
    pool, labelled = (torch.nn.functional.normalize(each, dim=1) for each in (pool, labelled))
    distance, chosen = torch.cdist(pool, labelled).amin(1), list[int]()
    for _ in range(number):
        chosen.append(int(distance.argmax()))
        distance = distance.minimum(torch.cdist(pool, pool[chosen[-1:]])[:, 0])
    return chosen


def orders(pipeline: WeightGenerationPipeline, support: Features, pool: Tensor, number: int) -> dict[str, list[int]]:
    """Rows of the pool, by each way of choosing; the pool is in random order."""
    now, change = expected_change(pipeline, support, pool)
    top = now.topk(2, dim=1).values
    return {
        "random": list(range(number)),
        "suggested": [row for row, _ in covering(change, number)],
        "plain change": change.sum(1).argsort(descending=True)[:number].tolist(),
        "margin": (top[:, 0] - top[:, 1]).argsort()[:number].tolist(),
        "entropy": torch.special.entr(now).sum(1).argsort(descending=True)[:number].tolist(),
        "k-centre": farthest(pool, support.values, number),
    }


def accuracies(pipeline: WeightGenerationPipeline, supports: Sequence[Features], test: Features) -> list[float]:
    """Percent of the test images that the head of each support has right."""
    each = [episode_of(one) for one in supports]
    most = max(one.support.shape[2] for one in each)
    padded = [
        (pad(one.support, (0, 0, 0, most - one.support.shape[2])), pad(mask, (0, most - mask.shape[2])))
        for one in each
        for mask in [one.support_mask]
    ]
    batch = Episode.of_support(*(torch.cat(tensors) for tensors in zip(*padded, strict=True)))
    heads = pipeline.heads(batch, [generator(0, "generate") for _ in each])
    right = heads.logits(test.values.expand(len(each), -1, -1)).argmax(-1) == test.labels
    return (100.0 * right.float().mean(1)).tolist()


def episode(features: Features, number: int) -> tuple[Features, Features, Features]:
    """One labelled image of each of ten classes, the pool in random order with its true labels, and test images."""
    draw = generator(0, "suggestion", number)
    classes = torch.randperm(len(features.class_names), generator=draw)[:_WAYS].tolist()
    rows = [(features.labels == one).nonzero()[:, 0] for one in classes]
    rows = [own[torch.randperm(len(own), generator=draw)] for own in rows]
    names = tuple(features.class_names[one] for one in classes)

    def taken(own: list[Tensor]) -> Features:
        labels = torch.arange(_WAYS).repeat_interleave(torch.tensor([len(each) for each in own]))
        return Features(features.values[torch.cat(own)], labels, names)

    rest = taken([own[1 + _QUERIES :] for own in rows])
    mixed = torch.randperm(len(rest.labels), generator=draw)[:_POOL]
    pool = Features(rest.values[mixed], rest.labels[mixed], names)
    return taken([own[:1] for own in rows]), pool, taken([own[1 : 1 + _QUERIES] for own in rows])


@torch.no_grad()
def measured(pipeline: WeightGenerationPipeline, features: Features, number: int) -> dict[tuple[str, int], float]:
    """Accuracy of one episode by way of choosing and number of labels."""
    support, pool, test = episode(features, number)
    supports = {("one image a class", 0): support}
    for way, order in orders(pipeline, support, pool.values, max(_LABELS)).items():
        for labels in _LABELS:
            values = torch.cat([support.values, pool.values[order[:labels]]])
            joined = torch.cat([support.labels, pool.labels[order[:labels]]])
            place = joined.argsort(stable=True)
            supports[way, labels] = Features(values[place], joined[place], support.class_names)
    return dict(zip(supports, accuracies(pipeline, list(supports.values()), test), strict=True))


def cell(accuracies: Tensor, base: Tensor) -> str:
    """Mean accuracy, and the paired difference with its interval."""
    apart = accuracies - base
    half = 1.96 * float(apart.std()) / len(apart) ** 0.5
    return f"{float(accuracies.mean()):.1f} ({float(apart.mean()):+.1f} ± {half:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="features:FILE.safetensors, the classifier beside the features")
    parser.add_argument("--episodes", type=int, default=300, help="of each data set")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for spec in chosen.data:
        pipeline = universal_generator(FeatureBackbone.of_file(spec))
        features = features_of(pipeline.backbone, open_data(spec))
        each = [measured(pipeline, features, number) for number in range(chosen.episodes)]
        by_key = {key: torch.tensor([one[key] for one in each]) for key in each[0]}
        start = float(by_key.pop(next(iter(by_key))).mean())
        print(f"\n{spec}, {chosen.episodes} episodes; without further labels {start:.1f}\n")
        print(f"| labels of | {' | '.join(f'{labels} labels' for labels in _LABELS)} |\n|---|{'---:|' * len(_LABELS)}")
        for way in dict.fromkeys(way for way, _ in by_key):
            cells = [cell(by_key[way, labels], by_key["random", labels]) for labels in _LABELS]
            print(f"| {way} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
