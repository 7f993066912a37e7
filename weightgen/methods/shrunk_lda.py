"""Linear discriminant analysis with a shrunk covariance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from weightgen.classifiers import combinations
from weightgen.interfaces import Classifier
from weightgen.methods._classical import ClassicalMethod, Frame, Rows
from weightgen.methods._discriminant import Discriminant
from weightgen.methods._joint_eigenbasis import joint_eigenbasis
from weightgen.records import Episode


@dataclass(kw_only=True, eq=False)
class ShrunkLDA(ClassicalMethod):
    """Linear discriminant analysis with a covariance shrunk to isotropic (Friedman 1989).

    Rows Σ⁻¹ŵ_c and bias −½ ŵ_cᵀΣ⁻¹ŵ_c on centred features; all classes are equally likely. Without base classes ŵ is
    the support mean and Σ the support's own covariance within classes, in units of its mean variance. With base classes
    `prototype` says what ŵ and Σ are: "support": the support mean and Σ_w. "shrunk": the best linear guess of the class
    mean (`shrunk_centroid`) and Σ_w. "posterior": that guess and Σ_w plus what is still unknown about the class
    mean after K images, i.e. the predictive distribution of probabilistic LDA (Ioffe 2006). In ragged
    episodes the classes share the average of that second term, for a head is linear only if they share Σ.

    Args:
        shrinkage: pull of the covariance within classes towards isotropic, up to 1; above 0 with base classes.
        between_shrinkage: pull of Σ_b towards Σ_w, from 0 to 1; not used by "support".
        prototype: "support", "shrunk" or "posterior".
        unit_support: bring every support image to the mean distance from the origin before averaging.
    """

    untuned = {"shrinkage": 1.0, "scale": 10.0}  # noqa: RUF012
    shrinkage: float = 0.5
    between_shrinkage: float = 0.3
    prototype: Literal["support", "shrunk", "posterior"] = "support"
    unit_support: bool = False

    def __post_init__(self) -> None:
        if self.statistics is not None:
            self.basis = joint_eigenbasis(self.statistics, within=self.shrinkage, between=self.between_shrinkage)

    @classmethod
    def grid(cls, *, base_classes: bool) -> list[dict[str, Any]]:
        if not base_classes:
            return combinations(shrinkage=(1.0, 0.95, 0.8, 0.6, 0.4, 0.2, 0.1, 0.03, 0.01, 0.003))
        # "shrunk" is not tried: it was never better than "posterior" by more than chance on Caltech-101 and CIFAR-FS.
        guesses: list[dict[str, Any]] = [
            {"prototype": "support"},
            *({"prototype": "posterior", "between_shrinkage": shrinkage} for shrinkage in (0.3, 0.9, 0.98)),
        ]
        tried = combinations(shrinkage=(0.02, 0.2, 0.6, 0.9, 0.98), guess=guesses, unit_support=(True, False))
        return [{**one.pop("guess"), **one} for one in tried]

    @classmethod
    def fit_each(cls, episode: Episode, grid: Sequence[Mapping[str, Any]]) -> list[Classifier]:
        """One covariance for all options, which differ in the shrinkage alone."""
        frame = Frame.of(episode)
        discriminants = _discriminants(episode, frame)
        return [frame.head(_own_rows(episode, discriminants, options["shrinkage"]), episode) for options in grid]

    def rows(self, episode: Episode, frame: Frame) -> Rows:
        if self.statistics is None:
            return _own_rows(episode, _discriminants(episode, frame), self.shrinkage)
        means = self.statistics.radius * frame.means(episode, unit=self.unit_support) @ self.basis.into
        if self.prototype != "support":
            means = self.basis.shrunk_means(means, episode.counts)
        weight = means  # Σ_w is the identity in these coordinates
        if self.prototype == "posterior":
            real = (episode.counts > 0)[..., None]
            unknown = (self.basis.posterior_variances(episode.counts) * real).sum(1, keepdim=True)
            weight = means / (1 + unknown / real.sum(1, keepdim=True))
        return self.statistics.radius * weight @ self.basis.into.mT, -(weight * means).sum(-1) / 2


def _discriminants(episode: Episode, frame: Frame) -> list[Discriminant]:
    """What each episode's own images say of the covariance."""
    inputs, real = frame.support(episode), episode.support_mask
    labels = [mask.nonzero()[:, 0].unique(return_inverse=True)[1] for mask in real]
    return [Discriminant.of(inputs[i][real[i]], labels[i]) for i in range(len(episode))]


def _own_rows(episode: Episode, discriminants: Sequence[Discriminant], shrinkage: float) -> Rows:
    weight = torch.zeros(*episode.support_mask.shape[:2], episode.support.shape[-1], dtype=torch.float64)
    bias = torch.zeros(weight.shape[:2], dtype=torch.float64)
    for i, (one, mask) in enumerate(zip(discriminants, episode.support_mask.any(-1), strict=True)):
        weight[i, mask] = one.rows(shrinkage)
        bias[i, mask] = -(weight[i, mask] * one.means).sum(-1) / 2
    return weight, bias
