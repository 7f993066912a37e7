"""Whether generated class vectors are more than copies of training members."""

import torch
from jaxtyping import Float
from torch import Tensor


def norm_ratio(generated: Float[Tensor, "n feature"], members: Float[Tensor, "members feature"]) -> float:
    """Mean norm of generated class vectors ÷ mean norm of training members, both less the members' mean.

    1 is right; below 1 the generator plays safe, near the mean of all classes.
    """
    mean = members.mean(0)
    return float((generated - mean).norm(dim=-1).mean() / (members - mean).norm(dim=-1).mean())


def novelty(generated: Float[Tensor, "n feature"], members: Float[Tensor, "members feature"]) -> float:
    """Mean distance of generated vectors to the nearest member ÷ mean distance of members to their nearest.

    0 is a copy of training members, 1 is as far from them as they are from each other. Two members at
    least; infinite where all members are equal.
    """
    to_members = torch.cdist(generated.double(), members.double()).amin(-1).mean()
    among = torch.cdist(members.double(), members.double())
    among.fill_diagonal_(torch.inf)
    return float(to_members / among.amin(-1).mean())
