"""The generator's space, whitened for one data set by the scatter of its own images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.errors import InputError
from weightgen.features.gaussian_posterior import shared_mean
from weightgen.features.standardizer import Standardizer
from weightgen.features.whitening import DenseWhitening, LowRankWhitening, Whitening
from weightgen.records import Condition, Episode, LinearHeads, Space, Statistics

_FEW = 3  # times the images below the features, their inner products are the quicker way to a root


@dataclass(frozen=True)
class AdaptedSpace:
    """y = F (z − c): in it the images of a data set lie around their classes like white noise of variance 1.

    z are features in the standardised space of base classes. There an isotropic covariance of ν images' worth, as large
    as this data set's, is counted in with the scatter S of its n images (the posterior mean of an inverse-Wishart
    prior): Σ = (ν·τ·I + S) / (ν + n − classes), F a root of its inverse. From few images F is a mere scale;
    from many it is the data set's own whitening. The centre c is the mean of the classes' means, those of few images
    counting for less, so that rows are drawn towards what the classes at hand share and not towards the average base
    class.

    images: the weight of Σ in images, ν + n − classes; or for each class in a column, and then infinite for classes
        whose images are no part of S.
    logit_scale: the factor on logits that calibrates the leave-one-out logits of the data set.
    known: the data set in this space and its condition, which the scale was found by.
    """

    standardizer: Standardizer
    centre: Float[Tensor, " feature"]
    whitening: Whitening
    prior_variance: Float[Tensor, " feature"]
    images: Float[Tensor, "*ways"]
    logit_scale: float = 1.0
    known: tuple[Episode, Condition] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        standardizer: Standardizer,
        statistics: Statistics,
        *,
        prior_images: float,
        residual: Float[Tensor, "images feature"] | None = None,
    ) -> AdaptedSpace:
        """The space of a data set with these statistics, in `standardizer`'s space.

        prior_images: ν, how many images the base classes' covariance counts for.
        residual: what is left of all images after their class's mean, where all are at hand; few make it quicker.
        """
        counts, width = statistics.counts, statistics.means.shape[1]
        freedom = (counts - 1).clamp(min=0).sum()
        images = prior_images + freedom
        if residual is not None and _FEW * len(residual) < width:
            level = _level(standardizer, residual.square().sum() / width, freedom)
            whitening: Whitening = LowRankWhitening.of(residual / images.sqrt(), floor=prior_images * level / images)
        else:
            assert statistics.scatter is not None, "statistics of a space that is whitened already"
            level = _level(standardizer, statistics.scatter.diagonal().mean(), freedom)
            covariance = statistics.scatter / images
            covariance.diagonal().add_(prior_images * level / images)
            whitening = DenseWhitening.of(covariance)
        return cls(
            standardizer,
            centre=shared_mean(statistics.means, counts, ratio=_ratio(standardizer))[0],
            whitening=whitening,
            prior_variance=whitening.variances(standardizer.space),
            images=images,
        )

    @classmethod
    def recalled(cls, standardizer: Standardizer, tensors: Mapping[str, Tensor]) -> AdaptedSpace:
        """The space that gave these `tensors`. Raises InputError when they are of none."""
        width = len(standardizer.mean)
        shapes = {"centre": (width,), "whitening": (width, width), "images": (), "logit_scale": ()}
        given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if given != shapes:
            raise InputError(f"a space made of {given} where {shapes} belongs; generate the head again")
        own = {name: tensor.to(standardizer.mean.device) for name, tensor in tensors.items()}
        whitening = DenseWhitening(own["whitening"])
        return cls(
            standardizer,
            centre=own["centre"],
            whitening=whitening,
            prior_variance=whitening.variances(standardizer.space),
            images=own["images"],
            logit_scale=float(own["logit_scale"]),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Centre, whitening, images and logit scale."""
        logit_scale = torch.full_like(self.images, self.logit_scale)
        return {
            "centre": self.centre,
            "whitening": self.whitening.matrix(),
            "images": self.images,
            "logit_scale": logit_scale,
        }

    @property
    def noise_variance(self) -> Float[Tensor, "1"]:
        """Of images around their class's prototype, along each axis."""
        return torch.ones_like(self.standardizer.noise_variance)

    @property
    def standardized_origin(self) -> Float[Tensor, " feature"]:
        """The centre."""
        return torch.zeros_like(self.centre)

    @property
    def radius(self) -> Float[Tensor, ""]:
        """Root mean square distance of images from the centre."""
        return (self.prior_variance + 1).sum().sqrt()

    @property
    def knows_lengths(self) -> bool:
        return True

    @property
    def space(self) -> Space:
        """What a denoiser may know of it."""
        own = self.standardizer.space
        likelihood_scale = torch.full_like(own.likelihood_scale, self.logit_scale)
        return replace(
            own,
            prior_variance=self.prior_variance,
            noise_variance=self.noise_variance,
            likelihood_scale=likelihood_scale,
        )

    def points(self, values: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Standardised features in this space."""
        return self.whitening.points(values - self.centre)

    def rows(self, fitted: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Rows of the standardised space, as the rows here that read the same weights off them.

        With Gaussian logits a row w has weights w/σ² there, and F⁻ᵀ w/σ² here, where σ is 1.
        """
        return self.whitening.unweighted((fitted - self.centre) / self.standardizer.noise_variance)

    def episode(self, episode: Episode) -> Episode:
        """A standardised episode in this space; absent images are 0."""
        statistics = episode.statistics
        return replace(
            episode,
            support=self.points(episode.support) * episode.support_mask[..., None],
            unlabelled=self.points(episode.unlabelled) * episode.unlabelled_mask[..., None],
            query=self.points(episode.query),
            statistics=None
            if statistics is None
            else Statistics(statistics.counts, self.points(statistics.means), None),
        )

    def restore(self, rows: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Prototypes here, as raw features: undoes `points` and the standardizer's map."""
        return self.standardizer.restore(self.whitening.unpointed(rows) + self.centre)

    def raw_head(self, head: LinearHeads) -> LinearHeads:
        """Heads that act on this space as heads that act on raw features."""
        weight = self.whitening.weights(head.weight)
        return self.standardizer.raw_head(LinearHeads(weight, head.bias - weight @ self.centre))


def _level(standardizer: Standardizer, variance: Float[Tensor, ""], freedom: Float[Tensor, ""]) -> Float[Tensor, "1"]:
    """Of the data set's noise; with one image's worth of the base classes' own, for a data set that shows none.

    variance: that of all images together, averaged over axes.
    """
    return (standardizer.noise_variance + variance) / (1 + freedom)


def _ratio(standardizer: Standardizer) -> Float[Tensor, ""]:
    """The variance between base classes in units of that within them, averaged over axes."""
    return standardizer.prior_variance.mean() / standardizer.noise_variance.mean()
