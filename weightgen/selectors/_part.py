"""A part of a backbone whose parameters are generated, as offsets from the values that it has."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.func import functional_call

from weightgen.backbones.backbone import Backbone
from weightgen.features.centroid_head import centroid_head
from weightgen.records import Episode
from weightgen.selectors._selector import Selector

_IMAGES_AT_ONCE = 128


class Part:
    """The selected parameters of a backbone, which itself stays as it is.

    An offset of 0 is the backbone as it is, whatever the selector, so that offsets of many tasks can be averaged and
    compared. Episodes here are of pixels: every image one flat row of bytes at the backbone's input size.

    layout: of the selected tensors, as the prepared model names them.
    own: their values in the backbone, as one vector.

    Raises InputError when the backbone has no such part.
    """

    def __init__(self, backbone: Backbone, selector: Selector) -> None:
        self.backbone, self._selector = backbone, selector
        self._trunk = copy.deepcopy(backbone.trunk)
        selector.prepare(self._trunk)
        self.layout = selector.layout(self._trunk)
        self.own: Float[Tensor, " parameters"] = selector.read(self._trunk)
        self._trunk.requires_grad_(False).eval()

    def features(
        self, offset: Float[Tensor, " parameters"], pixels: UInt8[Tensor, "*images pixels"]
    ) -> Float[Tensor, "*images feature"]:
        """Features of images under an offset; differentiable. Memory does not grow with the images unless by that."""
        preprocess, tensors = self.backbone.preprocess, self.layout.unflatten(self.own + offset)
        batches = pixels.reshape(-1, *preprocess.input_size).split(_IMAGES_AT_ONCE)
        images = (preprocess.normalise(batch).to(self.own.device) for batch in batches)
        features = torch.cat([functional_call(self._trunk, tensors, (batch,)) for batch in images])
        return features.unflatten(0, pixels.shape[:-1])

    def query_logits(
        self,
        offsets: Float[Tensor, "batch parameters"],
        episode: Episode,
        *,
        scale: Float[Tensor, " batch"] | float,
    ) -> Float[Tensor, "batch queries ways"]:
        """Logits of the queries by the centroids of the support, each episode on the features of its own offset.

        One episode after the other: on a processor `vmap` takes 2.4 times as long.
        """
        scales = torch.as_tensor(scale).expand(len(episode))
        logits = []
        for i, offset in enumerate(offsets):
            one = episode[i : i + 1]
            ways, shots = one.support.shape[1:3]
            features = self.features(offset, torch.cat([one.support.flatten(1, 2), one.query], 1))
            support = features[:, : ways * shots].unflatten(1, (ways, shots))
            mask = one.support_mask.to(features.device)
            logits.append(centroid_head(support, mask, scale=scales[i : i + 1]).logits(features[:, ways * shots :]))
        return torch.cat(logits)

    @torch.no_grad()
    def unadapted(self, episode: Episode) -> Episode:
        """The support as features of the backbone as it is; without queries."""
        none = self.own.new_zeros(len(episode), 0, self.backbone.feature_width)
        support = self.features(torch.zeros_like(self.own), episode.support)
        return Episode(
            support=support,
            support_mask=episode.support_mask.to(support.device),
            query=none,
            query_labels=episode.query_labels[:, :0].to(support.device),
            classes=episode.classes.to(support.device),
            unlabelled=none,
            unlabelled_mask=episode.unlabelled_mask[:, :0].to(support.device),
        )

    @torch.no_grad()
    def adapted(self, offset: Float[Tensor, " parameters"]) -> tuple[Backbone, tuple[str, ...]]:
        """A copy of the backbone with the offset in it, and the names of the tensors that it decides.

        A plain model again: what `prepare` put into it has been worked into its own tensors.
        """
        backbone = copy.deepcopy(self.backbone)
        self._selector.write(backbone.trunk, (self.own + offset).to(self.own))
        names = self._selector.settle(backbone.trunk)
        backbone.requires_grad_(False).eval()
        return backbone, names
