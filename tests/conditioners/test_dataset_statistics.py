"""A data set as its statistics: the same whether they come with it or are made of its images."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from episode_changes import blind, padded
from made_up_data_sets import COUNTS, data_set
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from weightgen.conditioners.dataset_statistics import DatasetStatistics
from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.episodes.dataset_episode import dataset_episode
from weightgen.features.adapted_space import AdaptedSpace
from weightgen.features.leave_one_out import loo_logits
from weightgen.features.standardizer import Standardizer
from weightgen.features.temperature import fit_scale
from weightgen.records import Condition, Episode
from weightgen.spaces.class_rows import RowReader

SPACE = ("centre", "whitening", "images")


@pytest.fixture
def base(base_standardizer: Standardizer) -> Standardizer:
    doubled = deepcopy(base_standardizer).double()
    doubled.likelihood_scale.fill_(0.37)
    return doubled


def conditioned(episode: Episode, base: Standardizer) -> tuple[Condition, AdaptedSpace]:
    conditioner = DatasetStatistics()
    inside, space = conditioner.adapted(episode, base)
    return conditioner(inside, space), space


def streamed(episode: Episode, *, most: int, batch: int = 4) -> Episode:
    """The images of an episode, in one pass."""
    there = episode.support_mask[0]
    values, labels = episode.support[0][there], torch.arange(len(there)).repeat_interleave(there.sum(-1))
    draw = torch.Generator().manual_seed(3)
    return dataset_episode(values.split(batch), labels, classes=len(there), generator=draw, most=most)


def test_statistics_of_one_pass_are_those_of_the_images(base: Standardizer) -> None:
    """Everything sampled: the condition is the same up to the order of a class's images."""
    plain = data_set()
    (one, space), (other, again) = conditioned(plain, base), conditioned(streamed(plain, most=1000), base)
    for name in SPACE:
        torch.testing.assert_close(again.tensors()[name], space.tensors()[name])
    assert again.logit_scale == pytest.approx(space.logit_scale, rel=1e-5)
    for name in ("tokens", "means", "variance", "counts"):
        torch.testing.assert_close(getattr(other, name), getattr(one, name))
    left = [condition.loo_change[condition.support_mask] for condition in (one, other)]  # type: ignore[index]
    order = [condition.support[condition.support_mask][:, 0].argsort() for condition in (one, other)]
    torch.testing.assert_close(left[1][order[1]], left[0][order[0]])


def test_a_sample_leaves_tokens_and_space_as_they_are(base: Standardizer) -> None:
    plain = data_set()
    (one, space), (other, again) = conditioned(plain, base), conditioned(streamed(plain, most=10), base)
    assert other.support_mask.sum() == 2 + 2 + 1 + 2 + 2
    torch.testing.assert_close(other.tokens, one.tokens)
    torch.testing.assert_close(again.whitening.matrix(), space.whitening.matrix())
    assert torch.equal(other.counts, torch.tensor([COUNTS]).double())


def test_the_mean_of_what_is_sampled_is_not_taken_for_the_classs(base: Standardizer) -> None:
    plain = data_set((40, 30, 50))
    condition, _ = conditioned(streamed(plain, most=6), base)
    sampled = condition.support.sum(2) / 2
    assert (condition.means - sampled).abs().max() > 0.3


def test_its_scale_is_positive_and_finite(base: Standardizer) -> None:
    """Also where all left-out images are named, or none is, or one class alone can be judged."""
    apart, same = data_set((3, 4)), data_set((5, 5))
    apart = replace(
        apart, support=apart.support + 1000 * torch.arange(2)[:, None, None] * apart.support_mask[..., None]
    )
    same = replace(same, support=same.support[:, :1].expand(-1, 2, -1, -1))
    for episode in (apart, same, data_set((2, 1)), data_set(), padded(data_set())):
        logit_scale = conditioned(episode, base)[1].logit_scale
        assert 0 < logit_scale < float("inf")


def test_where_nothing_can_be_left_out_the_base_classes_scale_stands(base: Standardizer) -> None:
    assert conditioned(data_set((1, 1, 1)), base)[1].logit_scale == pytest.approx(0.37)


def test_the_more_images_the_less_the_base_classes_scale_counts(base: Standardizer) -> None:
    other = deepcopy(base)
    other.likelihood_scale.fill_(37.0)
    ratios = [
        conditioned(data_set(counts), other)[1].logit_scale / conditioned(data_set(counts), base)[1].logit_scale
        for counts in ((2, 2), (90, 60))
    ]
    assert ratios[0] == pytest.approx(100 ** (10 / 14), rel=1e-6)
    assert ratios[1] == pytest.approx(100 ** (10 / 160), rel=1e-6)


