"""How time and memory of a head for a whole data set grow with its classes and its images.

python benchmarks/dataset_size.py RUN [images=100000]

RUN is a finished run of `weightgen train transfer/metadiff` or the like. Features are made up, for time after features
does not depend on what they are; the images of the last part are files in a temporary folder, noise of 32 pixels, and
go through the run's own backbone. One thread.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from weightgen.episodes.dataset_episode import dataset_episode
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Features
from weightgen.runs.folder import RunFolder
from weightgen.seeds import generator

REPEATS = 3


def made_up(classes: int, images: int, width: int) -> Features:
    """Gaussian classes, all of the same size."""
    draw = generator(0, "made up", classes, images)
    means = torch.randn(classes, width, generator=draw)
    labels = torch.arange(classes).repeat_interleave(images)
    values = means[labels] + 2 * torch.randn(len(labels), width, generator=draw)
    return Features(values.relu(), labels, tuple(str(number) for number in range(classes)))


def seconds(pipeline: WeightGenerationPipeline, features: Features) -> tuple[float, float]:
    """Of the pass over features, and of pass and head together: the shortest of some calls."""
    passes, both = [], []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        batches = (pipeline.standardizer.support(values) for values in features.values.split(1024))
        dataset_episode(batches, features.labels, classes=len(features.class_names), generator=generator(0, "sample"))
        middle = time.perf_counter()
        pipeline.dataset_heads(features, [generator(0, "head")])
        passes.append(middle - begin)
        both.append(time.perf_counter() - middle)
    return min(passes), min(both)


def peak_of_folder(pipeline: WeightGenerationPipeline, images: int, *, classes: int = 10) -> float:
    """GiB that the process has ever taken, after a head for a folder of so many images."""
    random = np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        for number in range(images):
            place = Path(folder) / str(number % classes)
            place.mkdir(exist_ok=True)
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png", compress_level=1)
        pipeline(folder)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(arguments: Sequence[str]) -> None:
    images = int(dict(word.split("=", 1) for word in arguments[1:]).get("images", 100_000))
    torch.set_num_threads(1)
    pipeline = RunFolder(Path(arguments[0])).generator()
    assert isinstance(pipeline, WeightGenerationPipeline)
    width = pipeline.backbone.feature_width
    print("| classes | images a class | pass, s | head, s |\n| ---: | ---: | ---: | ---: |")
    for classes, each in ((10, 10), (10, 100), (10, 1000), (10, 5000), (100, 20), (300, 20), (1000, 20)):
        first, both = seconds(pipeline, made_up(classes, each, width))
        print(f"| {classes} | {each} | {first:.3f} | {both - first:.3f} |", flush=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\npeak so far {before:.2f} GiB; after a folder of {images} images ", end="", flush=True)
    print(f"{peak_of_folder(pipeline, images):.2f} GiB")


if __name__ == "__main__":
    main(sys.argv[1:])
