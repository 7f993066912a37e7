"""How long a generator takes for one head, features given, alone and in batches of 50.

python benchmarks/head_time.py RUN      on one thread, which other programs disturb least
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from weightgen.episodes.sampler import EpisodeSampler
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Features
from weightgen.runs.folder import RunFolder

WAYS, BATCH, REPEATS = 5, 50, 30


def milliseconds(pipeline: WeightGenerationPipeline, *, batch: int, shots: int) -> float:
    """For one head: the best of some runs, for other programs can only add to a time."""
    draw, images = torch.Generator().manual_seed(0), 2 * WAYS * (shots + 1)
    labels = torch.arange(2 * WAYS).repeat_interleave(shots + 1)
    values = torch.randn(images, pipeline.backbone.feature_width, generator=draw)
    features = Features(values, labels, tuple(map(str, range(2 * WAYS))))
    episode = EpisodeSampler(features).sample(batch=batch, ways=WAYS, shots=shots, queries=1, generator=draw)
    best = float("inf")
    for _ in range(REPEATS):
        noise = [torch.Generator().manual_seed(i) for i in range(batch)]
        start = time.perf_counter()
        with torch.no_grad():
            pipeline.heads(episode, noise)
        best = min(best, time.perf_counter() - start)
    return 1000 * best / batch


def main(run: str) -> None:
    torch.set_num_threads(1)
    pipeline = RunFolder(Path(run)).generator()
    print("| shots | steps | one head, ms | in batches of 50, ms a head |")
    print("| ---: | ---: | ---: | ---: |")
    for shots in (1, 5):
        alone, together = (milliseconds(pipeline, batch=batch, shots=shots) for batch in (1, BATCH))
        print(f"| {shots} | {pipeline.config.steps} | {alone:.1f} | {together:.2f} |")


if __name__ == "__main__":
    main(sys.argv[1])
