"""Seeds are a function of purpose, and of nothing else."""

import hashlib
import itertools

import torch

from weightgen.seeds import derive, generator


def test_seeds_do_not_depend_on_the_process_or_the_machine() -> None:
    digest = hashlib.sha256(b"3/episodes/7/1").hexdigest()
    assert derive(3, "episodes", 7, 1) == int(digest[:16], 16) // 2


def test_every_part_of_the_purpose_counts() -> None:
    purposes = itertools.product((0, 1, 11), ("episodes", "noise"), (0, 1, 11), (0, 1))
    seeds = [derive(*purpose) for purpose in purposes]
    assert len(set(seeds)) == 3 * 2 * 3 * 2
    assert derive(0, 1, 11) != derive(0, 11, 1)


def test_seeds_fit_every_generator() -> None:
    seeds = [derive(seed, "fits") for seed in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**60


def test_generator_ignores_the_global_state() -> None:
    torch.manual_seed(1)
    first = torch.randn(5, generator=generator(2, "head"))
    torch.manual_seed(9)
    torch.randn(3)
    assert torch.equal(torch.randn(5, generator=generator(2, "head")), first)
    assert not torch.equal(torch.randn(5, generator=generator(2, "query")), first)
