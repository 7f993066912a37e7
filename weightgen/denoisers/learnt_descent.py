"""A denoiser for whole data sets: discriminant analysis, corrected by descent whose steps are learnt."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from weightgen.errors import InputError, check_positive
from weightgen.features.gaussian_posterior import mean_given_noisy
from weightgen.features.leave_one_out import loo_logits, loo_mask
from weightgen.interfaces import Denoiser
from weightgen.records import Condition

_FACTS_OF_ALL = 10
_FACTS_OF_CLASS = 6
_LONGEST = 0.3  # step, in lengths of its row: beyond, a gradient of few images is no guide
_PACE = 0.3  # of the first steps that an untrained network's outputs of size 1 come to


class LearntDescent(Denoiser):
    """Rows by steps down the data set's own loss; how far to go is learnt from other data sets.

    It starts from the exact denoiser of a linear-Gaussian model, noisy row and condition weighted by their precisions.
    In a space whitened by the data set that is discriminant analysis, and few steps along the gradient of the
    cross-entropy go most of the way to logistic regression, for whitened features are the best conditioned. Every
    labelled image is judged by rows computed without it (`loo_change`), so that the gradient does not flatter the
    rows. MetaDiff's condition, the gradient of the support loss, is taken at the estimated clean rows.

    The network sees scalars alone: numbers of images, classes and features, the leave-one-out accuracy, how
    long rows and gradients are. It pools over classes by their mean, so that cost is linear in their number, and
    answers with the length of each step, for each class. It cannot hold a class in its weights.

    Options:
        width: of the network. rounds: steps of descent in one call.
    """

    prediction_type = "sample"
    needs_variance = True
    needs_loo = True
    sees_coordinates = False
    signal: Tensor

    @register_to_config
    def __init__(self, *, num_train_timesteps: int = 1000, width: int = 32, rounds: int = 3) -> None:
        super().__init__()
        check_positive(width=width, rounds=rounds)
        self.rounds = rounds
        self.register_buffer("signal", torch.ones(num_train_timesteps))
        self.embed = nn.Sequential(nn.Linear(_FACTS_OF_ALL + _FACTS_OF_CLASS, width), nn.SiLU())
        self.mix = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.answer = nn.Linear(width, 2 * rounds)  # untrained, it is the form alone
        nn.init.zeros_(self.answer.weight)
        nn.init.zeros_(self.answer.bias)

    def forward(
        self, noisy: Float[Tensor, "batch ways width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch ways width"]:
        rows = mean_given_noisy(condition, noisy, self.signal[timestep][:, None, None])  # along the axes, as images are
        if condition.loo_change is None:
            raise InputError("learnt_descent needs a conditioner that leaves images out: dataset_statistics")
        judged, share = loo_mask(condition), _shares(condition)
        when = torch.stack([self.signal[timestep], timestep / len(self.signal)], -1)
        for number in range(self.rounds):
            gradient, judged_well = _descent(rows, condition, judged, share)
            facts = _facts(rows, gradient, judged_well, condition, judged, when)
            own = self.embed(facts)  # batch ways width
            mask = condition.mask[..., None]
            pooled = (own * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
            hidden = self.mix(torch.cat([own, pooled.expand_as(own)], -1))
            step, stretch = (_PACE * self.answer(hidden)).unflatten(-1, (self.rounds, 2))[..., number, :].split(1, -1)
            rows = (rows * (1 + stretch) + step * gradient) * mask
        return condition.space.from_axes(rows)

    def without_network(
        self, noisy: Float[Tensor, "batch ways width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch ways width"]:
        """E[w | noisy row, data set] of the linear-Gaussian model."""
        mean = mean_given_noisy(condition, noisy, self.signal[timestep][:, None, None])
        return condition.space.from_axes(mean)


def _shares(condition: Condition) -> Float[Tensor, "batch ways shots"]:
    """Weights of the images at hand: those of each class add up to 1, for many images make no class more likely."""
    there = condition.support_mask
    return there / there.sum(-1, keepdim=True).clamp(min=1)


def _descent(
    rows: Float[Tensor, "batch ways width"],
    condition: Condition,
    judged: Bool[Tensor, "batch ways shots"],
    share: Float[Tensor, "batch ways shots"],
) -> tuple[Float[Tensor, "batch ways width"], Float[Tensor, "batch ways 3"]]:
    """Downhill from the rows on the leave-one-out cross-entropy; and how well each class's images are judged."""
    logits = condition.space.likelihood_scale * loo_logits(condition, rows)
    log_probability = logits.log_softmax(-1)
    own = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)[None, :, None]
    weight = (share * judged)[..., None]
    residual = (own - log_probability.exp()) * weight  # batch ways shots ways
    pull = torch.einsum("bwsv,bwsf->bvf", residual, condition.support)
    gradient = pull - residual.sum((1, 2))[..., None] * rows
    far = gradient.norm(dim=-1, keepdim=True) / (_LONGEST * rows.norm(dim=-1, keepdim=True)).clamp(min=1e-8)
    gradient = gradient / far.clamp(min=1)
    loss = -log_probability.diagonal(dim1=1, dim2=3).mT.clamp(min=-20)
    right = (logits.argmax(-1) == torch.arange(rows.shape[1], device=rows.device)[None, :, None]).to(rows)
    number = judged.sum(-1).clamp(min=1)
    judged_well = torch.stack([(loss * judged).sum(-1) / number, (right * judged).sum(-1) / number, judged.any(-1)], -1)
    return gradient, judged_well


def _facts(
    rows: Float[Tensor, "batch ways width"],
    gradient: Float[Tensor, "batch ways width"],
    judged_well: Float[Tensor, "batch ways 3"],
    condition: Condition,
    judged: Bool[Tensor, "batch ways shots"],
    when: Float[Tensor, "batch 2"],
) -> Float[Tensor, "batch ways facts"]:
    """Scalars that no rotation and no renaming of classes changes, each of about unit size."""
    width, counts, mask = rows.shape[-1], condition.counts, condition.mask
    ways = mask.sum(-1).to(rows)
    images = counts.sum(-1)
    average = (judged_well * mask[..., None]).sum(1) / ways.clamp(min=1)[:, None]
    of_all = (
        *(images.clamp(min=1).log() / 4, ways.log() / 2, (images / width).log() / 2, average[:, 0], average[:, 1]),
        *(average[:, 2], condition.space.likelihood_scale.clamp(min=1e-6).log().expand_as(ways) / 2),
        *(when[:, 0], when[:, 1], judged.sum((1, 2)).clamp(min=1).log() / 4),
    )
    of_class = (
        *(counts.clamp(min=1).log() / 2, judged_well[..., 0], judged_well[..., 1]),
        *(
            (rows.norm(dim=-1) + 1).log(),
            gradient.norm(dim=-1) / rows.norm(dim=-1).clamp(min=1e-8),
            counts * ways[:, None] / images[:, None],
        ),
    )
    shared = torch.stack(of_all, -1)[:, None].expand(-1, rows.shape[1], -1)
    return torch.cat([shared, torch.stack(of_class, -1)], -1)
