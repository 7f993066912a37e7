"""Descent from discriminant analysis: along the data set's own loss, as far as scalars say, and nowhere untrained."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_up_data_sets import COUNTS, WIDTH, data_set
from torch.utils._python_dispatch import TorchDispatchMode

from weightgen.conditioners.dataset_statistics import DatasetStatistics
from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.denoisers.class_transformer import ClassTransformer
from weightgen.denoisers.learnt_descent import _LONGEST, _PACE, LearntDescent
from weightgen.errors import InputError
from weightgen.features.leave_one_out import loo_logits, loo_mask
from weightgen.features.standardizer import Standardizer
from weightgen.records import Condition, Episode, Statistics
from weightgen.schedulers.schedulers import build_scheduler

CHAIN = 50
TIME = torch.tensor([31])
Tell = Callable[..., Condition]


@pytest.fixture
def tell(diagonal_standardizer: Standardizer) -> Tell:
    """The condition of a data set, in float64."""
    base, conditioner = deepcopy(diagonal_standardizer).double(), DatasetStatistics()
    base.likelihood_scale.fill_(0.8)

    def condition(episode: Episode) -> Condition:
        inside, space = conditioner.adapted(episode, base)
        return conditioner(inside, space)

    return condition


def attuned(*, trained: bool = True, **options: int) -> LearntDescent:
    """`trained`: every weight is far from zero."""
    torch.manual_seed(2)
    denoiser = LearntDescent(num_train_timesteps=CHAIN, **options).double().eval()
    denoiser.set_noise_levels(build_scheduler("DDPMScheduler", {"num_train_timesteps": CHAIN}))
    if trained:
        for layer in denoiser.answer.parameters():
            torch.nn.init.normal_(layer, std=0.3)
    return denoiser.requires_grad_(False)


def steady(*, step: float, stretch: float = 0.0, rounds: int = 1) -> LearntDescent:
    """Answers the same whatever it is given."""
    denoiser = attuned(trained=False, rounds=rounds)
    denoiser.answer.bias.copy_(torch.tensor([step, stretch]).repeat(rounds))
    return denoiser


def noise(ways: int, seed: int = 6) -> torch.Tensor:
    return 1.5 * torch.randn(1, ways, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sample_of(whole: Episode, most: int) -> Episode:
    """As many images of every class, and the statistics of all."""
    away = (whole.support - whole.support_means()[:, :, None])[whole.support_mask]
    statistics = Statistics(whole.counts[0], whole.support_means()[0], away.mT @ away)
    return replace(
        whole, support=whole.support[:, :, :most], support_mask=whole.support_mask[:, :, :most], statistics=statistics
    )


def turned(condition: Condition, rotation: torch.Tensor) -> Condition:
    names = ("tokens", "means", "support")
    return replace(condition, **{name: getattr(condition, name) @ rotation for name in names})


def descent(rows: torch.Tensor, condition: Condition) -> torch.Tensor:
    """By autograd: downhill on the cross-entropy of left-out images, the mean of each class.

    With the same variance along all axes; a step is measured before the sharpness and that variance.
    """
    assert condition.variance is not None
    rows = rows.clone().requires_grad_()
    logits = condition.space.likelihood_scale * loo_logits(condition, rows)
    at_hand = condition.support_mask.sum(-1)
    loss = torch.zeros((), dtype=torch.float64)
    for c, k in (loo_mask(condition)[0]).nonzero().tolist():
        loss = loss - logits[0, c, k].log_softmax(-1)[c] / at_hand[0, c]
    loss.backward()
    assert rows.grad is not None
    return -rows.grad * (1 + condition.variance[0, 0, 0]) / condition.space.likelihood_scale


def even(condition: Condition) -> Condition:
    """The same variance along all axes and of all classes."""
    return replace(condition, variance=torch.full_like(condition.tokens, 0.4))


def test_untrained_it_is_the_form_alone_to_the_last_bit(tell: Tell) -> None:
    denoiser = attuned(trained=False)
    for counts in (COUNTS, (1, 1, 1), (50, 70)):
        condition, noisy = tell(data_set(counts)), noise(len(counts))
        assert torch.equal(denoiser(noisy, TIME, condition), denoiser.without_network(noisy, TIME, condition))


def test_the_form_is_that_of_the_other_denoisers(tell: Tell) -> None:
    """E[w | noisy row, data set]: precisions add."""
    condition, noisy = tell(data_set()), noise(5)
    other = ClassTransformer(feature_width=WIDTH, num_train_timesteps=CHAIN).double()
    other.set_noise_levels(build_scheduler("DDPMScheduler", {"num_train_timesteps": CHAIN}))
    torch.testing.assert_close(
        attuned().without_network(noisy, TIME, condition), other.without_network(noisy, TIME, condition)
    )


@pytest.mark.parametrize("most", [10, 3], ids=["all images", "a sample"])
def test_steps_go_down_the_loss_of_left_out_images(tell: Tell, most: int) -> None:
    """The mean of each class, whatever their numbers."""
    condition, noisy = even(tell(sample_of(data_set(seed=4), most))), 0.2 * noise(5)
    start = steady(step=0.0)(noisy, TIME, condition)
    down = descent(start, condition)
    longest = _LONGEST * start.norm(dim=-1, keepdim=True)
    expected = down / (down.norm(dim=-1, keepdim=True) / longest).clamp(min=1)
    assert 0 < (down == expected).all(-1).sum() < 5  # some are shortened
    moved = steady(step=0.7)(noisy, TIME, condition) - start
    torch.testing.assert_close(moved, 0.7 * _PACE * expected)


def test_every_round_starts_where_the_last_one_ended_with_a_step_of_its_own(tell: Tell) -> None:
    condition, noisy = even(tell(data_set())), noise(5)
    both = steady(step=0.7, rounds=2)
    both.answer.bias.copy_(torch.tensor([0.7, 0.0, 0.4, 0.1]))
    once, twice = steady(step=0.7)(noisy, TIME, condition), both(noisy, TIME, condition)
    down, longest = descent(once, condition), _LONGEST * once.norm(dim=-1, keepdim=True)
    capped = down / (down.norm(dim=-1, keepdim=True) / longest).clamp(min=1)
    torch.testing.assert_close(twice, once * (1 + 0.1 * _PACE) + 0.4 * _PACE * capped)


def test_steps_lower_the_loss_of_left_out_images(tell: Tell) -> None:
    condition, noisy = tell(data_set((30, 20, 40), apart=0.7)), noise(3)
    losses = []
    for rounds in (1, 4, 16):
        rows = steady(step=0.5, rounds=rounds)(noisy, TIME, condition)
        logits = condition.space.likelihood_scale * loo_logits(condition, rows)
        losses.append(-logits.log_softmax(-1).diagonal(dim1=1, dim2=3).mT[condition.support_mask].mean())
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 1.02 * losses[-1]


def test_stretching_scales_rows(tell: Tell) -> None:
    condition, noisy = tell(data_set()), noise(5)
    start = steady(step=0.0)(noisy, TIME, condition)
    torch.testing.assert_close(steady(step=0.0, stretch=0.5)(noisy, TIME, condition), (1 + 0.5 * _PACE) * start)


def test_where_nothing_can_be_judged_no_step_is_made(tell: Tell) -> None:
    condition, noisy = tell(data_set((1, 1, 1, 1))), noise(4)
    bold = steady(step=9.0, rounds=3)
    assert torch.equal(bold(noisy, TIME, condition), bold.without_network(noisy, TIME, condition))


def test_a_class_that_cannot_be_judged_is_still_pushed_away(tell: Tell) -> None:
    """By images of the others that look like it."""
    condition, noisy = tell(data_set((4, 1, 6), apart=0.7)), noise(3)
    moved = steady(step=1.0)(noisy, TIME, condition) - steady(step=0.0)(noisy, TIME, condition)
    assert moved[0, 1].norm() > 1e-3


def test_turning_the_space_turns_the_rows(tell: Tell) -> None:
    """Where variances are the same along all axes."""
    rotation, _ = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3)).double())
    condition, noisy = even(tell(data_set())), noise(5)
    denoiser = attuned()
    rows = denoiser(noisy, TIME, condition)
    torch.testing.assert_close(denoiser(noisy @ rotation, TIME, turned(condition, rotation)), rows @ rotation)
    assert (rows - denoiser.without_network(noisy, TIME, condition)).abs().max() > 0.01


def test_absent_shots_make_no_difference(tell: Tell) -> None:
    """Whatever they hold, and wherever they stand."""
    condition, noisy = tell(data_set()), noise(5)
    assert condition.loo_change is not None
    odd = torch.full((1, 5, 3, WIDTH), 9.0, dtype=torch.float64)
    wide = replace(
        condition,
        support=torch.cat([odd, condition.support], 2),
        support_mask=torch.cat([torch.zeros(1, 5, 3, dtype=torch.bool), condition.support_mask], 2),
        loo_change=torch.cat([odd[..., :5], condition.loo_change], 2),
    )
    denoiser = attuned()
    torch.testing.assert_close(denoiser(noisy, TIME, wide), denoiser(noisy, TIME, condition))


def test_classes_of_padding_have_rows_of_zeros(tell: Tell) -> None:
    condition, noisy = tell(data_set((3, 0, 5, 0))), noise(4)
    rows = attuned()(noisy, TIME, condition)
    assert not rows[:, [1, 3]].any()
    assert rows[:, [0, 2]].all()


def test_the_number_of_images_has_a_say(tell: Tell) -> None:
    """The same rows and images, of classes with ten times as many: other steps."""
    condition, noisy = even(tell(sample_of(data_set((6, 5, 4)), 4))), noise(3)
    more = replace(condition, counts=10 * condition.counts)
    denoiser = attuned()
    assert (denoiser(noisy, TIME, more) - denoiser(noisy, TIME, condition)).abs().max() > 1e-3


class Largest(TorchDispatchMode):
    """Notes the most elements that a result had."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.numel())
        return out


