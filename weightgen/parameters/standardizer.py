"""The one affine map that features and rows share."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor

from weightgen.dataflow import Episode, Features
from weightgen.errors import InputError
from weightgen.parameters.class_statistics import ClassStatistics, shrink_to_isotropic

Map = Literal["identity", "scale", "whiten"]


class Standardizer(ModelMixin, ConfigMixin):
    """z = A (f − μ): zero mean, prototypes of unit scale; fitted on base classes, saved with the generator.

    Options:
        map: identity: A = I and μ = 0, the paper's raw features. scale: centre, then one factor. whiten: centre, make
            the (shrunk) within-class covariance round, turn to the axes of the between-class covariance, largest
            first, then one factor; in these axes a linear-Gaussian model of classes is diagonal.
        unit_length: stretch every labelled image to the mean length before the map. A query keeps its length, for an
            exported linear head could not change it.
        within_shrinkage: how far the within-class covariance is drawn towards a round one, 0 to 1.
        between_shrinkage: the same for the between-class variances, which few classes tell only roughly.

    Buffers: `mean` [feature] and `matrix` [feature feature] are the map; `length` is the mean distance of base images
    from the mean, `radius` the root mean square length of z; `prior_variance` [feature] is the variance of class
    prototypes along each axis and `noise_variance` [1] that of images around their prototype.
    """

    mean: Tensor
    matrix: Tensor
    length: Tensor
    radius: Tensor
    prior_variance: Tensor
    noise_variance: Tensor

    @register_to_config
    def __init__(
        self,
        *,
        feature_width: int,
        map: Map = "whiten",
        unit_length: bool = True,
        within_shrinkage: float = 0.5,
        between_shrinkage: float = 0.5,
    ) -> None:
        super().__init__()
        if map == "identity" and unit_length:
            raise ValueError("map identity leaves features as they are; set unit_length to false")
        self.register_buffer("mean", torch.zeros(feature_width))
        self.register_buffer("matrix", torch.eye(feature_width))
        self.register_buffer("length", torch.ones(()))
        self.register_buffer("radius", torch.ones(()))
        self.register_buffer("prior_variance", torch.ones(feature_width))
        self.register_buffer("noise_variance", torch.ones(1))

    def fit(self, features: Features) -> Standardizer:
        """Set the map from base classes. Raises InputError when no two classes differ."""
        return self.shape(ClassStatistics.of(self.centre(features)))

    def centre(self, features: Features) -> Features:
        """Set mean and length; returns the images as `shape` wants to know their statistics."""
        if self.config.map != "identity":
            self.mean.copy_(features.means().mean(0))
        self.length.copy_((features.values - self.mean).norm(dim=-1).mean())
        return replace(features, values=self._stretched(features.values))

    def shape(self, statistics: ClassStatistics) -> Standardizer:
        """Set matrix and variances from the statistics of centred, stretched images."""
        within, mean = statistics.within.double(), statistics.mean.double()
        # What is left of the mean belongs to every prototype alike: all of it for the identity, little otherwise.
        between = statistics.between.double() + torch.outer(mean, mean)
        matrix = torch.eye(self.config.feature_width, dtype=torch.float64)
        if self.config.map == "whiten":
            matrix = self._whitener(within, between)
        if self.config.map != "identity":
            if not bool(statistics.between.diagonal().sum() > 1e-10 * within.diagonal().sum()):  # less is rounding
                raise InputError("all classes have the same mean feature; the backbone tells none of them apart")
            matrix = matrix / (matrix @ between @ matrix.mT).diagonal().mean().sqrt()
        within, between = matrix @ within @ matrix.mT, matrix @ between @ matrix.mT
        self.matrix.copy_(matrix)
        self.noise_variance.copy_(within.diagonal().mean())
        self.radius.copy_((within + between).diagonal().sum().sqrt())
        prior = between.diagonal().clamp(min=0)
        self.prior_variance.copy_(shrink_to_isotropic(prior.diag(), self.config.between_shrinkage).diagonal())
        return self

    def _whitener(self, within: Tensor, between: Tensor) -> Tensor:
        """Rounds the shrunk within-class covariance and puts the between-class axes in falling order."""
        variances, axes = torch.linalg.eigh(shrink_to_isotropic(within, self.config.within_shrinkage))
        floor = variances.max() * 1e-6  # a dead feature has no variance to divide by
        whitener = axes * variances.clamp(min=floor).rsqrt() @ axes.mT
        _, rotation = torch.linalg.eigh(whitener @ between @ whitener)
        return rotation.flip(-1).mT @ whitener

    def _stretched(self, values: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        if not self.config.unit_length:
            return values - self.mean
        return torch.nn.functional.normalize(values - self.mean, dim=-1) * self.length

    def labelled(self, values: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Raw features of images that are learnt from (base images, supports), in the generator's space."""
        return self._stretched(values) @ self.matrix.mT

    def unlabelled(self, values: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Raw features as an exported head sees them, in the generator's space."""
        return (values - self.mean) @ self.matrix.mT

    def standardize(self, episode: Episode) -> Episode:
        """The same episode in the generator's space; absent support images are 0."""
        support = self.labelled(episode.support) * episode.support_mask[..., None]
        return replace(episode, support=support, query=self.unlabelled(episode.query))

    def restore(self, rows: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Prototypes in the generator's space, as raw features: the inverse of `unlabelled`."""
        return rows @ torch.linalg.inv(self.matrix).mT + self.mean
