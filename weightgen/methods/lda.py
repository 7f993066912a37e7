"""Linear discriminant analysis with the shrinkage of Ledoit and Wolf."""

from collections.abc import Sequence

import torch
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import Tensor

from weightgen.interfaces import Method
from weightgen.methods._classical import Frame, one_by_one
from weightgen.methods._discriminant import Discriminant
from weightgen.records import Episode, LinearHeads

_SCALE = 10.0  # where no image differs from the mean of its class, so that nothing says how sure to be


class Lda(Method):
    """Linear discriminant analysis with the shrinkage of Ledoit and Wolf (2004); nothing is held out.

    The shrinkage is scikit-learn's, of the residuals of all classes together, where its own discriminant analysis
    estimates one for each class and cannot take classes of one image. Probabilities are those of the model, all classes
    equally likely.
    """

    protocols = ("transfer",)

    def fit(self, episode: Episode, rngs: Sequence[torch.Generator]) -> LinearHeads:
        frame = Frame.of(episode)
        return frame.head(one_by_one(frame.support(episode), episode, _fit), episode)


def _fit(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    own = Discriminant.of(inputs, labels)
    if own.variance is None:
        weight = _SCALE * own.means
    else:
        shrinkage = float(ledoit_wolf_shrinkage(own.residuals.numpy(), assume_centered=True))
        weight = own.rows(shrinkage) / own.variance
    return weight, -(weight * own.means).sum(-1) / 2
