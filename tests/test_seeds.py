"""Seeds are a function of purpose, and of nothing else."""

import hashlib
import itertools

import pytest
import torch

from weightgen.errors import InputError
from weightgen.seeds import building_networks, derive, generator


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


def test_building_networks_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    with building_networks():
        torch.nn.Linear(2, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_networks_are_not_built_in_another_precision() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(InputError, match=r"default dtype is torch\.float64; call"), building_networks():
            pass
    finally:
        torch.set_default_dtype(torch.float32)
