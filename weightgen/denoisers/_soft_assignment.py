"""Unlabelled images in a denoiser: expectation–maximisation whose expectation step is learnt."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightgen.features.gaussian_posterior import GaussianPosterior
from weightgen.records import Condition

_FACTS = 15
# Both chosen on folds of the base classes of Omniglot and CIFAR-FS.
_DISTRACTORS = 0.0  # log prior odds of an image being of no class of the episode
_WORTH = 0.4  # of an unlabelled image, counted in support images
_PACE = 5.0  # how much faster these few numbers learn than the weights of a network at the same learning rate
_SURE = -10.0  # log-probabilities below this are all the same "no"


class SoftAssignment(nn.Module):
    """Rounds of: assign every unlabelled image to the classes as they are believed to be, then believe it.

    The assignment is Bayes' rule for Gaussian classes and one broad Gaussian of distractors. What is learnt is how far
    to trust it: for each round a scale, the odds of distractors, the worth of an image and how far the classes'
    shares so far count as prior odds; and a small network of
    invariant scalars (probabilities, margin, cosine, mass of the class, shots, share of distractors …) that weighs each
    assignment. It sees no coordinates, so it cannot tell one class or feature from another.
    """

    def __init__(self, *, rounds: int, width: int = 24) -> None:
        super().__init__()
        self.rounds = rounds
        self.log_scale = nn.Parameter(torch.zeros(rounds))
        self.distractors = nn.Parameter(torch.zeros(rounds))
        self.log_worth = nn.Parameter(torch.zeros(rounds))
        self.shares = nn.Parameter(torch.zeros(rounds))
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.reliability = nn.Sequential(nn.Linear(_FACTS, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)

    def forward(self, signal: Float[Tensor, "batch 1 1"], condition: Condition, *, learnt: bool) -> GaussianPosterior:
        """The posterior after all rounds; that of the condition itself without unlabelled images.

        `learnt` False leaves out what training has learnt.
        """
        first = posterior = GaussianPosterior.of(condition)
        if not condition.unlabelled.shape[1]:
            return posterior
        for number in range(self.rounds):
            rows = posterior.mean
            log_odds = self._log_probabilities(rows, posterior, condition, number if learnt else None)
            weights = _WORTH * log_odds[..., :-1].exp() * condition.unlabelled_mask[..., None]
            if learnt:
                facts = _facts(log_odds, rows, condition, signal, round_share=number / self.rounds)
                trust = 2 * (_PACE * self.reliability(facts)[..., 0]).sigmoid()
                weights = weights * trust * (_PACE * self.log_worth[number]).exp()
            posterior = first.with_images(condition.unlabelled, weights, condition.space.noise_variance)
        return posterior

    def _log_probabilities(
        self,
        rows: Float[Tensor, "batch ways feature"],
        posterior: GaussianPosterior,
        condition: Condition,
        number: int | None,
    ) -> Float[Tensor, "batch extra ways_and_distractors"]:
        """Of each class, and last of a distractor, for every unlabelled image."""
        space, images, real = condition.space, condition.unlabelled, condition.mask[..., None]
        unknown = (posterior.variance * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
        variance = space.noise_variance + unknown  # (batch, 1, feature), shared as in the head itself
        logits = images @ (rows / variance).mT - (rows.square() / variance).sum(-1)[:, None] / 2
        broad = space.noise_variance + space.prior_variance
        distractor = (images.square() * (1 / variance - 1 / broad)).sum(-1) / 2 + (variance / broad).log().sum(-1) / 2
        logits, distractor = space.likelihood_scale * logits, space.likelihood_scale * distractor + _DISTRACTORS
        if number is not None:
            sharper = (_PACE * self.log_scale[number]).exp()
            shares = posterior.unlabelled / posterior.unlabelled.sum(-1, keepdim=True).clamp(min=1e-3)
            prior = (shares + 1 / real.sum(1)).log()[:, None]  # half of it even shares, which keeps it finite
            logits = sharper * logits + _PACE * self.shares[number] * prior
            distractor = sharper * distractor + _PACE * self.distractors[number]
        logits = logits.masked_fill(~condition.mask[:, None], torch.finfo(logits.dtype).min)
        return torch.cat([logits, distractor[..., None]], -1).log_softmax(-1)


def _facts(
    log_odds: Float[Tensor, "batch extra ways_and_distractors"],
    rows: Float[Tensor, "batch ways feature"],
    condition: Condition,
    signal: Float[Tensor, "batch 1 1"],
    *,
    round_share: float,
) -> Float[Tensor, "batch extra ways facts"]:
    """Scalars of every pair of image and class that no rotation and no renaming of classes changes."""
    there = condition.unlabelled_mask[..., None].to(log_odds.dtype)
    probability = log_odds.exp() * there
    own, distractor = probability[..., :-1], probability[..., -1:]
    best = own.topk(min(2, own.shape[-1]), -1).values
    images = there.sum(1, keepdim=True).clamp(min=1)  # (batch, 1, 1)
    ways = condition.mask.sum(-1)[:, None, None].to(own.dtype)
    cosine = nn.functional.normalize(condition.unlabelled, dim=-1) @ nn.functional.normalize(rows, dim=-1).mT
    mass = own.sum(1, keepdim=True)
    facts = (
        *(own, log_odds[..., :-1].clamp(min=_SURE) / 3, best[..., :1], own - best[..., :1]),
        *(best[..., :1] - best[..., -1:], cosine, mass / images * ways, condition.counts.clamp(min=1).log()[:, None]),
        *(distractor, distractor.sum(1, keepdim=True) / images, (images / ways).log1p() / 2, ways.log() / 3),
        *((own * cosine).sum(1, keepdim=True) / mass.clamp(min=1e-3), signal, own.new_full((1, 1, 1), round_share)),
    )
    return torch.stack([fact.expand_as(own) for fact in facts], -1)
