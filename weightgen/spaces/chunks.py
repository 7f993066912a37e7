"""Parameters inside the backbone, as offsets from its own values in chunks of fixed width."""

from __future__ import annotations

import copy
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.swa_utils import update_bn

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.construction import without_prefix
from weightgen.errors import InputError, check_positive
from weightgen.interfaces import AdaptsBackbone, FitProblem, GeneratedHeads, ParameterSpace, Selector
from weightgen.parameter_spaces import ChainEnd
from weightgen.records import PADDING_BIAS, Condition, Episode, LinearHeads
from weightgen.registry import create

if TYPE_CHECKING:
    from weightgen.zoo.build import Source

_IMAGES_AT_ONCE = 128
_LEAST_SCALE = 1e-8
_START = 0.01  # standard deviation of the shared start; a channel's scale is about 1
_MOST_IMAGES = 5  # of a class in one half; an epoch that looks at fewer images costs less, and the next sees others
_FIT_SCALE = 30.0
"""Of the cosines that a fit looks at. At 10, usual where rows are learnt along, images of high probability still pull,
all tasks in one direction, and the mean of the zoo is worse than no offset (by 1 point on glyphs)."""


class Chunks(ParameterSpace, AdaptsBackbone):
    """Tokens are chunks of v = (offset − mean) / scale, the last one padded with 0; heads are class means.

    The offset moves the selected parameters of the backbone from their own values. The head on the adapted features
    stays the centroids of the support, so that all that is gained comes from the adaptation.

    Every entry has a mean of its own; the scale is one number per tensor, the root mean square of what is left in it,
    for tensors differ in size by their nature and entries of one tensor by chance. Both are fitted on the local targets
    of all tasks of a zoo together.

    Options:
        selector: name and options of the selector; given by the recipe.
        sizes: numbers of entries of the tensors that a vector holds, in order; given by the selector.
        token_width: entries in a token.

    Buffers: `mean` and `scale` [parameters]; `end` [parameters], the mean of the last local targets alone, which is
        the best single offset for all tasks.
    """

    takes_images = True
    ordered = True
    draws = False
    tasks_in_shard = 32
    mean: Tensor
    scale: Tensor
    end: Tensor

    @register_to_config
    def __init__(self, *, selector: Mapping[str, Any], sizes: Sequence[int], token_width: int = 64) -> None:
        super().__init__()
        check_positive(token_width=token_width)
        for name, value in (("mean", 0.0), ("scale", 1.0), ("end", 0.0)):
            self.register_buffer(name, torch.full((sum(sizes),), value))

    def attach(self, backbone: Backbone) -> None:
        """Raises InputError when the backbone has no such parameters, or of other sizes."""
        options = dict(self.config.selector)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise InputError(f"space {type(self).__name__}: its config names no selector; save the generator again")
        if "." in name and name not in sys.modules:  # a folder may not make us import code that the user did not
            raise InputError(f"the selector comes from '{name}'; import that module first if you trust it")
        selector = create("selectors", name, options)
        adaptable = AdaptableBackbone(backbone, selector, model=self.model(backbone))
        if list(self.config.sizes) != list(adaptable.layout.sizes):
            raise InputError(
                f"{type(self).__name__} for tensors of {list(self.config.sizes)} entries does not fit a selection "
                f"of {list(adaptable.layout.sizes)}; these components are not of one generator"
            )
        self.adaptable = adaptable

    @property
    def tokens(self) -> int:
        return -(-len(self.mean) // int(self.config.token_width))

    def features(self, inputs: Episode) -> Episode:
        """Of the backbone as it is, for the support; without unlabelled images and queries."""
        with torch.no_grad():
            support = self._own_features(inputs.support)
        device = support.device
        return Episode.of_support(support, inputs.support_mask.to(device), classes=inputs.classes.to(device))

    def _own_features(self, pixels: UInt8[Tensor, "*images pixels"]) -> Float[Tensor, "*images feature"]:
        return self.adaptable.features(torch.zeros_like(self.adaptable.own), pixels)

    def real(self, condition: Condition) -> Bool[Tensor, "batch tokens"]:
        return torch.ones(len(condition.counts), self.tokens, dtype=torch.bool, device=condition.counts.device)

    def like(self, condition: Condition) -> Float[Tensor, "batch tokens width"]:
        return condition.tokens.new_zeros(len(condition.tokens), self.tokens, self.config.token_width)

    def heads(self, end: ChainEnd) -> GeneratedHeads:
        """A backbone for each episode, its head the centroids of the support on the features of its own."""
        return AdaptedHeads.of(self.adaptable, self.decode(end.tokens[:, 0]), end.inputs(), scale=end.factor)

    def backbone(
        self, tokens: Float[Tensor, "tokens width"], inputs: Callable[[], Episode]
    ) -> tuple[Backbone, tuple[str, ...]]:
        """The backbone moved by the offset of these tokens."""
        return self.adaptable.adapted(self.decode(tokens))

    def start(self, generator: torch.Generator, *, feature_width: int) -> Float[Tensor, " parameters"]:
        return _START * torch.randn(len(self.mean), generator=generator)

    def problem(self, support: Episode, source: Source, *, noise: float, generator: torch.Generator) -> FitProblem:
        """Offsets against the cross-entropy of one half of the images under the class means of the other."""
        return OffsetFit(self.adaptable, support, generator=generator)

    @torch.no_grad()
    def fit(self, targets: Sequence[Float[Tensor, "_ local_targets parameters"]]) -> None:
        """Set the buffers. Raises ValueError for vectors of another length."""
        path = torch.cat(list(targets))
        if path.shape[-1:] != self.mean.shape:
            raise ValueError(f"vectors of {path.shape[-1]} entries given where sizes add up to {len(self.mean)}")
        vectors = path.flatten(0, 1).double()
        mean = vectors.mean(0)
        pieces = (vectors - mean).split(list(self.config.sizes), dim=-1)
        scales = [piece.square().mean().sqrt().clamp(min=_LEAST_SCALE).expand(piece.shape[-1]) for piece in pieces]
        self.mean.copy_(mean)
        self.scale.copy_(torch.cat(scales))
        self.end.copy_(path[:, -1].double().mean(0))

    def encode(self, values: Float[Tensor, "*any parameters"]) -> Float[Tensor, "*any tokens width"]:
        """Offsets as tokens of mean 0 and unit scale over the zoo."""
        unit, width = (values.to(self.mean) - self.mean) / self.scale, int(self.config.token_width)
        padded = torch.nn.functional.pad(unit, (0, self.tokens * width - unit.shape[-1]))
        return padded.unflatten(-1, (self.tokens, width))

    def decode(self, tokens: Float[Tensor, "*any tokens width"]) -> Float[Tensor, "*any parameters"]:
        """Inverse of `encode`; what stands in the padding is dropped."""
        return tokens.flatten(-2)[..., : len(self.mean)] * self.scale + self.mean

    def read(self, tensors: Mapping[str, Tensor], *, source: str) -> Float[Tensor, " parameters"]:
        """The offset from the backbone to a checkpoint."""
        layout, own = self.adaptable.layout, self.adaptable.own
        named, source = without_prefix(tensors, [name for name, _ in layout.entries], source=source)
        for name, shape in layout.entries:
            if name not in named:
                raise InputError(
                    f"{source}: tensor '{name}' is missing, and the selector chooses it; give whole networks"
                )
            if tuple(named[name].shape) != shape:
                raise InputError(
                    f"{source}: tensor '{name}' has shape {list(named[name].shape)}, and the backbone's has "
                    f"{list(shape)}; give checkpoints of its architecture and classes"
                )
        return layout.flatten({name: named[name].to(own) for name, _ in layout.entries}) - own


class AdaptableBackbone:
    """A backbone, and what it computes when its selected parameters are moved by an offset; itself it stays as it is.

    An offset of 0 is the backbone as it is, whatever the selector, so that offsets of many tasks can be averaged and
    compared. Images are flat rows of bytes at the backbone's input size.

    layout: of the selected tensors, as the prepared model names them.
    own: their values in the backbone, as one vector.

    Args:
        model: what the selector chooses from, of its own; a copy of the trunk if None.

    Raises InputError when the backbone has no such parameters.
    """

    def __init__(self, backbone: Backbone, selector: Selector, *, model: nn.Module | None = None) -> None:
        self.backbone, self.selector = backbone, selector
        self._trunk = copy.deepcopy(backbone.trunk) if model is None else model
        selector.prepare(self._trunk)
        self.layout = selector.layout(self._trunk)
        self.own: Float[Tensor, " parameters"] = selector.read(self._trunk)
        self._trunk.requires_grad_(False).eval()

    def features(
        self, offset: Float[Tensor, " parameters"], pixels: UInt8[Tensor, "*images pixels"], *, training: bool = False
    ) -> Float[Tensor, "*images feature"]:
        """Features of images under an offset; differentiable. Memory does not grow with the images unless by that.

        training: batch norms use the statistics of the images, if the selector does not keep theirs.
        """
        values = self.layout.unflatten(self.own + offset.to(self.own))
        tensors, batches = self.selector.admissible(values), self.batches(pixels)
        if training and self.selector.statistics != "kept":
            buffers: dict[str, Tensor] = dict(self._trunk.named_buffers())  # copies, for training mode writes to them
            tensors = {**tensors, **{name: tensors.get(name, own).detach().clone() for name, own in buffers.items()}}
            self._trunk.train()
        features = torch.cat([functional_call(self._trunk, tensors, (batch,)) for batch in batches])
        self._trunk.eval()
        return features.unflatten(0, pixels.shape[:-1])

    def batches(
        self, pixels: UInt8[Tensor, "*images pixels"]
    ) -> Iterator[Float[Tensor, "batch channels height width"]]:
        """Images as the model takes them, some at a time."""
        preprocess = self.backbone.preprocess
        for batch in pixels.reshape(-1, *preprocess.input_size).split(_IMAGES_AT_ONCE):
            yield preprocess.normalise(batch).to(self.own.device)

    @torch.no_grad()
    def written(
        self, offset: Float[Tensor, " parameters"], images: UInt8[Tensor, "images pixels"] | None = None
    ) -> nn.Module:
        """A copy of the model with the offset in it; its batch norms' statistics are those of the images, if given."""
        model = copy.deepcopy(self._trunk)
        self.selector.write(model, self.own + offset.to(self.own))
        if images is not None:
            update_bn(self.batches(images), model)
        return model

    @torch.no_grad()
    def fresh(self, generator: torch.Generator) -> Float[Tensor, " parameters"]:
        """The offset to parameters as torch draws those of every layer."""
        model = copy.deepcopy(self._trunk)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            for module in model.modules():
                if callable(reset := getattr(module, "reset_parameters", None)):
                    reset()
        return self.selector.read(model) - self.own

    @torch.no_grad()
    def adapted(self, offset: Float[Tensor, " parameters"]) -> tuple[Backbone, tuple[str, ...]]:
        """A copy of the backbone with the offset in it, and the names of the tensors that it decides.

        A plain model again: what `prepare` put into it has been worked into its own tensors.
        """
        backbone = copy.deepcopy(self.backbone)
        self.selector.write(backbone.trunk, self.own + offset.to(self.own))
        names = self.selector.settle(backbone.trunk)
        backbone.requires_grad_(False).eval()
        return backbone, names


@dataclass(frozen=True)
class AdaptedHeads:
    """A backbone moved by an offset for each episode, and a linear head on its features."""

    adaptable: AdaptableBackbone
    offsets: Float[Tensor, "batch parameters"]
    linear: LinearHeads

    @classmethod
    def of(
        cls,
        adaptable: AdaptableBackbone,
        offsets: Float[Tensor, "batch parameters"],
        episode: Episode,
        *,
        scale: Float[Tensor, " batch"] | float,
    ) -> AdaptedHeads:
        """Heads that are the centroids of the support on the features of each offset.

        One episode after the other: on a processor `vmap` takes 2.4 times as long.
        """
        support = torch.cat(
            [adaptable.features(offset, episode.support[i : i + 1]) for i, offset in enumerate(offsets)]
        )
        linear = centroid_head(support, episode.support_mask.to(support.device), scale=scale)
        return cls(adaptable, offsets, linear)

    def draw_logits(self, features: UInt8[Tensor, "batch images pixels"]) -> Float[Tensor, "batch 1 images ways"]:
        own = [self.adaptable.features(offset, features[i : i + 1]) for i, offset in enumerate(self.offsets)]
        return self.linear.draw_logits(torch.cat(own).to(self.linear.weight))

    def to(self, device: torch.device | str) -> AdaptedHeads:
        return replace(self, linear=self.linear.to(device))

    def logits(self, features: UInt8[Tensor, "batch images pixels"]) -> Float[Tensor, "batch images ways"]:
        return self.draw_logits(features)[:, 0]


def centroid_head(
    support: Float[Tensor, "batch ways shots feature"],
    mask: Bool[Tensor, "batch ways shots"],
    *,
    scale: Float[Tensor, " batch"] | float,
) -> LinearHeads:
    """Logits are scale · ĉ·f / r on raw features, ĉ the direction of a class's mean feature.

    r, the mean length of the support's features, stands for each query's own length, which a linear layer cannot
    divide by; the ranking of classes is that of the cosine. A class without support images gets probability 0.
    """
    there = mask[..., None]
    means = (support * there).sum(2) / there.sum(2).clamp(min=1)  # batch ways feature
    radius = (support.norm(dim=-1) * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
    factor = (torch.as_tensor(scale).to(support) / radius.clamp(min=1e-8))[:, None, None]
    weight = factor * torch.nn.functional.normalize(means, dim=-1)
    bias = torch.where(mask.any(-1), 0.0, PADDING_BIAS).to(weight)
    return LinearHeads(weight[:, None], bias[:, None])


class AutogradFit(FitProblem):
    """Offsets of many tasks, one task after the other: on a processor `vmap` takes 2.4 times as long."""

    def __init__(self, adaptable: AdaptableBackbone, support: Episode) -> None:
        self._adaptable, self._support = adaptable, support

    @abstractmethod
    def loss(self, offset: Float[Tensor, " parameters"], i: int) -> Float[Tensor, ""]:
        """Mean cross-entropy of one task."""

    def initial(self, start: Float[Tensor, " parameters"]) -> Float[Tensor, "tasks parameters"]:
        return start.to(self._adaptable.own).repeat(len(self._support), 1)

    def gradient(self, values: Float[Tensor, "tasks parameters"], *, out: Float[Tensor, "tasks parameters"]) -> None:
        for i, offset in enumerate(values):
            with torch.enable_grad():
                leaf = offset.detach().requires_grad_()
                out[i] = torch.autograd.grad(self.loss(leaf, i), leaf)[0]


class OffsetFit(AutogradFit):
    """The class means of one half of a task's images classify the other half; halves are drawn anew in every epoch.

    No head is fitted along: an offset that leans on a head of its own is of no use to one made later, from other
    images. Where a class has a single image it is in both halves. Batch norms keep their statistics.

    Args:
        support: of pixels.
        generator: decides the halves.
    """

    def __init__(self, adaptable: AdaptableBackbone, support: Episode, *, generator: torch.Generator) -> None:
        super().__init__(adaptable, support)
        self._generator = generator
        fewest = int(support.counts[support.counts > 0].min())
        self._half = max(1, min(_MOST_IMAGES, fewest // 2))

    def start_epoch(self) -> None:
        """Draw the halves."""
        images, mask, half = self._support.support, self._support.support_mask, self._half
        order = torch.rand(mask.shape, generator=self._generator).masked_fill(~mask, -1.0).argsort(-1, descending=True)
        first, second = order[..., :half], order[..., half : 2 * half]
        self._labelled = replace(
            self._support,
            support=images.take_along_dim(first[..., None], 2),
            support_mask=mask.take_along_dim(first, 2),
        )
        apart = bool((mask.sum(-1) >= 2 * half).all())
        self._queries = images.take_along_dim((second if apart else first)[..., None], 2).flatten(1, 2)

    def loss(self, offset: Float[Tensor, " parameters"], i: int) -> Float[Tensor, ""]:
        return self._losses(self._logits(offset[None], slice(i, i + 1))).sum()

    def judged(
        self, values: Float[Tensor, "tasks parameters"]
    ) -> tuple[Float[Tensor, " tasks"], Float[Tensor, " tasks"]]:
        """On halves of their own."""
        self.start_epoch()
        logits = self._logits(values, slice(None))
        accuracy = (logits.argmax(-1) == self._labels(logits)).to(values).mean(-1)
        return 100 * accuracy, self._losses(logits)

    def _logits(self, offsets: Float[Tensor, "tasks parameters"], which: slice) -> Float[Tensor, "tasks queries ways"]:
        heads = AdaptedHeads.of(self._adaptable, offsets, self._labelled[which], scale=_FIT_SCALE)
        return heads.logits(self._queries[which])

    def _labels(self, logits: Float[Tensor, "tasks queries ways"]) -> Int[Tensor, "tasks queries"]:
        ways, device = logits.shape[-1], logits.device
        return torch.arange(ways, device=device).repeat_interleave(logits.shape[1] // ways).expand(len(logits), -1)

    def _losses(self, logits: Float[Tensor, "tasks queries ways"]) -> Float[Tensor, " tasks"]:
        return torch.nn.functional.cross_entropy(logits.mT, self._labels(logits), reduction="none").mean(-1)
