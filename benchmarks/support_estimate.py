"""Is the leave-one-out accuracy that `weightgen generate` prints true? Against test images, over many episodes.

    python benchmarks/support_estimate.py features:a.safetensors features:b.safetensors --episodes 300

The head of every episode is the universal generator's. Printed for each number of shots, over all data sets: true
accuracy, its mean absolute difference from the estimate, the estimate's bias, how often the 95 % interval holds the
true accuracy, its mean width; where one image of every third episode was given the label of another class, how many of
those images are said to look mislabelled, and how many images of correct labels are; and the threshold of
`predict --threshold auto`, how many test images it keeps, and how many of up to five other classes it turns away.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace

import torch
from torch import Tensor

from weightgen.backbones.backbone import FeatureBackbone
from weightgen.backbones.feature_cache import features_of
from weightgen.data.sources import open_data
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.evaluation.scoring import other_images
from weightgen.evaluation.support_estimate import support_estimate
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Episode, Features
from weightgen.seeds import generator
from weightgen.universal.generator import universal_generator


def support_of(episode: Episode, labels: Tensor) -> Features:
    """The support under these labels, which need not be its own."""
    order = labels.argsort(stable=True)
    names = tuple(f"class {i}" for i in range(episode.ways))
    return Features(episode.support[0].flatten(0, 1)[order], labels[order], names)


def planted(labels: Tensor, seed: int, *, ways: int) -> tuple[Tensor, int]:
    """Labels of which one is of another class, and its row."""
    draw = generator(seed, "planted")
    row = int(torch.randint(len(labels), (1,), generator=draw))
    other = int(torch.randint(1, ways, (1,), generator=draw))
    changed = labels.clone()
    changed[row] = (changed[row] + other) % ways
    return changed, row


def judged(
    pipeline: WeightGenerationPipeline, sampler: EpisodeSampler, ways: int, shots: int, queries: int, number: int
) -> dict[str, float]:
    """One episode: estimate and truth, how a planted image fares, and what the threshold keeps and turns away."""
    draw = generator(0, "support estimate", shots, number)
    episode = sampler.sample(batch=1, ways=ways, shots=shots, queries=queries, generator=draw)
    labels = torch.arange(ways).repeat_interleave(shots)
    estimate = support_estimate(pipeline, support_of(episode, labels))
    assert estimate is not None
    heads = pipeline.heads(replace(episode.support_only(), query=episode.query[:, :0]), [generator(0, "generate")])
    probabilities = heads.logits(episode.query).softmax(-1)
    right = probabilities.argmax(-1) == episode.query_labels
    truth = 100.0 * float(right.float().mean())
    low, high = estimate.interval
    result = {
        "truth": truth,
        "error": estimate.accuracy - truth,
        "held": float(low <= truth <= high),
        "width": high - low,
        "false": float(len(estimate.suspects())) / len(labels),
    }
    others = other_images(sampler.features, episode, generator=draw)
    assert others is not None, "data need more classes than --ways"
    threshold = estimate.threshold or 0.0  # none where no image is right
    foreign = heads.logits(others.values).softmax(-1).amax(-1)[others.mask]
    result["threshold"] = threshold
    result["kept"] = float((probabilities.amax(-1) >= threshold).float().mean())
    result["turned away"] = float((foreign < threshold).float().mean())
    if number % 3 == 0:
        wrong, row = planted(labels, number, ways=ways)
        order = wrong.argsort(stable=True).tolist()
        doubted = support_estimate(pipeline, support_of(episode, wrong))
        assert doubted is not None
        result["found"] = float(row in {order[one["row"]] for one in doubted.suspects()})
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="features:FILE.safetensors, the classifier beside the features")
    parser.add_argument("--episodes", type=int, default=100, help="of each data set and number of shots")
    parser.add_argument("--ways", type=int, default=5)
    parser.add_argument("--shots", type=int, nargs="+", default=[2, 5, 10])
    parser.add_argument("--queries", type=int, default=25, help="test images of a class")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    samplers = []
    for spec in chosen.data:
        pipeline, dataset = universal_generator(FeatureBackbone.of_file(spec)), open_data(spec)
        features = features_of(pipeline.backbone, dataset)
        samplers.append((pipeline, EpisodeSampler(features)))
    titles = ["shots", "episodes", "true accuracy", "mean absolute error", "bias", "coverage", "width"]
    titles += ["found", "false", "threshold", "kept", "turned away"]
    print(f"| {' | '.join(titles)} |\n|{'---:|' * len(titles)}")
    for shots in chosen.shots:
        each = [judged(*one, chosen.ways, shots, chosen.queries, i) for one in samplers for i in range(chosen.episodes)]
        mean = {key: statistics.fmean(one[key] for one in each if key in one) for key in each[0]}
        absolute = statistics.fmean(abs(one["error"]) for one in each)
        print(
            f"| {shots} | {len(each)} | {mean['truth']:.1f} | {absolute:.1f} | {mean['error']:+.1f} | "
            f"{100 * mean['held']:.0f} % | {mean['width']:.0f} | {100 * mean['found']:.0f} % | "
            f"{100 * mean['false']:.1f} % | {mean['threshold']:.2f} | {100 * mean['kept']:.0f} % | "
            f"{100 * mean['turned away']:.0f} % |",
            flush=True,
        )


if __name__ == "__main__":
    main()
