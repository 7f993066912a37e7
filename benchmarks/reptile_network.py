"""Reptile on the whole network: a start is learnt for all its weights, and every episode fine-tunes them.

python benchmarks/reptile_network.py [iterations=2000] [episodes=600] [shots=1] [key=value …]

The other overrides are those of `weightgen train metadiff`, whose classes, architecture, ways and queries it takes. It
learns from all classes that the recipe's backbone and generator learn from, and is judged on the episodes that
`weightgen evaluate` draws.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Sequence

import datasets
import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn
from torch.func import replace_all_batch_norm_modules_
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from weightgen import seeds
from weightgen.backbones.backbone import Backbone
from weightgen.backbones.preprocessing import ImageReader
from weightgen.config.build import build_backbone
from weightgen.config.loading import load_recipe
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.evaluation.comparison import half_width
from weightgen.records import TURNED, Features
from weightgen.runs.data_parts import open_parts

DEFAULTS = {"iterations": 2000, "episodes": 600, "shots": 1}
# As Nichol et al. 2018 (arXiv 1803.02999) have it for Omniglot, 5-way; but for their 100,000 iterations.
LEARNING_RATE, BETAS = 0.001, (0.0, 0.999)
META_BATCH, TRAIN_SHOTS, INNER_BATCH, INNER_ITERATIONS = 5, 10, 10, 5
EVALUATION_BATCH, EVALUATION_ITERATIONS = 5, 50
CHUNK = 50  # episodes that `weightgen evaluate` draws at once


class Reptile:
    """A network for so many ways and its optimiser, after Nichol et al. 2018 and their released code.

    From that code: batch norm always takes the statistics of its batch, and Adam's second moments go on from episode to
    episode, those that are judged included. Episodes and queries take turns: on one core `vmap` over episodes, whose
    convolutions are grouped, takes 1.4 to 1.6 times as long, and over queries 1.7 to 2.5 times.
    """

    def __init__(self, backbone: Backbone, *, ways: int, seed: int) -> None:
        self._normalise = backbone.preprocess.normalise
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.derive(seed, "reptile", "head"))
            layer = nn.Linear(backbone.feature_width, ways)
        network = backbone.with_head(layer.weight.detach(), layer.bias.detach())
        self._network = replace_all_batch_norm_modules_(network).to(memory_format=torch.contiguous_format)
        self._adam = torch.optim.Adam(self._network.parameters(), lr=LEARNING_RATE, betas=BETAS, fused=True)

    def learn(self, base: EpisodeSampler, *, ways: int, iterations: int, seed: int) -> None:
        """Move to the mean of where the episodes of a meta batch lead, by a step that goes from 1 down to 0."""
        for iteration in range(iterations):
            random = seeds.generator(seed, "reptile", iteration)
            episodes = base.sample(batch=META_BATCH, ways=ways, shots=TRAIN_SHOTS, queries=0, generator=random)
            start = self._weights()
            mean = torch.zeros_like(start)
            for support in episodes.support:
                self._set(start)
                self._fine_tune(support, batch=INNER_BATCH, iterations=INNER_ITERATIONS, random=random)
                mean += self._weights() / META_BATCH
            self._set(start.lerp(mean, 1 - iteration / iterations))

    def classify(
        self,
        support: UInt8[Tensor, "ways shots channels height width"],
        query: UInt8[Tensor, "queries channels height width"],
        random: torch.Generator,
    ) -> Int[Tensor, " queries"]:
        """The classes of an episode's queries. Inductive: batch norm sees one query at a time, with the support."""
        start, state = self._weights(), copy.deepcopy(self._adam.state_dict())
        self._fine_tune(support, batch=EVALUATION_BATCH, iterations=EVALUATION_ITERATIONS, random=random)
        known = self._normalise(support.flatten(0, 1))
        with torch.no_grad():
            logits = [self._network(torch.cat([known, image[None]]))[-1] for image in self._normalise(query)]
        self._set(start)
        self._adam.load_state_dict(state)
        return torch.stack(logits).argmax(-1)

    def _fine_tune(
        self,
        support: UInt8[Tensor, "ways shots channels height width"],
        *,
        batch: int,
        iterations: int,
        random: torch.Generator,
    ) -> None:
        """Steps of Adam on batches that go through the shuffled images again and again."""
        ways, shots = support.shape[:2]
        images, labels = self._normalise(support.flatten(0, 1)), torch.arange(ways).repeat_interleave(shots)
        passes = -(-batch * iterations // len(images))
        order = torch.rand(passes, len(images), generator=random).argsort(-1).flatten()
        for rows in order[: batch * iterations].split(batch):
            self._adam.zero_grad()
            cross_entropy(self._network(images[rows]), labels[rows]).backward()
            self._adam.step()

    def _weights(self) -> Tensor:
        return parameters_to_vector(self._network.parameters()).detach()

    def _set(self, weights: Tensor) -> None:
        vector_to_parameters(weights.clone(), self._network.parameters())  # which become views of it


def pixels(parts: Sequence[datasets.Dataset], backbone: Backbone, *, turns: Sequence[int]) -> Features:
    """Images in place of features, turned by so many quarters; every turn makes classes of its own."""
    values, labels = [], []
    names: list[str] = []
    for part in parts:
        reader = ImageReader(part, backbone.preprocess)
        upright = reader.read_all()
        for quarters in turns:
            values.append(upright.rot90(quarters, (-2, -1)))
            labels.append(reader.labels + len(names))
            names += [f"{name}{TURNED}{90 * quarters}°" for name in reader.class_names]
    return Features(torch.cat(values), torch.cat(labels), tuple(names))


def main(arguments: Sequence[str]) -> None:
    own, overrides = dict(DEFAULTS), []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in own:
            own[key] = int(value)
        else:
            overrides.append(argument)
    recipe = load_recipe("metadiff", overrides)
    backbone = build_backbone(recipe.backbone, seed=recipe.seed)
    parts = open_parts(recipe.data, seed=recipe.seed, pretraining=recipe.backbone.pretraining is not None)
    apart = [] if parts.backbone is parts.base else [parts.backbone]
    base = EpisodeSampler(pixels([parts.base, *apart], backbone, turns=range(4)))
    novel = EpisodeSampler(pixels([parts.novel], backbone, turns=[0]))
    ways, shots, queries = recipe.evaluation.ways, own["shots"], recipe.evaluation.queries
    novel.check(ways=ways, shots=shots, queries=queries)
    begin = time.perf_counter()
    reptile = Reptile(backbone, ways=ways, seed=recipe.seed)
    reptile.learn(base, ways=ways, iterations=own["iterations"], seed=recipe.seed)
    learnt = time.perf_counter()
    accuracies = []
    for start in range(0, own["episodes"], CHUNK):
        size = min(CHUNK, own["episodes"] - start)
        random = seeds.generator(0, "evaluation", start // CHUNK)
        drawn = novel.sample(batch=size, ways=ways, shots=shots, queries=queries, generator=random)
        for i, (support, query, labels) in enumerate(zip(drawn.support, drawn.query, drawn.query_labels, strict=True)):
            chosen = reptile.classify(support, query, seeds.generator(0, "head", start + i))
            accuracies.append((chosen == labels).double().mean())
    figures = 100 * torch.stack(accuracies)
    print(
        f"{ways}-way {shots}-shot, {own['episodes']} episodes: {figures.mean():.2f} ± {half_width(figures):.2f} % "
        f"({own['iterations']} iterations in {learnt - begin:.0f} s, episodes in {time.perf_counter() - learnt:.0f} s)"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
