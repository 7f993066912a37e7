"""The bi-level loop: adapt to every task on its own, then move towards where all of them ended."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from weightgen.features.standardizer import Standardizer
from weightgen.records import Calibration, Episode
from weightgen.training.episode_loss import EpisodeLoss
from weightgen.training.options import ReptileOptions


def adapted(
    module: EpisodeLoss,
    episode: Episode,
    path: Float[Tensor, "batch targets tokens width"],
    standardizer: Standardizer,
    scale: Calibration,
    generator: torch.Generator,
    *,
    options: ReptileOptions,
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """One round of REPTILE (Nichol et al. 2018), every episode of the batch a task of its own.

    From the weights φ each task takes `inner_steps` steps of descent on its own loss, over `draws` noisy values of its
    path, to φ_i. First order: nothing is differentiated through the steps, so memory does not grow with them. All
    tasks are adapted at once, as one batched problem; they share noise and times, and differ in what is denoised.

    Returns:
        the losses before the first step, averaged over tasks, and φ − mean(φ_i), what an optimiser takes for a
        gradient, for each learnt parameter.
    """
    learnt = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    weights = {name: value.expand(len(episode), *value.shape).clone() for name, value in learnt.items()}
    inputs = {name: value for name, value in vars(episode).items() if value is not None} | {"path": path}

    def loss(own: dict[str, Tensor], task: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        drawn: dict[str, Any] = {name: value.expand(options.draws, *value.shape) for name, value in task.items()}
        own_path = drawn.pop("path")
        losses = functional_call(module, own, (Episode(**drawn), own_path, standardizer, scale, generator))
        return losses["loss"], losses

    step: Any = vmap(grad_and_value(loss, has_aux=True), randomness="same")
    first: dict[str, Tensor] = {}
    signal = module.scheduler.alphas_cumprod
    for number in range(options.inner_steps):
        with sdpa_kernel(SDPBackend.MATH):  # the only attention that can be batched over weights
            gradients, (_, losses) = step(weights, inputs)
        module.scheduler.alphas_cumprod = signal  # diffusers' add_noise keeps what it saw inside the transform
        if number == 0:
            first = {name: value.mean() for name, value in losses.items()}
        for name, gradient in gradients.items():
            weights[name] -= options.inner_learning_rate * gradient
    return first, [learnt[name] - weights[name].mean(0) for name in learnt]