@pytest.mark.parametrize(("ways", "shots"), [(40, 15), (300, 2)])
def test_its_cost_is_that_of_all_images_at_all_rows(tell: Tell, ways: int, shots: int) -> None:
    """Nothing is as large as classes by classes by features, or images by classes by features."""
    condition, noisy = tell(data_set((shots,) * ways, queries=0)), noise(ways)
    denoiser = attuned()
    with Largest() as largest:
        rows = denoiser(noisy, TIME, condition)
    assert torch.isfinite(rows).all()
    images = condition.support_mask.numel()
    assert largest.elements <= images * ways


def test_it_comes_back_from_its_folder(tell: Tell, tmp_path: Path) -> None:
    condition, noisy = tell(data_set()), noise(5)
    denoiser = attuned(width=9, rounds=2)
    denoiser.save_pretrained(tmp_path)
    again = LearntDescent.from_pretrained(tmp_path, torch_dtype=torch.float64).eval()
    assert (again.config.width, again.config.rounds, again.rounds) == (9, 2, 2)
    assert torch.equal(again.signal, denoiser.signal)
    assert torch.equal(again(noisy, TIME, condition), denoiser(noisy, TIME, condition))


def test_a_conditioner_that_leaves_nothing_out_is_refused(
    diagonal_standardizer: Standardizer, draw_episode: Callable[..., Episode]
) -> None:
    condition = TaskPrototypes()(diagonal_standardizer.standardize(draw_episode(batch=1)), diagonal_standardizer)
    with pytest.raises(InputError, match="needs a conditioner that leaves images out: dataset_statistics"):
        LearntDescent()(torch.zeros(1, 3, WIDTH), TIME, condition)


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds is 0; it must be 1 or more"):
        LearntDescent(rounds=0)
