"""What the generator is timed against: MetaDiff's own sampler, and heads that are fitted to one episode at a time."""

from __future__ import annotations

from functools import partial

import easyfsl.methods as easyfsl
import torch
from _measured import Work
from sklearn.linear_model import LogisticRegression, RidgeClassifier

from weightgen.denoisers.gradient_mlp import GradientMlp
from weightgen.records import Episode


def literal_sampler(episode: Episode, network: GradientMlp) -> torch.Tensor:
    """MetaDiff's as its release runs it: one episode, 1,000 steps, the support loss's gradient by autograd."""
    betas = torch.linspace(1e-4, 0.02, 1000)
    kept = (1 - betas).cumprod(0)
    images, ways = episode.support[0].flatten(0, 1), episode.support.shape[1]
    labels = torch.arange(ways).repeat_interleave(episode.support.shape[2])
    rows = torch.randn(ways, images.shape[1])
    for t in reversed(range(1000)):
        rows = rows.detach().requires_grad_()
        (gradient,) = torch.autograd.grad((rows[labels] - images).square().sum(), rows)
        with torch.no_grad():
            tau = partial(network.forward, timestep=torch.tensor([t]))
            noise = tau(rows[None], condition=_Gradient(gradient[None]))[0]
            rows = (rows - betas[t] / (1 - kept[t]).sqrt() * noise) / (1 - betas[t]).sqrt()
    return rows.detach()


class _Gradient:
    """As much of a condition as the literal denoiser looks at."""

    def __init__(self, gradient: torch.Tensor) -> None:
        self.gradient = gradient


def sgd_head(images: torch.Tensor, labels: torch.Tensor, ways: int) -> None:
    """A hundred steps down the cross-entropy of a linear layer."""
    head = torch.nn.Linear(images.shape[1], ways)
    descent = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    for _ in range(100):
        descent.zero_grad()
        torch.nn.functional.cross_entropy(head(images), labels).backward()
        descent.step()


def alone(episode: Episode, network: GradientMlp) -> dict[str, Work]:
    """Peers that take one episode at a time."""
    images, ways = episode.support[0].flatten(0, 1), episode.support.shape[1]
    labels, query = torch.arange(ways).repeat_interleave(episode.support.shape[2]), episode.query[0]
    x, y = images.numpy(), labels.numpy()

    def of_easyfsl(name: str) -> None:
        method = getattr(easyfsl, name)(backbone=torch.nn.Identity())
        method.process_support_set(images, labels)
        method(query)

    named = ("PrototypicalNetworks", "SimpleShot", "BDCSPN", "LaplacianShot", "Finetune", "TIM")
    return {
        "MetaDiff, literal": lambda: literal_sampler(episode, network),
        "scikit-learn LogisticRegression": lambda: LogisticRegression(max_iter=1000).fit(x, y),
        "scikit-learn RidgeClassifier": lambda: RidgeClassifier().fit(x, y),
        "SGD, 100 steps": lambda: sgd_head(images, labels, ways),
        **{f"easyfsl {name}": partial(of_easyfsl, name) for name in named},
    }
