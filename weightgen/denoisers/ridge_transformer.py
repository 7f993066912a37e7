"""The denoiser of the universal generator: ridge regression whose numbers, and what it adds, come from invariants."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from torch import Tensor, nn

from weightgen.errors import check_positive
from weightgen.features.ridge_rows import (
    FACT_DEVIATIONS,
    FACTS,
    USUAL_FACTS,
    SupportFacts,
    WeightedImages,
    centred,
    common_factor,
    crowding,
    ridge_penalty,
)
from weightgen.interfaces import Denoise, Denoiser
from weightgen.records import Condition

# Chosen on ten data sets and two backbones.
_SHARE = 0.75  # of the mean of all images that is the origin of the cosines by which unlabelled images are assigned
_LOGIT_SCALE = 10.0  # of these cosines
_OUTSIDE = 0.15  # the cosine of an image that is of no class
_PENALTY = 0.2  # with unlabelled images, whose classes are guesses; without them `ridge_penalty`
_WORTH = 0.3  # of an unlabelled image, in support images
_UNKNOWN = 0.5  # variance that one image leaves in a row of unit scale
_FARTHEST = 4.0  # a fact from what is usual, in deviations: nothing was learnt from 900 classes
_FURTHEST = 3.0  # logarithm of the largest factor on any of these
_AT_ONCE = 2**18  # numbers of the hidden layer of pairs of classes, a MiB
_MOST_SHARED = 4.0  # in spaces learnt from it is 1 to 4, in single episodes up to 5.6
_IMAGE_FACTS = 7
_PAIR_FACTS = 8


class RidgeTransformer(Denoiser):
    """Any backbone, any data set: all it sees are numbers that no rotation of the feature space changes.

    It starts from ridge regression on images at unit length, whose targets sum to zero over classes, after rounds of
    expectation–maximisation on the unlabelled images; the noisy row joins in by its precision. Three small networks
    correct it: one sets penalty, logit_scale, worth and the like from `SupportFacts`; one says how far each unlabelled
    image is to be trusted; one adds the prototypes of other classes to a row, with coefficients for each pair of
    classes. None has a weight for a feature, so the width of the features may be any.

    Options:
        width: of the networks. rounds: of expectation–maximisation, where there are unlabelled images.
        by_evidence: what the networks add counts by the share of images beyond one a class, unlabelled ones among them;
            one image of each class, and nothing else, says too little of a feature space to correct anything by.
    """

    prediction_type = "sample"
    uses_unlabelled = True
    signal: Tensor
    shift: Tensor
    spread: Tensor

    @register_to_config
    def __init__(
        self, *, num_train_timesteps: int = 1000, width: int = 48, rounds: int = 6, by_evidence: bool = False
    ) -> None:
        super().__init__()
        check_positive(width=width, rounds=rounds)
        self.rounds, self.by_evidence = rounds, by_evidence
        self.register_buffer("signal", torch.ones(num_train_timesteps))
        self.register_buffer("shift", torch.tensor(USUAL_FACTS))
        self.register_buffer("spread", torch.tensor(FACT_DEVIATIONS))
        self.numbers = _network(FACTS, width, 7)
        self.trust = _network(_IMAGE_FACTS + FACTS, width, 1)
        self.pairs = _network(_PAIR_FACTS + FACTS, width, 1)

    def forward(
        self, noisy: Float[Tensor, "batch ways width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch ways width"]:
        return self.prepared(condition, timestep)(noisy, timestep, condition)

    def prepared(self, condition: Condition, times: Int[Tensor, " calls"]) -> Denoise:
        with torch.autocast(condition.tokens.device.type, enabled=False):  # vectors are data, not activations
            return self._beside_noise(*self._rows(condition, learnt=True))

    def without_network(
        self, noisy: Float[Tensor, "batch ways width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch ways width"]:
        """Ridge regression after expectation–maximisation, and the noisy row, by their precisions."""
        return self._beside_noise(*self._rows(condition, learnt=False))(noisy, timestep, condition)

    def _rows(self, condition: Condition, *, learnt: bool) -> tuple[Tensor, Tensor]:
        """What the images say alone, along the axes, and the variance that this leaves."""
        facts = SupportFacts.of(condition)
        table = ((facts.table - self.shift) / self.spread).clamp(-_FARTHEST, _FARTHEST)
        numbers = self.numbers(table).clamp(-_FURTHEST, _FURTHEST) if learnt else table.new_zeros(len(table), 7)
        share = self._evidence(condition) if self.by_evidence else table.new_ones(len(table))
        numbers = share[:, None] * numbers
        labelled = WeightedImages.labelled(condition)
        images = WeightedImages.with_crops(condition)
        if condition.unlabelled.shape[1]:
            images = images.joined(self._assigned(labelled, condition, numbers, table, learnt=learnt))
        beside = condition.unlabelled_mask.any(-1)
        penalty = _PENALTY * numbers[:, 0].exp() * crowding(condition) * common_factor(condition).square()
        rows, _ = images.rows(torch.where(beside, penalty, ridge_penalty(condition)))
        if learnt:
            rows = rows + share[:, None, None] * self._from_others(rows, images, facts, table, condition)
        length = condition.space.prior_variance.sum().sqrt()  # of prototypes, whose entries have unit scale
        rows = length * nn.functional.normalize(rows, dim=-1)
        unknown = _UNKNOWN * numbers[:, 1].exp() * common_factor(condition).square()
        return rows, unknown[:, None, None] / condition.counts.clamp(min=1)[..., None]

    def _evidence(self, condition: Condition) -> Float[Tensor, " batch"]:
        images = condition.counts.sum(-1) + condition.unlabelled_mask.sum(-1)
        return 1 - condition.mask.sum(-1) / images.clamp(min=1)

    def _beside_noise(self, rows: Tensor, unknown: Tensor) -> Denoise:
        def given_noisy(noisy: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
            signal = self.signal[timestep][:, None, None]
            # E[w | ridge row, noisy row] multiplied out by 1 − ᾱ, which may be 0
            seen = condition.space.along_axes(noisy)
            both = ((1 - signal) * rows + unknown * signal.sqrt() * seen) / (1 - signal + unknown * signal)
            return condition.space.from_axes(both * condition.mask[..., None])

        return given_noisy

    def _assigned(
        self, labelled: WeightedImages, condition: Condition, numbers: Tensor, table: Tensor, *, learnt: bool
    ) -> WeightedImages:
        """The unlabelled images with the classes that rounds of expectation–maximisation give them."""
        there = condition.unlabelled_mask[..., None].to(table)
        extra = nn.functional.normalize(condition.unlabelled, dim=-1) * there
        real, shown = condition.mask, condition.support_mask.sum(-1).to(table)
        logit_scale, worth, outside, share = (
            *(_LOGIT_SCALE * numbers[:, 2].exp(), _WORTH * numbers[:, 3].exp(), _OUTSIDE + 0.3 * numbers[:, 4]),
            1 - torch.sigmoid(-numbers[:, 5] - torch.logit(torch.tensor(_SHARE))) * common_factor(condition),
        )
        logit_scale, worth, outside, share = (x[:, None, None] for x in (logit_scale, worth, outside, share))
        support = labelled.images.unflatten(1, condition.support_mask.shape[1:])
        number = shown.sum(-1) + there.sum((1, 2))
        origin = share * (support.sum((1, 2)) + extra.sum(1))[:, None] / number[:, None, None]
        present = condition.support_mask[..., None]
        own = (nn.functional.normalize(support - origin[:, None], dim=-1) * present).sum(2)
        seen = nn.functional.normalize(extra - origin, dim=-1) * there
        prototypes, weights = own / shown.clamp(min=1)[..., None], seen.new_zeros(*seen.shape[:2], real.shape[1])
        for _ in range(self.rounds):
            cosine = seen @ nn.functional.normalize(prototypes, dim=-1).mT  # batch extra ways
            logits = (logit_scale * cosine).masked_fill(~real[:, None], torch.finfo(cosine.dtype).min)
            weights = torch.cat([logits, (logit_scale * outside).expand_as(logits[..., :1])], -1).softmax(-1) * there
            trust = self._trust(weights, cosine, real, table) if learnt else 1.0
            weights = weights[..., :-1] * trust
            counted = shown + worth[..., 0] * weights.sum(1)
            prototypes = (own + worth * (weights.mT @ seen)) / counted.clamp(min=1e-6)[..., None]
        total = weights.sum(-1)
        targets = centred(weights / total[..., None].clamp(min=1e-6), condition)
        return WeightedImages(extra, targets, worth[..., 0] * numbers[:, 6, None].exp() * total)

    def _trust(self, probabilities: Tensor, cosine: Tensor, real: Tensor, table: Tensor) -> Tensor:
        """How far each unlabelled image counts, 0 to 2; 1 before training."""
        best, masked = probabilities[..., :-1].topk(2, -1).values, cosine.masked_fill(~real[:, None], -1.0)
        near = masked.topk(2, -1).values
        entropy = torch.special.entr(probabilities.clamp(min=1e-6)).sum(-1)  # at 0 it has no gradient
        inputs = torch.stack([*best.unbind(-1), *near.unbind(-1), near[..., 0] - near[..., 1], entropy], -1)
        inputs = torch.cat([inputs, probabilities[..., -1:]], -1)
        facts = torch.cat([inputs, table[:, None].expand(*inputs.shape[:2], -1)], -1)
        return 2 * self.trust(facts).sigmoid()

    def _from_others(
        self, rows: Tensor, images: WeightedImages, facts: SupportFacts, table: Tensor, condition: Condition
    ) -> Tensor:
        """What the prototypes of all classes add to each row.

        What they have in common moves all logits of a class alike, which helps where some classes have few images; of
        features that share much it would be all that counts (`_kept`).
        """
        real, shots = condition.mask, condition.counts.clamp(min=1).log() / 2
        weight = images.weight[..., None] * (images.targets * (images.targets > 0))
        prototypes = (weight / weight.sum(1, keepdim=True).clamp(min=1e-6)).mT @ images.images
        unit = nn.functional.normalize(rows, dim=-1)
        near, of_class = unit @ unit.mT, (facts.nearest, facts.loo_margin, shots)

        def coefficients(which: slice) -> Tensor:
            planes = [facts.cosines[:, which], near[:, which]]
            for fact in of_class:
                planes += [fact[:, which, None].expand_as(planes[0]), fact[:, None].expand_as(planes[0])]
            of_all = table[:, None, None].expand(*planes[0].shape, -1)
            return self.pairs(torch.cat([torch.stack(planes, -1), of_all], -1))[..., 0]

        # strips that fit into a cache; where a gradient is asked for it has to know every pair anyway
        number = len(real[0])
        strip = number if torch.is_grad_enabled() else max(1, _AT_ONCE // (real.numel() * self.config.width))
        each = [coefficients(slice(start, start + strip)) for start in range(0, number, strip)]
        scale = (rows.norm(dim=-1).sum(-1) / real.sum(-1).square())[:, None, None]
        common = prototypes.sum(1, keepdim=True) / real.sum(-1)[:, None, None]
        prototypes = prototypes - (1 - _kept(rows, condition))[:, None, None] * common
        return (torch.cat(each, 1) * (real[:, :, None] & real[:, None]) * scale) @ prototypes


def _kept(rows: Tensor, condition: Condition) -> Float[Tensor, " batch"]:
    """How much of what prototypes have in common counts: all of it, or as much as there was in spaces learnt from.

    That is measured by what it adds to a logit, in standard deviations of the logits that rows give to the images.
    """
    labelled = WeightedImages.labelled(condition)
    share = labelled.weight[..., None] / labelled.weight.sum(1)[:, None, None]
    common = (share * labelled.images).sum(1, keepdim=True)
    apart = (((labelled.images - common) @ rows.mT).square() * share).sum((1, 2))
    added = rows.norm(dim=-1).sum(-1) / condition.mask.sum(-1) * common.norm(dim=-1)[:, 0]
    return (_MOST_SHARED * apart.clamp(min=1e-12).sqrt() / added.clamp(min=1e-12)).clamp(max=1)


def _network(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """Untrained, it answers 0."""
    last = nn.Linear(width, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)
