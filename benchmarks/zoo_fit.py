"""How fast rows are fitted: against one task at a time with autograd, and against the matrix products alone.

python benchmarks/zoo_fit.py      on one thread, which other programs disturb least
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import cross_entropy

from weightgen.records import Episode
from weightgen.spaces._row_fit import RowFit, RowLogits
from weightgen.zoo.fit import Fitted, fit
from weightgen.zoo.options import FitOptions

OPTIONS = FitOptions()
SETTINGS = ((5, 1, 64, 2048), (5, 20, 64, 512), (5, 20, 512, 128), (20, 20, 64, 128), (20, 20, 512, 32))
"""Ways, images of a class, features, tasks of a call."""
ALONE, REPEATS = 5, 5


def seconds(*works: Callable[[], object]) -> list[float]:
    """The best of some runs of each, by turns: other programs can only add to a time."""
    best = [float("inf")] * len(works)
    for _ in range(REPEATS):
        for i, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def bare_products(images: torch.Tensor, ways: int) -> None:
    """The two matrix products of every epoch, and nothing else."""
    rows = torch.ones(len(images), ways, images.shape[-1])
    logits = torch.empty(len(images), ways, images.shape[1])
    for _ in range(OPTIONS.epochs):
        torch.bmm(rows, images.mT, out=logits)
        torch.bmm(logits, images, out=rows)


def one_at_a_time(images: torch.Tensor, labels: torch.Tensor, ways: int, row_logits: RowLogits) -> None:
    """The plain way: for every task an optimiser, and autograd through the logits."""
    for i in range(ALONE):
        rows = torch.ones(ways, images.shape[-1], requires_grad=True)
        adam = torch.optim.Adam([rows], lr=OPTIONS.learning_rate)
        for _ in range(OPTIONS.epochs):
            if row_logits.readout == "gaussian":
                logits = images[i] @ rows.mT - rows.square().sum(-1) / 2
            else:
                logits = (images[i] - row_logits.origin) @ torch.nn.functional.normalize(rows - row_logits.origin).mT
            adam.zero_grad()
            cross_entropy(row_logits.factor * logits, labels[i]).backward()
            adam.step()


def support_of(images: torch.Tensor, ways: int) -> Episode:
    """Images in the order of their classes, equally many of each, as supports without queries."""
    tasks, _, width = images.shape
    support, none = images.unflatten(1, (ways, -1)), images.new_zeros(tasks, 0, width)
    return Episode(
        support=support,
        support_mask=torch.ones(support.shape[:3], dtype=torch.bool),
        query=none,
        query_labels=torch.zeros(tasks, 0, dtype=torch.int64),
        classes=torch.arange(ways).expand(tasks, -1),
        unlabelled=none,
        unlabelled_mask=torch.zeros(tasks, 0, dtype=torch.bool),
    )


def together(support: Episode, row_logits: RowLogits, generator: torch.Generator) -> Fitted:
    """All tasks as one batched problem."""
    problem = RowFit(support, row_logits, length=1.0, noise=0.0, generator=generator)
    return fit(problem, torch.ones(support.support.shape[-1]), OPTIONS)


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    print("| ways | images a class | features | readout | tasks/s | times one at a time | time / bare products |")
    print("| ---: | ---: | ---: | --- | ---: | ---: | ---: |")
    for ways, shots, width, tasks in SETTINGS:
        labels = torch.arange(ways).repeat_interleave(shots).expand(tasks, -1)
        images = torch.randn(tasks, ways * shots, width, generator=generator)
        support = support_of(images, ways)
        for readout in ("gaussian", "cosine"):
            row_logits = RowLogits(readout, 10 / width**0.5, torch.zeros(width), 1.0)
            ours, bare, alone = seconds(
                partial(together, support, row_logits, generator),
                partial(bare_products, images, ways),
                partial(one_at_a_time, images, labels, ways, row_logits),
            )
            rate = f"{tasks / ours:,.0f} | {alone / ALONE * tasks / ours:.0f} | {ours / bare:.2f}"
            print(f"| {ways} | {shots} | {width} | {readout} | {rate} |", flush=True)


if __name__ == "__main__":
    main()
