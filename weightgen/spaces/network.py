"""A network for one fixed set of classes: its last layer is generated too, or stays as it was trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from weightgen.backbones.backbone import Backbone, classifier_matrix
from weightgen.errors import InputError
from weightgen.parameter_spaces import ChainEnd
from weightgen.records import PADDING_BIAS, Episode, LinearHeads
from weightgen.spaces.chunks import AdaptableBackbone, AutogradFit, Chunks

if TYPE_CHECKING:
    from weightgen.zoo.build import Source


class Network(Chunks):
    """Chunks of parameters of a backbone with its own classifier, for the classes that this was trained on.

    As `chunks`, but the head is no set of class means: it is the last layer, generated where the selector has it, else
    as it was trained (p-diff, arXiv 2402.13144). An episode of some of the classes is answered by their rows alone.

    Options:
        selector, sizes, token_width: as of `chunks`; the selector chooses from the backbone with its classifier.
        classes: names of the classes, in the order of the last layer; given by the data.
        start: where fits start: own, at the backbone's own values; fresh, at random ones for every run.
    """

    @register_to_config
    def __init__(
        self,
        *,
        selector: Mapping[str, Any],
        sizes: Sequence[int],
        classes: Sequence[str],
        token_width: int = 64,
        start: Literal["own", "fresh"] = "own",
    ) -> None:
        super().__init__(selector=selector, sizes=sizes, token_width=token_width)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.config.classes)

    @staticmethod
    def model(backbone: Backbone) -> nn.Module:
        """Raises InputError when the backbone has no classifier."""
        if backbone.classifier is None:
            raise InputError(
                "space network: the backbone has no classifier of its own; set backbone.pretraining.keep_head: true, "
                "or give a checkpoint with its last layer"
            )
        return backbone.with_head(*classifier_matrix(backbone))

    def attach(self, backbone: Backbone) -> None:
        """Raises InputError when the backbone has no such parameters, or a classifier of other classes."""
        super().attach(backbone)
        rows, classes = len(classifier_matrix(backbone)[0]), len(self.class_names)
        if rows != classes:
            raise InputError(
                f"space network: the backbone's classifier has {rows} classes and the data {classes}; give data of "
                "just its classes, or pretrain here with keep_head: true"
            )

    def _own_features(self, pixels: UInt8[Tensor, "*images pixels"]) -> Float[Tensor, "*images feature"]:
        features = torch.cat([self.adaptable.backbone(batch) for batch in self.adaptable.batches(pixels)])
        return features.unflatten(0, pixels.shape[:-1])

    def heads(self, end: ChainEnd) -> NetworkHeads:
        offsets, episode, real = self.decode(end.tokens[:, 0]), end.inputs(), end.counts > 0
        models = [self._written(offset, episode, i) for i, offset in enumerate(offsets)]
        classes, factors = episode.classes.to(offsets.device), end.factor.to(offsets)
        linear = _last_layers(models, self.adaptable.backbone.head_slot, classes, real, factors)
        return NetworkHeads(self.adaptable, models, classes, real, factors, linear)

    def backbone(
        self, tokens: Float[Tensor, "tokens width"], inputs: Callable[[], Episode]
    ) -> tuple[Backbone, tuple[str, ...]]:
        """The trunk of the generated network."""
        backbone, selector = copy.deepcopy(self.adaptable.backbone), self.adaptable.selector
        model, slot = self._written(self.decode(tokens), inputs(), 0), f"{backbone.head_slot}."
        names = selector.settle(model)
        state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(slot)}
        if selector.statistics == "renewed":
            names = (*names, *(name for name in state if name.rpartition(".")[2] in ("running_mean", "running_var")))
        backbone.trunk.load_state_dict(state)
        return backbone, tuple(name for name in names if not name.startswith(slot))

    def start(self, generator: torch.Generator, *, feature_width: int) -> Float[Tensor, " parameters"]:
        """The offset that a run starts from."""
        if self.config.start == "fresh":
            return self.adaptable.fresh(generator)
        return torch.zeros_like(self.adaptable.own)

    def problem(self, support: Episode, source: Source, *, noise: float, generator: torch.Generator) -> NetworkFit:
        """Offsets against the cross-entropy of the network's own logits."""
        return NetworkFit(self.adaptable, support)

    def _written(self, offset: Float[Tensor, " parameters"], episode: Episode, i: int) -> nn.Module:
        renewed = self.adaptable.selector.statistics == "renewed"
        images = episode.support[i][episode.support_mask[i]] if renewed else None
        return self.adaptable.written(offset, images)


