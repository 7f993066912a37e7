"""MetaDiff's targets: the mean feature of all images of a class."""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from weightgen.features.standardizer import Standardizer
from weightgen.records import Features


def ideal_prototypes(features: Features, standardizer: Standardizer) -> Float[Tensor, "classes feature"]:
    """One prototype per base class, in the standardised space (MetaDiff, arXiv 2307.16424, eq. 7).

    The images of an episode's support are among them: the target is what the support would average to if it were
    the whole class.
    """
    return replace(features, values=standardizer.base(features.values)).means()
