"""The noise-free ancestral sampler: every step goes to the mean of the reverse transition."""

import torch
from diffusers import DDPMScheduler


class MeanDDPMScheduler(DDPMScheduler):
    """DDPM (Ho et al. 2020) with zero variance, the sampler of MetaDiff's released code.

    With a denoiser that is exact for linear-Gaussian parameters the chain ends at the conditional mean
    E[w | condition], whatever noise it starts from.
    """

    def _get_variance(self, t, predicted_variance=None, variance_type=None):  # type: ignore[no-untyped-def]
        return torch.zeros(())