@dataclass(frozen=True)
class NetworkHeads:
    """A network for each episode, its logits those of the episode's classes, scaled.

    models: with their heads. classes: places of the ways among the rows of the heads. real: no padding.
    """

    adaptable: AdaptableBackbone
    models: Sequence[nn.Module]
    classes: Int[Tensor, "batch ways"]
    real: Bool[Tensor, "batch ways"]
    scale: Float[Tensor, " batch"]
    linear: LinearHeads

    @torch.no_grad()
    def logits(self, features: UInt8[Tensor, "batch images pixels"]) -> Float[Tensor, "batch images ways"]:
        whole = torch.stack([
            torch.cat([model(batch) for batch in self.adaptable.batches(images)])
            for model, images in zip(self.models, features, strict=True)
        ])  # fmt: skip
        own = whole.take_along_dim(self.classes[:, None], -1) * self.scale[:, None, None]  # batch images ways
        return own.masked_fill(~self.real[:, None].to(own.device), PADDING_BIAS).to(self.linear.weight)

    def draw_logits(self, features: UInt8[Tensor, "batch images pixels"]) -> Float[Tensor, "batch 1 images ways"]:
        return self.logits(features)[:, None]

    def to(self, device: torch.device | str) -> NetworkHeads:
        return replace(self, linear=self.linear.to(device))


def _last_layers(
    models: Sequence[nn.Module],
    slot: str,
    classes: Int[Tensor, "batch ways"],
    real: Bool[Tensor, "batch ways"],
    scale: Float[Tensor, " batch"],
) -> LinearHeads:
    layers: list[Any] = [model.get_submodule(slot) for model in models]
    pairs = list(zip(layers, classes, scale, strict=True))
    weight = torch.stack([factor * layer.weight.detach()[own] for layer, own, factor in pairs])
    bias = torch.stack([factor * layer.bias.detach()[own] for layer, own, factor in pairs])
    return LinearHeads(weight[:, None], bias.masked_fill(~real.to(bias.device), PADDING_BIAS)[:, None])


class NetworkFit(AutogradFit):
    """The mean cross-entropy of a network on the images of its task, for rows of the last layer that it has.

    Where the selector does not keep the statistics of batch norms, training uses those of the images at hand, and the
    fitted values hold those of all images of the task.

    Args:
        support: of pixels.
    """

    def __init__(self, adaptable: AdaptableBackbone, support: Episode) -> None:
        super().__init__(adaptable, support)
        there = support.support_mask
        self._classes = support.classes.to(adaptable.own.device)
        self._images = [images[mask] for images, mask in zip(support.support, there, strict=True)]
        self._labels = [mask.nonzero()[:, 0].to(self._classes) for mask in there]

    def loss(self, offset: Float[Tensor, " parameters"], i: int) -> Float[Tensor, ""]:
        logits = self._adaptable.features(offset, self._images[i], training=True)[:, self._classes[i]]
        return nn.functional.cross_entropy(logits, self._labels[i])

    @torch.no_grad()
    def judged(
        self, values: Float[Tensor, "tasks parameters"]
    ) -> tuple[Float[Tensor, " tasks"], Float[Tensor, " tasks"]]:
        """With the statistics that `targets` would write."""
        accuracy, losses = [], []
        for i, offset in enumerate(values):
            model, labels = self._written(offset, i), self._labels[i]
            logits = torch.cat([model(batch) for batch in self._adaptable.batches(self._images[i])])
            logits = logits[:, self._classes[i]]
            accuracy.append((logits.argmax(-1) == labels).float().mean())
            losses.append(nn.functional.cross_entropy(logits, labels))
        return 100 * torch.stack(accuracy), torch.stack(losses)

    def targets(
        self, values: Float[Tensor, "tasks local_targets parameters"]
    ) -> Float[Tensor, "tasks local_targets parameters"]:
        """With the statistics of batch norms on all images, where they are among the parameters."""
        if self._adaptable.selector.statistics != "selected":
            return values
        read, own = self._adaptable.selector.read, self._adaptable.own
        each = [torch.stack([read(self._written(one, i)) - own for one in path]) for i, path in enumerate(values)]
        return torch.stack(each)

    def _written(self, offset: Float[Tensor, " parameters"], i: int) -> nn.Module:
        renewed = self._adaptable.selector.statistics != "kept"
        return self._adaptable.written(offset, self._images[i] if renewed else None)
