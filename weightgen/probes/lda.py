"""Linear discriminant analysis with the shrinkage of Ledoit and Wolf."""

from __future__ import annotations

from sklearn.covariance import ledoit_wolf_shrinkage

from weightgen.probes._discriminant import Discriminant
from weightgen.probes._held_out import UNTOLD_SCALE
from weightgen.probes._probe import LinearMap, Probe
from weightgen.records import Features


class Lda(Probe):
    """Linear discriminant analysis with the shrinkage of Ledoit and Wolf (2004); nothing is held out.

    The shrinkage is scikit-learn's, of the residuals of all classes together, where its own discriminant analysis
    estimates one for each class and cannot take classes of one image. Probabilities are those of the model, all classes
    equally likely.
    """

    def fit(self, train: Features, *, seed: int) -> LinearMap:
        found = Discriminant.of(train)
        if found.variance is None:
            weight = UNTOLD_SCALE * found.means
        else:
            shrinkage = float(ledoit_wolf_shrinkage(found.residuals.numpy(), assume_centered=True))
            weight = found.rows(shrinkage) / found.variance
        return found.scaling.folded(weight, -(weight * found.means).sum(-1) / 2)
