"""Linear discriminant analysis with a shrinkage chosen by cross-validation."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from weightgen.probes._discriminant import Discriminant
from weightgen.probes._held_out import UNTOLD_SCALE, Choice, cross_validated
from weightgen.probes._probe import LinearMap, Probe
from weightgen.records import Features

SHRINKAGES = (1.0, 0.95, 0.8, 0.6, 0.4, 0.2, 0.1, 0.03, 0.01, 0.003)


class ShrunkLda(Probe):
    """Linear discriminant analysis with a shrinkage chosen by cross-validation (Friedman 1989).

    Up to five folds choose how far the pooled covariance is drawn towards a round one, and set the scale of the
    probabilities. It needs counts, means and scatter alone, which one pass over the images gives; all classes are
    equally likely. Where no image can be held out, the covariance is round.
    """

    def fit(self, train: Features, *, seed: int) -> LinearMap:
        def logits(kept: Features, left_out: Float[Tensor, "images feature"]) -> list[Float[Tensor, "images classes"]]:
            found = Discriminant.of(kept)
            return [_classifier(found, shrinkage, 1.0)(left_out) for shrinkage in SHRINKAGES]

        choice = cross_validated(train, logits, seed=seed) or Choice(0, UNTOLD_SCALE)
        return _classifier(Discriminant.of(train), SHRINKAGES[choice.option], choice.scale)


def _classifier(found: Discriminant, shrinkage: float, scale: float) -> LinearMap:
    weight = scale * found.rows(shrinkage)
    return found.scaling.folded(weight, -(weight * found.means).sum(-1) / 2)