def test_its_scale_is_honest_on_new_images(base: Standardizer) -> None:
    """Of the same classes; the cross-entropy is near the least that any scale gives."""
    episode = data_set((40, 60, 50, 30), apart=0.7, queries=400)
    conditioner = DatasetStatistics()
    inside, space = conditioner.adapted(episode, base)
    condition = conditioner(inside, space)

    def loss(factor: float) -> float:
        reader = RowReader(replace(space, logit_scale=factor * space.logit_scale), "gaussian")
        logits = reader.standardised_head(condition.tokens[:, None], condition.counts).logits(inside.query)
        return float(torch.nn.functional.cross_entropy(logits[0], inside.query_labels[0]))

    assert loss(1.0) < 1.02 * min(loss(factor) for factor in (0.5, 0.7, 0.85, 1.2, 1.4, 2.0))


def test_its_scale_is_not_that_of_images_judged_by_themselves(base: Standardizer) -> None:
    """Of few images in many dimensions these look far too sure."""
    base.likelihood_scale.fill_(1.0)
    condition, space = conditioned(data_set((9, 12, 10, 8), apart=0.7), base)
    rows = condition.space.along_axes(condition.tokens)
    flattered = loo_logits(replace(condition, loo_change=torch.zeros_like(condition.loo_change)), rows)
    labels = torch.arange(4).repeat_interleave(torch.tensor([9, 12, 10, 8]))
    assert space.logit_scale < 0.6 * fit_scale(flattered[condition.support_mask][None], labels[None])


def test_of_many_images_it_is_discriminant_analysis(base: Standardizer) -> None:
    episode = data_set((400, 300, 500, 600), apart=0.7, queries=200)
    conditioner = DatasetStatistics(prior_images=5.0)
    inside, space = conditioner.adapted(episode, base)
    condition = conditioner(inside, space)
    head = RowReader(space, "gaussian").standardised_head(condition.tokens[:, None], condition.counts)
    labels = torch.arange(4).repeat_interleave(torch.tensor([400, 300, 500, 600]))
    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=[0.25] * 4)
    theirs.fit(episode.support[0][episode.support_mask[0]].numpy(), labels.numpy())
    said = torch.from_numpy(theirs.predict(episode.query[0].numpy()))
    assert (head.logits(inside.query)[0].argmax(-1) == said).double().mean() > 0.98


def test_in_the_space_of_base_classes_it_is_the_plain_condition(
    base_standardizer: Standardizer, draw_episode: Callable[..., Episode]
) -> None:
    """Which leaves nothing out, for there the covariance does not come from the images."""
    episode = base_standardizer.standardize(draw_episode())
    plain = TaskPrototypes()(episode, base_standardizer)
    condition = DatasetStatistics()(episode, base_standardizer)
    assert condition.loo_change is None
    for name in ("tokens", "means", "variance", "counts", "support"):
        assert torch.equal(getattr(condition, name), getattr(plain, name))
    assert condition.space == plain.space


def test_queries_are_not_looked_at(base: Standardizer) -> None:
    (one, space), (other, again) = conditioned(data_set(), base), conditioned(blind(data_set()), base)
    assert torch.equal(one.tokens, other.tokens)
    assert torch.equal(one.loo_change, other.loo_change)  # type: ignore[arg-type]
    assert again.logit_scale == space.logit_scale


def test_making_a_space_asks_for_no_gradient(base: Standardizer) -> None:
    """Neither of a standardizer whose buffers, nor of images whose backbone, is being followed."""
    episode = data_set()
    inside, space = DatasetStatistics().adapted(replace(episode, support=episode.support.requires_grad_()), base)
    assert not inside.support.requires_grad
    assert not space.whitening.matrix().requires_grad


@pytest.mark.parametrize("number", [0.0, -1.0, float("nan")])
def test_a_prior_of_no_images_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="it must be above 0"):
        DatasetStatistics(prior_images=number)


def test_the_prior_counts_for_as_many_images_as_it_says(base: Standardizer) -> None:
    spaces = (DatasetStatistics(prior_images=number).adapted(data_set(), base) for number in (7.0, 28.0))
    (_, one), (_, other) = spaces
    assert float(other.images - one.images) == pytest.approx(21)


def test_the_condition_that_the_scale_was_found_by_is_not_computed_again(base: Standardizer) -> None:
    conditioner = DatasetStatistics()
    inside, space = conditioner.adapted(data_set(), base)
    again, anew = conditioner(inside, space), conditioner(inside, replace(space, known=None))
    assert again.support is space.known[1].support  # type: ignore[index]
    for name in ("tokens", "means", "variance", "support", "loo_change"):
        assert torch.equal(getattr(again, name), getattr(anew, name))
    assert again.space.likelihood_scale == anew.space.likelihood_scale
