"""Ridge regression from images at unit length to class rows, leave-one-out predictions, and what they tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from scipy.linalg import helmert
from torch import Tensor

from weightgen.records import Condition

_LEAST_PENALTY = 1e-3
_DOUBLE_BELOW = 2e-3  # a penalty of images so alike that single precision loses what sets them apart
_CROWDED = 16.0
_MOST_ALIKE = 0.7  # mean cosine of images of different classes up to which there were spaces to choose numbers by
_FOLDS = 5  # of the labelled images; three do nearly as well
_OWN_SHARE = 0.5  # of an image's weight, the rest is its crops'; chosen among five on eight data sets, two backbones
USUAL_FACTS = (0.94, 1.03, 0.24, 0.51, -0.25, 0.18, 0.01, 0.49, 0.17, 0.24, 0.67)
"""Means of the columns of `SupportFacts.table` over episodes of 80 feature spaces."""
FACT_DEVIATIONS = (0.31, 0.93, 0.41, 0.2, 0.23, 0.1, 0.35, 0.41, 0.23, 0.22, 0.47)
"""Standard deviations of the same."""
FACTS = len(USUAL_FACTS)
"""Numbers in `SupportFacts.table`."""


@dataclass(frozen=True)
class WeightedImages:
    """Images at unit length with soft labels.

    images: 0 where there is none. targets: one-hot or soft, less the even share (`centred`): what all images have in
    common then cancels, and no origin has to be chosen. weight: 0 where there is none.
    """

    images: Float[Tensor, "batch images feature"]
    targets: Float[Tensor, "batch images ways"]
    weight: Float[Tensor, "batch images"]

    @classmethod
    def labelled(cls, condition: Condition) -> WeightedImages:
        """Those of a condition; every class weighs as much as any other, however many images it has."""
        there, shots = condition.support_mask, condition.support_mask.shape[2]
        images = torch.nn.functional.normalize(condition.support, dim=-1) * there[..., None]
        shown = there.sum(-1).to(images)
        average = shown.sum(-1) / condition.mask.sum(-1)
        weight = average[:, None] / shown.clamp(min=1)
        own = torch.eye(there.shape[1], dtype=images.dtype, device=images.device).repeat_interleave(shots, 0)
        return cls(images.flatten(1, 2), centred(own[None], condition), (weight[..., None] * there).flatten(1))

    @classmethod
    def with_crops(cls, condition: Condition) -> WeightedImages:
        """`labelled`, with what the crops that a condition may have tell: how one image may vary.

        An image z has share σ = ½ of its weight, its k crops the rest, and what rows say of the differences between
        them is held down by δ = (0.4 + 1.6 c)⁶, c as for `ridge_penalty`: little where a backbone tells images well
        apart, much where they all look alike to it; chosen on 24 pairs of data set and backbone. The loss
        σ |t − W z|² + (1 − σ) / k Σ |t − W c_j|² + δ / k Σ |W (c_j − z)|² is that of fewer rows, and a constant: of
        σ z + (1 − σ) c̄ with the target; of c̄ − z with target 0 and weight σ (1 − σ) + δ; and of the k − 1 orthonormal
        contrasts of crops with target 0 and weight (1 − σ + δ) / k. Crops and differences count less by `crowding`.
        """
        labelled = cls.labelled(condition)
        if condition.crops is None:
            return labelled
        crops = torch.nn.functional.normalize(condition.crops, dim=-1) * condition.support_mask[..., None, None]
        crops = crops.flatten(1, 2)  # (batch, images, crops, feature)
        number, mean, crowd = crops.shape[2], crops.mean(2), crowding(condition)[:, None]
        own = 1 - (1 - _OWN_SHARE) / crowd  # where classes are crowded images alone are the surer
        seen = replace(labelled, images=own[..., None] * labelled.images + (1 - own[..., None]) * mean)
        down = (0.4 + 1.6 * likeness(condition).clamp(min=0))[:, None] ** 6 / crowd
        nothing = torch.zeros_like(labelled.targets)
        between = cls(mean - labelled.images, nothing, (own * (1 - own) + down) * labelled.weight)
        contrasts = (torch.from_numpy(helmert(number)).to(crops) @ crops).flatten(1, 2)
        nothing, weight = (part.repeat_interleave(number - 1, 1) for part in (nothing, labelled.weight))
        return seen.joined(between).joined(cls(contrasts, nothing, (1 - own + down) / number * weight))

    def joined(self, other: WeightedImages) -> WeightedImages:
        """Both."""
        pairs = zip((self.images, self.targets, self.weight), (other.images, other.targets, other.weight), strict=True)
        return WeightedImages(*(torch.cat(pair, 1) for pair in pairs))

    def rows(
        self, penalty: Float[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch ways feature"], Float[Tensor, "batch images"]]:
        """argmin_W Σ_i ω_i |t_i − W z_i|² + λ|W|², and each image's leverage, its share in its own prediction.

        Solved among images or among features, whichever are fewer; in double precision where images are very much
        alike, which takes half as long again on many of them.
        """
        if self.images.dtype == torch.float32 and bool((penalty < _DOUBLE_BELOW).any()):
            doubled = WeightedImages(self.images.double(), self.targets.double(), self.weight.double())
            rows, leverage = doubled.rows(penalty.double())
            return rows.to(self.images), leverage.to(self.images)
        root = self.weight.clamp(min=1e-12).sqrt()[..., None]  # the root of 0 has no gradient
        inputs, targets = self.images * root, self.targets * root
        few = inputs.shape[1] <= inputs.shape[2]
        gram = inputs @ inputs.mT if few else inputs.mT @ inputs
        eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        factor = torch.linalg.cholesky(gram + penalty[:, None, None] * eye)
        if few:
            leverage = 1 - penalty[:, None] * torch.cholesky_inverse(factor).diagonal(dim1=-1, dim2=-2)
            return torch.cholesky_solve(targets, factor).mT @ inputs, leverage
        shares = torch.cholesky_solve(inputs.mT, factor)  # (batch, feature, images)
        return (shares @ targets).mT, (shares.mT * inputs).sum(-1)


def held_out_cosines(
    condition: Condition,
) -> Iterator[tuple[Bool[Tensor, "batch ways shots"], Float[Tensor, "batch images ways"]]]:
    """The images of each of up to five folds, and the cosines of all images to rows that were written without them.

    A fold has as many images of one class as of another, as near as may be, and never the only one of its class; those
    left of a class weigh as much as the whole class did. Penalty and weight of differences are those of all images, so
    that the products of images, which take most of the time, serve every fold.
    """
    there = condition.support_mask
    several = there & (there.sum(-1, keepdim=True) > 1)
    fold = (there.cumsum(-1) - 1) % _FOLDS
    labelled, images = WeightedImages.labelled(condition), WeightedImages.with_crops(condition)
    penalty = ridge_penalty(condition)
    kind = torch.float64 if bool((penalty < _DOUBLE_BELOW).any()) else images.images.dtype
    inputs, targets, weight = (part.to(kind) for part in (images.images, images.targets, images.weight))
    products, beside = inputs @ inputs.mT, labelled.images.to(kind) @ inputs.mT
    held_down = penalty.to(kind)[:, None, None] * torch.eye(inputs.shape[1], dtype=kind, device=inputs.device)
    for number in range(min(_FOLDS, there.shape[2])):
        held = several & (fold == number)
        left = there & ~held
        more = left * (there.sum(-1) / left.sum(-1).clamp(min=1))[..., None]
        root = (weight * _of_rows(more.flatten(1), images)).clamp(min=1e-12).sqrt()[..., None]
        factor = torch.linalg.cholesky(root * products * root.mT + held_down)
        shares = root * torch.cholesky_solve(root * targets, factor)  # of every image in a row
        lengths = (shares * (products @ shares)).sum(1, keepdim=True).clamp(min=1e-20).sqrt()
        yield held, (beside @ shares / lengths).to(labelled.images)


def _of_rows(values: Float[Tensor, "batch images"], images: WeightedImages) -> Float[Tensor, "batch rows"]:
    """What belongs to each image for all that `WeightedImages.with_crops` makes of it."""
    contrasts = max(0, images.weight.shape[1] // values.shape[1] - 2)
    return torch.cat([values, values, values.repeat_interleave(contrasts, 1)], 1)[:, : images.weight.shape[1]]


def likeness(condition: Condition) -> Float[Tensor, " batch"]:
    """The mean cosine between images of different classes."""
    labelled, shape = WeightedImages.labelled(condition), condition.support_mask.shape
    shown = condition.support_mask.sum(-1).to(labelled.images).clamp(min=1)
    means = labelled.images.unflatten(1, shape[1:]).sum(2) / shown[..., None]
    ways = condition.mask.sum(-1).to(means)
    return (means.sum(1).square().sum(-1) - means.square().sum((1, 2))) / (ways * (ways - 1)).clamp(min=1)


def common_factor(condition: Condition) -> Float[Tensor, " batch"]:
    """What the part that all images share is to be multiplied by: 1, and less where it outgrows what sets them apart.

    The two are as √c to √(1 − c), c the `likeness`. Numbers that were learnt or chosen where c is at most 0.7 hold
    beyond it while that ratio stays what it is there.
    """
    alike = likeness(condition).clamp(_MOST_ALIKE, 1 - 1e-6)
    return ((1 - alike) / alike * (_MOST_ALIKE / (1 - _MOST_ALIKE))).sqrt()


def ridge_penalty(condition: Condition) -> Float[Tensor, " batch"]:
    """λ = (1 − c)², c the mean cosine between images of different classes, whatever the shots; times `crowding`.

    1 − c is the squared distance of images at unit length from what they have in common: where they all look alike, the
    same λ would weigh more. Chosen among powers and factors on nine data sets and two backbones.
    """
    return crowding(condition) * (1 - likeness(condition)).square().clamp(min=_LEAST_PENALTY)


def crowding(condition: Condition) -> Float[Tensor, " batch"]:
    """By how much classes are too many for the width of the features: 16 r (1 + r)², r classes a feature; 1 at least.

    Regression on more classes than there are features finds no row that answers one of them alone, and the covariance
    that it undoes is that of the classes themselves. A penalty so many times as large leaves class means in the end.
    Chosen on 5 to 900 classes of 64 to 1,280 features; up to one class in 18 features nothing changes.
    """
    classes = condition.mask.sum(-1) / condition.support.shape[-1]
    return (_CROWDED * classes * (1 + classes).square()).clamp(min=1)


def centred(targets: Float[Tensor, "#batch images ways"], condition: Condition) -> Float[Tensor, "batch images ways"]:
    """Labels less the even share of each class, or where there is `crowding` less than that; 0 for padding."""
    there = condition.mask[:, None].to(targets)
    even = there / there.sum(-1, keepdim=True) / crowding(condition)[:, None, None]
    return (targets - targets.sum(-1, keepdim=True) * even) * there


@dataclass(frozen=True)
class SupportFacts:
    """What the labelled images of a condition tell of their data set, in numbers that no rotation changes.

    Every entry is a mean over classes or images, so that neither their order nor padding matters.

    table: logarithms of classes, images per class and unlabelled images; the share of what all images have in common;
        mean, deviation and largest of the cosines between class means; accuracy and margin of leave-one-out
        predictions, the scatter within classes, and whether any class has two images to tell these from.
    loo_margin: of each class's images, 0 where there is but one. nearest: largest cosine to another class's mean.
    cosines: between class means, seen from the mean of all.
    """

    table: Float[Tensor, "batch facts"]
    loo_margin: Float[Tensor, "batch ways"]
    nearest: Float[Tensor, "batch ways"]
    cosines: Float[Tensor, "batch ways ways"]

    @classmethod
    def of(cls, condition: Condition) -> SupportFacts:
        """Raises no error for padding classes, of which all is 0."""
        labelled, real = WeightedImages.labelled(condition), condition.mask
        there = condition.support_mask
        ways, shots = real.sum(-1).to(labelled.images), there.sum(-1).to(labelled.images)
        by_class = labelled.images.unflatten(1, there.shape[1:])
        means = by_class.sum(2) / shots.clamp(min=1)[..., None]
        middle = means.sum(1, keepdim=True) / ways[:, None, None]
        cosines = _cosines((means - middle) * real[..., None])
        pairs = (real[:, :, None] & real[:, None]) & ~torch.eye(len(real[0]), dtype=torch.bool, device=real.device)
        nearest = cosines.masked_fill(~pairs, -1.0).amax(-1) * real
        number = pairs.sum((1, 2)).clamp(min=1)
        average = (cosines * pairs).sum((1, 2)) / number
        deviation = (((cosines - average[:, None, None]).square() * pairs).sum((1, 2)) / number + 1e-9).sqrt()
        right, margin, several = _leave_one_out(labelled, condition)
        judged = several.any(-1)
        within = (by_class - means[:, :, None]).square().sum(-1) * there
        freedom = (shots - 1).clamp(min=0).sum(-1)
        over_classes = several.sum(-1).clamp(min=1)
        beside = condition.unlabelled_mask.sum(-1).to(ways)
        table = [
            *(ways.log() / 2, (shots.sum(-1) / ways).log(), beside.log1p() / 4),
            *(middle.square().sum((1, 2)), average, deviation, nearest.sum(-1) / ways),
            *(right.sum(-1) / over_classes, margin.sum(-1) / over_classes),
            *(within.sum((1, 2)) / freedom.clamp(min=1), judged.to(ways)),
        ]
        return cls(torch.stack(table, -1), margin, nearest, cosines)


def _leave_one_out(
    labelled: WeightedImages, condition: Condition
) -> tuple[Float[Tensor, "batch ways"], Float[Tensor, "batch ways"], Bool[Tensor, "batch ways"]]:
    """Share of each class's images that are right, their mean margin, and which classes have two images or more.

    Without image i its prediction is (ŷ − h t) / (1 − h), h its leverage (Allen 1974).
    """
    rows, leverage = labelled.rows(ridge_penalty(condition))
    predicted, share = labelled.images @ rows.mT, leverage[..., None].clamp(max=0.999)
    loo = (predicted - share * labelled.targets) / (1 - share)
    ways, shots = condition.support_mask.shape[1:]
    own = torch.eye(ways, dtype=torch.bool, device=loo.device).repeat_interleave(shots, 0)
    rest = loo.masked_fill(own | ~condition.mask[:, None], torch.finfo(loo.dtype).min).amax(-1)
    margin = ((loo * own).sum(-1) - rest).unflatten(1, (ways, shots))
    several = condition.support_mask.sum(-1) > 1
    there = condition.support_mask & several[..., None]
    number = there.sum(-1).clamp(min=1)
    right = ((margin > 0) & there).sum(-1) / number
    return right, torch.where(there, margin, 0.0).sum(-1) / number, several


def _cosines(vectors: Float[Tensor, "batch ways feature"]) -> Float[Tensor, "batch ways ways"]:
    unit = torch.nn.functional.normalize(vectors, dim=-1, eps=1e-6)
    return unit @ unit.mT
