"""What every conditioner promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from episode_changes import blind, padded, permuted, shuffled_support

from weightgen import registry
from weightgen.conditioners.class_subset import ClassSubset
from weightgen.conditioners.none import None_
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import Conditioner
from weightgen.records import Condition, Episode

DrawEpisode = Callable[..., Episode]
Tell = Callable[[Episode], Condition]
ORDER = torch.tensor([2, 0, 1])
PER_CLASS = ("tokens", "variance", "counts", "gradient")


@pytest.fixture(params=registry.names("conditioners"))
def conditioner(request: pytest.FixtureRequest) -> Conditioner:
    """A conditioner whose every weight is far from zero, so that each part of it can be seen in the condition."""
    component = registry.get("conditioners", request.param)
    given = {"feature_width": 8, "classes": [f"class {i}" for i in range(60)]}
    given = {key: value for key, value in given.items() if key in registry.option_names(component)}
    built = registry.create("conditioners", request.param, {}, **given)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return built.eval()


@pytest.fixture
def tell(conditioner: Conditioner, base_standardizer: Standardizer) -> Tell:
    """The condition of a raw episode at a noisy head that is the same for every class."""

    def condition(episode: Episode) -> Condition:
        plain = conditioner(base_standardizer.standardize(episode), base_standardizer)
        return conditioner.at(plain, torch.linspace(-2, 2, 8).expand_as(plain.tokens))

    return condition


def parts(condition: Condition, names: tuple[str, ...] = PER_CLASS) -> dict[str, torch.Tensor]:
    return {name: getattr(condition, name) for name in names if getattr(condition, name) is not None}


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_config_and_tensors_come_back(conditioner: Conditioner, tell: Tell, tmp_path: Path) -> None:
    assert conditioner.state_dict(), "without a persistent tensor diffusers cannot tell its device"
    conditioner.save_config(tmp_path)
    again = type(conditioner).from_config(type(conditioner).load_config(tmp_path))
    again.load_state_dict(conditioner.state_dict(), strict=True)
    options = registry.option_names(type(conditioner))
    assert {name: again.config[name] for name in options} == {name: conditioner.config[name] for name in options}


def test_every_weight_learns_and_counts(
    conditioner: Conditioner, tell: Tell, draw_episode: DrawEpisode, base_standardizer: Standardizer
) -> None:
    tensors = parts(tell(draw_episode()))
    episode = base_standardizer.standardize(draw_episode()[:1])
    ((_, _, space),) = conditioner.in_spaces(episode, base_standardizer)
    tensors["logit_scale"] = torch.as_tensor(space.logit_scale)
    if any(value.requires_grad for value in tensors.values()):
        sum(value.square().sum() for value in tensors.values()).backward()  # type: ignore[union-attr]
    idle = [name for name, p in conditioner.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_permuting_classes_permutes_the_condition(tell: Tell, draw_episode: DrawEpisode) -> None:
    episode = draw_episode()
    expected = {name: value[:, ORDER] for name, value in parts(tell(episode)).items()}
    assert_same(parts(tell(permuted(episode, ORDER))), expected)


def test_the_order_of_support_images_does_not_matter(tell: Tell, draw_episode: DrawEpisode) -> None:
    episode = draw_episode()
    assert_same(parts(tell(shuffled_support(episode))), parts(tell(episode)))


def test_padding_changes_no_real_class(tell: Tell, draw_episode: DrawEpisode) -> None:
    episode = draw_episode()
    wide = tell(padded(episode))
    assert_same({name: value[:, :3] for name, value in parts(wide).items()}, parts(tell(episode)))
    assert not wide.mask[:, 3].any()
    assert wide.mask[:, :3].all()
    assert all(torch.isfinite(value).all() for value in parts(wide).values())


def test_a_batch_of_two_is_two_of_one(tell: Tell, draw_episode: DrawEpisode) -> None:
    episode = draw_episode()
    both = parts(tell(episode))
    for i in range(2):
        assert_same(parts(tell(episode[i : i + 1])), {name: value[i : i + 1] for name, value in both.items()})


def test_queries_are_not_looked_at(tell: Tell, draw_episode: DrawEpisode) -> None:
    episode = draw_episode()
    assert_same(parts(tell(blind(episode))), parts(tell(episode)))


@pytest.mark.parametrize(("ways", "shots"), [(2, 1), (7, 3), (20, (1, 5))])
def test_any_ways_and_shots(
    conditioner: Conditioner, tell: Tell, draw_episode: DrawEpisode, ways: int, shots: int | tuple[int, int]
) -> None:
    episode = draw_episode(ways=ways, shots=shots)
    condition = tell(episode)
    assert condition.tokens.shape == (2, ways, 8)
    unconditional = isinstance(conditioner, None_ | ClassSubset)  # one image a class, however many there are
    assert torch.equal(condition.counts, torch.ones(2, ways) if unconditional else episode.counts)
    for value in parts(condition, ("variance", "gradient")).values():
        assert value.shape == (2, ways, 8)
    if condition.variance is not None:
        assert (condition.variance >= 0).all()


def test_repeating_repeats_every_part(tell: Tell, draw_episode: DrawEpisode) -> None:
    condition = tell(draw_episode())
    repeated = condition.repeat(3)
    for field in fields(condition):
        value, many = getattr(condition, field.name), getattr(repeated, field.name)
        if field.name == "copies":
            assert (value, many) == (1, 3)
        elif not isinstance(value, torch.Tensor):
            assert many is value
        else:
            assert torch.equal(many, torch.stack([value] * 3, 1).flatten(0, 1))
            assert torch.equal(getattr(repeated.once(), field.name), value)
