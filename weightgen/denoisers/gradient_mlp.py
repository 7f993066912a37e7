"""MetaDiff's denoiser, as its released code has it."""

from __future__ import annotations

from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import softplus

from weightgen.errors import InputError
from weightgen.interfaces import Denoiser
from weightgen.records import Condition


class GradientMlp(Denoiser):
    """MetaDiff's U-shaped MLP: sees time and support gradient, one class row at a time (arXiv 2307.16424, sec. 4.2).

    ε̂ = g + (1 − s(τ)) · U(g, τ). The gradient passes through untouched, so that even an untrained network of this
    form walks towards the support means.

    Options:
        width: twice the first inner width, four times the narrowest; the paper's 512. With 512 features it has
            807,745 parameters.
        time_width: width of the sinusoidal time embedding τ.
    """

    prediction_type = "epsilon"
    needs_gradient = True

    @register_to_config
    def __init__(self, *, feature_width: int, width: int = 512, time_width: int = 320) -> None:
        super().__init__()
        d1, d2 = width // 2, width // 4
        rows = [(feature_width, d1), (d1, d2), (d2, d2), (d2, d1), (d1, feature_width)]
        self.project = nn.ModuleList(nn.Linear(inner, outer) for inner, outer in rows)
        self.embed = nn.ModuleList(nn.Linear(time_width, outer) for _, outer in rows)
        self.gate = nn.Sequential(
            nn.Linear(time_width, time_width // 2), nn.SiLU(), nn.Linear(time_width // 2, 1), nn.Sigmoid()
        )

    def forward(
        self, noisy: Float[Tensor, "batch ways width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch ways width"]:
        tau = get_timestep_embedding(timestep, self.config.time_width)[:, None]
        gradient = self.without_network(noisy, timestep, condition)
        return gradient + (1 - self.gate(tau)) * self._network(gradient, tau)

    def _network(self, g: Tensor, tau: Tensor) -> Tensor:
        p, e = self.project, [embed(tau) for embed in self.embed]
        x1 = softplus(p[0](g) * e[0])
        x2 = softplus(p[1](x1) * e[1])
        x3 = softplus(p[2](x2) * e[2]) + x2
        x4 = softplus(p[3](x3) * e[3]) + x1
        return p[4](x4) * e[4]

    def without_network(
        self, noisy: Float[Tensor, "batch ways width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch ways width"]:
        if condition.gradient is None:
            raise InputError("gradient_mlp needs a conditioner that gives a gradient (task_prototypes)")
        return condition.gradient
