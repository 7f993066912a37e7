"""A data set as a set of sets: images of a class, classes of the data set."""

from __future__ import annotations

from dataclasses import replace

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor, nn

from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.interfaces import Conditioner, FeatureSpace
from weightgen.records import Condition, Episode


class DatasetEncoder(Conditioner):
    """A Set-Transformer over class-wise image features (D2NWG, Soro et al. 2024, arXiv 2402.18153).

    The images of a class attend to each other and are pooled by a learnt query (Lee et al. 2019); then classes
    attend to each other, so that the token of each knows the data set. The answer adds to E[w | support] of the
    linear-Gaussian model, where it starts. It learns with the denoiser; the paper's is trained first, by contrast with
    encoded weights.

    Options:
        width: inside. heads: of attention.
    """

    gives_variance = True

    @register_to_config
    def __init__(self, *, feature_width: int, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        if width < 1 or heads < 1 or width % heads:
            raise ValueError(f"width is {width} and heads {heads}; width must be a multiple of heads")
        self.prototypes = TaskPrototypes()
        self.embed = nn.Linear(feature_width, width)
        self.among_images, self.among_classes = _layer(width, heads), _layer(width, heads)
        self.query = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
        self.pool = nn.MultiheadAttention(width, heads, batch_first=True)
        self.read = nn.Linear(width, feature_width)
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)

    def forward(self, episode: Episode, standardizer: FeatureSpace) -> Condition:
        condition = self.prototypes(episode, standardizer)
        classes = self._pooled(episode.support, episode.support_mask)  # batch ways width
        data_set = self.among_classes(classes, src_key_padding_mask=~condition.mask)
        return replace(condition, tokens=condition.tokens + self.read(data_set) * condition.mask[..., None])

    def _pooled(
        self, support: Float[Tensor, "batch ways shots feature"], mask: Bool[Tensor, "batch ways shots"]
    ) -> Float[Tensor, "batch ways width"]:
        """Each class by itself."""
        absent = ~mask.flatten(0, 1)
        absent = absent & ~absent.all(-1, keepdim=True)  # of padding every image, for attention needs one
        images = self.among_images(self.embed(support.flatten(0, 1)), src_key_padding_mask=absent)
        query = self.query.expand(len(images), -1, -1)
        pooled: Tensor = self.pool(query, images, images, key_padding_mask=absent, need_weights=False)[0]
        return pooled[:, 0].unflatten(0, support.shape[:2])


def _layer(width: int, heads: int) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
