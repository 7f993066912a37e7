"""Networks that learn in one fold's space are used in another's: both must have the same coordinates.

Standardizers of two random halves of many classes map the same raw episode. What conditioners and denoisers make of it
may differ by what the statistics of the halves differ by, times a bound that is stated here, and by no more. Where one
standardizer's coordinates are turned at random, which changes nothing that is inside its space, it differs by ten times
as much: so a law that only a rotation-blind comparison could pass would fail here.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import pytest
import torch

from weightgen import registry
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.features.leave_one_out import loo_change
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import Conditioner, Denoiser, FeatureSpace
from weightgen.records import Condition, Episode, Features
from weightgen.schedulers.schedulers import build_scheduler

CLASSES, WIDTH, CHAIN = 12_000, 8, 50
BOUND = 6.0
"""How much more than the standardised images themselves a prediction may differ: bands are cut along axes, which two
halves tell less surely than the map."""
TURNED = 10.0
"""By how much the difference must grow when coordinates are turned at random."""


@dataclass(frozen=True)
class Halves:
    """Standardizers of two random halves of the classes, and the second one in coordinates turned at random."""

    episode: Episode
    one: Standardizer
    other: Standardizer
    turned: Standardizer

    @property
    def statistics_difference(self) -> float:
        return difference(self.one.query(self.episode.query), self.other.query(self.episode.query))


def difference(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).norm() / left.norm())


def class_features(classes: int, seed: int) -> Features:
    """Six images a class; classes differ by a quarter less along each further direction, so that axes are distinct."""
    generator, images = torch.Generator().manual_seed(seed), 6
    labels = torch.arange(classes).repeat_interleave(images)
    directions = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q
    extent = 4 * 0.75 ** torch.arange(WIDTH)
    centres = 2 + (extent * torch.randn(classes, WIDTH, generator=generator)) @ directions
    noise = torch.linspace(0.6, 1.5, WIDTH) * torch.randn(len(labels), WIDTH, generator=generator)
    return Features(centres[labels] + noise, labels, tuple(f"class {i}" for i in range(classes)))


CONDITIONERS = [name for name in registry.names("conditioners") if registry.get("conditioners", name).sees_images]
"""The others are the same in any coordinates, for they look at none."""


@pytest.fixture(scope="module")
def halves() -> Halves:
    features = class_features(CLASSES, seed=0)
    order = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(1)).tolist()
    names = [features.class_names[i] for i in order]
    sides = (names[: CLASSES // 2], names[CLASSES // 2 :])
    one, other = (
        Standardizer(feature_width=WIDTH, between_shrinkage=0.0).fit(features.of_classes(side)) for side in sides
    )
    turned, rotation = copy.deepcopy(other), random_rotation()
    turned.matrix.copy_(rotation @ other.matrix)
    turned.axes.copy_(rotation @ other.axes)
    sizes = {"batch": 2, "ways": 3, "shots": (2, 4), "queries": 2, "unlabelled": UnlabelledDraw(7, distractors=0.3)}
    episode = EpisodeSampler(class_features(20, seed=7)).sample(**sizes, generator=torch.Generator().manual_seed(2))
    return Halves(episode, one, other, turned)


def random_rotation() -> torch.Tensor:
    return torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3))).Q


def component(kind: str, name: str) -> torch.nn.Module:
    """With every weight far from zero, output layers included."""
    made_by = registry.get(kind, name)
    given = {"feature_width": WIDTH, "num_train_timesteps": CHAIN, "base_classes": CLASSES}
    if "sizes" in registry.option_names(made_by):  # for tokens that are no class rows
        given |= {"sizes": (40, 24), "token_width": 64}
    with torch.random.fork_rng():  # first weights come from torch's global state
        torch.manual_seed(8)
        taken = {k: v for k, v in given.items() if k in registry.option_names(made_by)}
        built = registry.create(kind, name, {}, **taken)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return built.eval()


def conditions(
    conditioner: Conditioner, episode: Episode, standardizer: Standardizer
) -> list[tuple[slice, Condition, FeatureSpace]]:
    """Of a raw batch, at noisy rows that are the same points among raw features for all standardizers."""
    spaces = conditioner.in_spaces(standardizer.standardize(episode), standardizer)
    return [(which, conditioner(own, space), space) for which, own, space in spaces]


def noisy_rows(standardizer: Standardizer, space: FeatureSpace, which: slice) -> torch.Tensor:
    raw = 2 + 2 * torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(6))
    return space.points(standardizer.query(raw[which]))


@pytest.mark.parametrize("name", CONDITIONERS)
def test_conditioners_say_the_same_in_the_spaces_of_two_halves(halves: Halves, name: str) -> None:
    conditioner = component("conditioners", name)

    @torch.no_grad()
    def rows(standardizer: Standardizer) -> torch.Tensor:
        said = []
        for which, condition, space in conditions(conditioner, halves.episode, standardizer):
            at = conditioner.at(condition, noisy_rows(standardizer, space, which))
            said += [at.tokens, at.means, *([] if at.gradient is None else [at.gradient])]
        return torch.cat([row.flatten() for row in said])

    same, turned = (difference(rows(halves.one), rows(other)) for other in (halves.other, halves.turned))
    assert same < BOUND * halves.statistics_difference
    assert turned > TURNED * same


def suits(name: str, told_by: str) -> bool:
    """Not every conditioner says how much it leaves unknown."""
    return component("conditioners", told_by).gives_variance or not registry.get("denoisers", name).needs_variance


PAIRS = [(name, told_by) for name in registry.names("denoisers") for told_by in CONDITIONERS if suits(name, told_by)]


@pytest.mark.parametrize(("name", "told_by"), PAIRS)
def test_networks_add_the_same_in_the_spaces_of_two_halves(halves: Halves, name: str, told_by: str) -> None:
    """What a network adds to its form: the form alone knows nothing of coordinates."""
    denoiser, conditioner, gradients = (
        component("denoisers", name),
        component("conditioners", told_by),
        component("conditioners", "task_prototypes"),
    )
    denoiser.set_noise_levels(build_scheduler("DDPMScheduler", {"num_train_timesteps": CHAIN}))

    @torch.no_grad()
    def added(standardizer: Standardizer) -> torch.Tensor:
        said = []
        for which, condition, space in conditions(conditioner, halves.episode, standardizer):
            time = torch.tensor([9, 31])[which]
            noisy = noisy_rows(standardizer, space, which)
            full = gradients.at(condition, noisy)
            if full.loo_change is None:
                full = replace(full, loo_change=loo_change(full, torch.tensor(25.0)))
            if isinstance(denoiser, Denoiser) and denoiser.ordered:
                noisy = torch.randn(len(noisy), 1, 64, generator=torch.Generator().manual_seed(5))
            said.append((denoiser(noisy, time, full) - denoiser.without_network(noisy, time, full)).flatten())
        return torch.cat(said)

    same, turned = (difference(added(halves.one), added(other)) for other in (halves.other, halves.turned))
    assert same < BOUND * halves.statistics_difference
    assert turned > TURNED * same
