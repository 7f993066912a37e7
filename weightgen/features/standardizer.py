"""The one affine map that features and rows share."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor

from weightgen.errors import InputError
from weightgen.features.class_statistics import ClassStatistics, shrink_variances
from weightgen.files import cache_directory, keep_tensors, kept_tensors, tensors_hash, text_hash
from weightgen.records import Episode, Features, LinearHeads, Space

if TYPE_CHECKING:
    from weightgen.backbones.backbone import Backbone

Map = Literal["identity", "scale", "whiten", "classifier"]
# Chosen once, on MobileNetV2 and EfficientNet-Lite.
_CLASSIFIER_POWER = 1 / 12
_CLASSIFIER_RIDGE = 0.01


class Standardizer(ModelMixin, ConfigMixin):
    """z = A (f − μ): zero mean, prototypes of unit scale; fitted on base classes, saved with the generator.

    Options:
        map: identity: A = I and μ = 0, the paper's raw features. scale: centre, then one factor. whiten: centre, apply
            the symmetric root of the inverse of the (shrunk) within-class covariance, then one factor. The root is not
            turned to the eigenvectors of anything, so the coordinates barely move with the choice of base classes.
        centring: share of the mean of the base classes that is the origin of lengths and angles. 1 suits new classes
            that lie around it as the base classes do; 0 keeps the features' own origin, as a plain cosine does.
        unit_length: stretch every image that is learnt from to the mean length before the map. A query keeps its
            length, for an exported linear head could not change it.
        support_power: 1, or below 1 to damp the strong features of support and unlabelled images: f ↦ sign(f)|f|^p,
            brought back to the features' own mean and scale by regression on base images. The same holds: queries
            cannot be transformed (Tukey's ladder, as in Yang et al., ICLR 2021, on one side only).
        within_shrinkage: how far the within-class covariance is shrunk towards an isotropic one, 0 to 1.
        between_shrinkage: the same for the between-class variances, which few classes tell only roughly.
        turned: the coordinates are the axes, which differ from fit to fit; for networks that see no coordinates.

    Buffers: `mean` [feature] and `matrix` [feature feature] are the map; `origin` [feature] is that of lengths and
    angles, in raw features; `length` is the mean distance of base images from it, `radius` the root mean square
    length of z; `axes` [feature feature] holds the eigenvectors of the between-class covariance of z as columns,
    largest first (None if turned or unless the map is whiten: the coordinates are taken for them); `prior_variance`
    [feature] is the variance of class prototypes along each of them and `noise_variance` [1] that of images around
    their prototype;
    `likelihood_scale` [] is the factor that calibrates Gaussian log-likelihoods (features are not independent);
    `power_mean`, `power_slope` and `power_target` [feature] belong to `support_power`.
    """

    mean: Tensor
    origin: Tensor
    matrix: Tensor
    axes: Tensor | None
    likelihood_scale: Tensor
    power_mean: Tensor
    power_slope: Tensor
    power_target: Tensor
    length: Tensor
    radius: Tensor
    prior_variance: Tensor
    noise_variance: Tensor

    logit_scale: float | Tensor = 1.0
    """Logits are calibrated by the generator's own calibration alone."""

    @register_to_config
    def __init__(
        self,
        *,
        feature_width: int,
        map: Map = "whiten",
        centring: float = 1.0,
        unit_length: bool = True,
        support_power: float = 1.0,
        within_shrinkage: float = 0.5,
        between_shrinkage: float = 0.5,
        turned: bool = False,
    ) -> None:
        super().__init__()
        if map == "identity" and unit_length:
            raise ValueError("map identity leaves features as they are; set unit_length to false")
        if not 0 < support_power <= 1:
            raise ValueError(f"support_power is {support_power}; it must be above 0 and at most 1")
        self.register_buffer("mean", torch.zeros(feature_width))
        self.register_buffer("origin", torch.zeros(feature_width))
        self.register_buffer("matrix", torch.eye(feature_width))
        self.register_buffer("axes", torch.eye(feature_width) if map == "whiten" and not turned else None)
        self.register_buffer("likelihood_scale", torch.ones(()))
        self.register_buffer("power_mean", torch.zeros(feature_width))
        self.register_buffer("power_slope", torch.ones(feature_width))
        self.register_buffer("power_target", torch.zeros(feature_width))
        self.register_buffer("length", torch.ones(()))
        self.register_buffer("radius", torch.ones(()))
        self.register_buffer("prior_variance", torch.ones(feature_width))
        self.register_buffer("noise_variance", torch.ones(1))

    @classmethod
    def of_classifier(cls, weight: Float[Tensor, "classes feature"] | None, *, feature_width: int) -> Standardizer:
        """The space of a backbone's own classifier: A = (C / mean + ridge)^power, C the covariance of its rows.

        No image is needed; what the classifier looks at is stretched. Without a classifier features stay as they are.

        Raises InputError for weights that are no classifier of such features.
        """
        standardizer = cls(feature_width=feature_width, map="classifier", centring=0.0, unit_length=False)
        if weight is None:
            return standardizer
        if weight.shape[1:] != (feature_width,) or len(weight) < 2:
            wanted = f"[classes, {feature_width}] with two classes or more belongs"
            raise InputError(f"a classifier of shape {list(weight.shape)} where {wanted}")
        if not bool(weight.isfinite().all()):
            raise InputError("the classifier holds NaN or infinite weights; give one that was trained")
        hashed = tensors_hash({"weight": weight})
        key = text_hash("classifier space", hashed, str((_CLASSIFIER_POWER, _CLASSIFIER_RIDGE)))
        path = cache_directory() / "spaces" / f"{key}.safetensors"
        kept = kept_tensors(path)  # a decomposition takes half the time of a head
        standardizer.matrix.copy_(kept["matrix"] if kept else _shape_of_rows(weight))
        if not kept:
            keep_tensors(path, {"matrix": standardizer.matrix})
        return standardizer

    @classmethod
    def of_backbone(cls, backbone: Backbone) -> Standardizer:
        """`of_classifier` with that of a backbone, which may have none."""
        weight = None if backbone.classifier is None else backbone.classifier.weight.detach().cpu()
        return cls.of_classifier(weight, feature_width=backbone.feature_width)

    def fit(self, features: Features) -> Standardizer:
        """Set the map from base classes, unless it is the classifier's. Raises InputError if no two classes differ."""
        if self.config.map == "classifier":
            return self
        return self.shape(ClassStatistics.of(self.centre(features)))

    def centre(self, features: Features) -> Features:
        """Set origin, length and mean; returns the images as `shape` wants to know their statistics."""
        centred = self.config.map != "identity"
        mean = features.means().mean(0)
        self.origin.copy_(self.config.centring * mean if centred else torch.zeros_like(mean))
        self.length.copy_((features.values - self.origin).norm(dim=-1).mean())
        if self.config.support_power < 1:
            self._fit_power(features, mean)
        scaled = replace(features, values=self._unit_length(features.values))
        self.mean.copy_(scaled.means().mean(0) if centred else torch.zeros_like(mean))
        return replace(scaled, values=scaled.values - self.mean)

    def _fit_power(self, features: Features, mean: Float[Tensor, " feature"]) -> None:
        powered = replace(features, values=self._powered(features.values))
        self.power_mean.copy_(powered.means().mean(0))
        away = powered.values - self.power_mean
        slope = ((features.values - mean) * away).mean(0) / away.square().mean(0).clamp(min=1e-12)
        self.power_slope.copy_(slope)
        self.power_target.copy_(mean)

    def shape(self, statistics: ClassStatistics) -> Standardizer:
        """Set matrix and variances from the statistics of centred images of unit length."""
        if self.config.turned:
            return self.shape_along_axes(statistics)
        root = self._set_map(statistics)
        prior = root.square().sum(1)
        if self.axes is not None:
            ascending, axes = torch.linalg.eigh(root @ root.mT)
            prior = ascending.flip(-1).clamp(min=0)
            self.axes.copy_(axes.flip(-1))
        self.prior_variance.copy_(shrink_variances(prior, self.config.between_shrinkage))
        return self

    def along_axes(self) -> Standardizer:
        """The same with the axes as coordinates, where a linear-Gaussian model is diagonal without turning anything."""
        turned = copy.deepcopy(self)
        if self.axes is not None:
            turned.matrix.copy_(self.axes.mT @ self.matrix)
            turned.axes = None
            turned.register_to_config(turned=True)
        return turned

    def shape_along_axes(self, statistics: ClassStatistics) -> Standardizer:
        """`shape(statistics).along_axes()` but for signs and order of equal axes, without an eigendecomposition.

        Prototypes vary along few axes: all after the columns of `between_root` and one have the same variance.
        """
        root = self._set_map(statistics)
        axes, lengths, _ = torch.linalg.svd(root)
        self.matrix.copy_(axes.mT.to(self.matrix) @ self.matrix)
        self.axes = None
        prior = torch.zeros(len(axes), dtype=root.dtype)
        prior[: len(lengths)] = lengths.square()
        self.prior_variance.copy_(shrink_variances(prior, self.config.between_shrinkage))
        return self

    def _set_map(self, statistics: ClassStatistics) -> Float[Tensor, "feature few"]:
        """Set the matrix and how large noise and images are; returns a root of the prototypes' covariance behind it."""
        # What is left of the mean belongs to every prototype alike: all of it for the identity, little otherwise.
        root = torch.cat([statistics.between_root, statistics.mean[:, None]], 1).double()
        matrix, noise = self._unscaled(statistics)
        if self.config.map != "identity":
            seen = statistics.within.diagonal().sum()
            if not bool(statistics.between.diagonal().sum() > 1e-10 * seen):  # less is rounding
                raise InputError("all classes have the same mean feature; the backbone tells none of them apart")
            scale = ((matrix @ root).square().sum() / len(matrix)).rsqrt()
            matrix, noise = matrix * scale, noise * scale.square()
        root = matrix @ root
        self.matrix.copy_(matrix)
        self.noise_variance.copy_(noise / len(matrix))
        self.radius.copy_((noise + root.square().sum()).sqrt())
        return root

    def _unscaled(self, statistics: ClassStatistics) -> tuple[Tensor, Tensor]:
        """The map up to its factor, and the trace of the within-class covariance behind it.

        A whitener is the symmetric inverse root of the shrunk within-class covariance.
        """
        if self.config.map != "whiten":
            return torch.eye(self.config.feature_width, dtype=torch.float64), statistics.within.double().trace()
        variances, axes = statistics.within_axes
        shrunk = shrink_variances(variances, self.config.within_shrinkage)
        shrunk = shrunk.clamp(min=shrunk.max() * 1e-6)  # a dead feature has no variance to divide by
        return axes * shrunk.rsqrt() @ axes.mT, (variances / shrunk).sum()

    def _unit_length(self, values: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        if not self.config.unit_length:
            return values
        return self.origin + torch.nn.functional.normalize(values - self.origin, dim=-1) * self.length

    def _powered(self, values: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        return values.sign() * values.abs() ** self.config.support_power

    def base(self, values: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Raw features of base images, whose class means are prototypes, in the generator's space."""
        if not self.config.unit_length:
            return (values - self.mean) @ self.matrix.mT
        away = values - self.origin  # scaled behind the product, in place: a batch is passed over less often
        lengths = away.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return (away @ self.matrix.mT).mul_(self.length / lengths).add_(self.matrix @ (self.origin - self.mean))

    def support(self, values: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Raw features of the images that a head is written from, labelled or not, in the generator's space."""
        if self.config.support_power < 1:
            values = (self._powered(values) - self.power_mean) * self.power_slope + self.power_target
        return self.base(values)

    def query(self, values: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Raw features as an exported head sees them, in the generator's space."""
        return (values - self.mean) @ self.matrix.mT

    def standardize(self, episode: Episode) -> Episode:
        """The same episode in the generator's space; absent images are 0."""
        support = self.support(episode.support).mul_(episode.support_mask[..., None])
        unlabelled, query, crops = episode.unlabelled, episode.query, episode.crops  # mostly none
        if unlabelled.numel():
            unlabelled = self.support(unlabelled) * episode.unlabelled_mask[..., None]
        if crops is not None:
            crops = self.support(crops) * episode.support_mask[..., None, None]
        query = self.query(query) if query.numel() else query
        return replace(episode, support=support, unlabelled=unlabelled, query=query, crops=crops)

    def distance_from_base(self, episode: Episode) -> Float[Tensor, " batch"]:
        """How far the mean of a standardised support lies from that of the base classes, for each episode.

        Squared, in units of what is expected of classes drawn from the same population: about 1 for those, well above
        for images of another kind, which all lie on one side.
        """
        real = (episode.counts > 0).to(episode.support)
        ways = real.sum(-1)
        mean = (episode.support_means() * real[..., None]).sum(1) / ways[:, None]
        images = (real / episode.counts.clamp(min=1)).sum(-1) / ways.square()
        expected = self.prior_variance.sum() / ways + mean.shape[-1] * self.noise_variance * images
        return mean.square().sum(-1) / expected

    @property
    def standardized_origin(self) -> Float[Tensor, " feature"]:
        """The origin of lengths and angles, in the generator's space."""
        if not self.knows_lengths:  # neither is moved; the product would take a tenth of a head's time
            return torch.zeros_like(self.mean)
        return self.query(self.origin)

    @property
    def knows_lengths(self) -> bool:
        """Whether rows are points among images: not in the space of a classifier, which saw no image."""
        return bool(self.config.map != "classifier")

    @property
    def space(self) -> Space:
        """What a denoiser may know of the generator's space."""
        return Space(self.prior_variance, self.noise_variance, self.likelihood_scale, self.axes)

    def tensors(self) -> dict[str, Tensor]:
        """The logit scale, where it is not that of all; of a single episode."""
        own = self.__dict__.get("logit_scale")
        return {} if own is None else {"logit_scale": own.detach().reshape(())}

    def with_logit_scale(self, logit_scale: Float[Tensor, ""] | Float[Tensor, " batch"]) -> Standardizer:
        """The same map with another factor on logits, for all episodes or for each; both share their tensors."""
        scaled = copy.copy(self)
        scaled.logit_scale = logit_scale
        return scaled

    def points(self, values: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Standardised features in this space: the same."""
        return values

    def rows(self, fitted: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Rows that were fitted in this space: the same."""
        return fitted

    def raw_head(self, head: LinearHeads) -> LinearHeads:
        """Heads that act on standardised features as heads that act on raw ones: the affine map folded in."""
        weight = head.weight @ self.matrix
        return LinearHeads(weight, head.bias - weight @ self.mean)

    def restore(self, rows: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Prototypes in the generator's space, as raw features: the inverse of `query`."""
        return rows @ torch.linalg.inv(self.matrix).mT + self.mean


def _shape_of_rows(weight: Float[Tensor, "classes feature"]) -> Float[Tensor, "feature feature"]:
    """(C / mean + ridge)^power of the covariance C of a classifier's rows. Raises InputError where all are the same."""
    rows = weight.double() - weight.double().mean(0)  # a mean of the largest floats is infinite among floats
    variances, axes = torch.linalg.eigh(rows.mT @ rows / len(rows))
    if not bool(variances.mean() > 0):
        raise InputError("the backbone's classifier has the same row for every class; take one that was trained")
    shape = (variances.clamp(min=0) / variances.mean() + _CLASSIFIER_RIDGE) ** _CLASSIFIER_POWER
    return axes * shape @ axes.mT
