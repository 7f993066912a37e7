"""Untrained generators that write inside a small backbone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from made_up_pixels import WIDTH, made_up_pixels, pixel_episode, small_backbone

from weightgen.backbones.backbone import Backbone
from weightgen.conditioners.local_targets import LocalTargets
from weightgen.denoisers.chunk_transformer import ChunkTransformer
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import ZooTargets
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Calibration
from weightgen.registry import create
from weightgen.schedulers.local_ddpm import LocalDDPMScheduler
from weightgen.seeds import generator
from weightgen.spaces.chunks import AdaptableBackbone, Chunks
from weightgen.spaces.network import Network
from weightgen.zoo.build import Source, ZooPlan

CHAIN, TOKEN_WIDTH = 6, 9
SELECTORS: dict[str, dict[str, Any]] = {
    "norm_affine": {},
    "bias": {},
    "last_block": {},
    "pattern": {"target_modules": ["blocks.1.conv"]},
    "all": {},
    "lora": {"target_modules": ["blocks.1.conv", "blocks.2.conv"], "rank": 2},
}
"""Of parameters inside the backbone, with options that a conv4 has something for."""


def made_up_chunks(selector: str = "norm_affine", *, backbone: Backbone | None = None) -> Chunks:
    """Attached to a small backbone, and fitted to made-up offsets."""
    backbone = backbone or small_backbone()
    sizes = AdaptableBackbone(backbone, create("selectors", selector, SELECTORS[selector])).layout.sizes
    space = Chunks(selector={"name": selector, **SELECTORS[selector]}, sizes=sizes, token_width=TOKEN_WIDTH)
    space.attach(backbone)
    space.fit([made_up_offsets(space)])
    return space


def made_up_classifier(classes: int = 6) -> torch.nn.Linear:
    """Of the classes of `made_up_pixels`."""
    layer = torch.nn.Linear(WIDTH, classes)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator(2, "classifier")))
    return layer.requires_grad_(False)


def made_up_network(backbone: Backbone, selector: str = "all", **options: Any) -> Network:
    """Attached to a backbone with a classifier, and fitted to made-up offsets."""
    chosen = create("selectors", selector, options)
    sizes = AdaptableBackbone(backbone, chosen, model=Network.model(backbone)).layout.sizes
    space = Network(
        selector={"name": selector, **options},
        sizes=sizes,
        classes=made_up_pixels().class_names,
        token_width=TOKEN_WIDTH,
        start="fresh",
    )
    space.attach(backbone)
    space.fit([made_up_offsets(space)])
    return space


def made_up_plan(
    targets: ZooTargets, selector: str = "all", *, seed: int = 0, options: dict[str, Any] | None = None
) -> ZooPlan:
    """Of a zoo of small networks for six classes."""
    backbone = small_backbone()
    backbone.classifier = made_up_classifier()
    space, standardizer = made_up_network(backbone, selector, **(options or {})), Standardizer(feature_width=WIDTH)
    source = Source(space, made_up_pixels(), standardizer, torch.zeros(1, WIDTH), Calibration())
    return ZooPlan(targets, (source,), (2, 4), seed=seed, backbone="made up")


def made_up_offsets(space: Chunks) -> torch.Tensor:
    """Three local targets of nine tasks."""
    return 0.2 * torch.randn(9, 3, space.adaptable.layout.size, generator=generator(0, "zoo"))


def untrained(selector: str = "norm_affine") -> WeightGenerationPipeline:
    """With weights far enough from zero that a support can be seen in what is written."""
    backbone = small_backbone()
    space = made_up_chunks(selector, backbone=backbone)
    pixels = made_up_pixels(images=5)
    features = space.features(pixel_episode(batch=1, ways=6, shots=5, queries=1)).support[0].flatten(0, 1)
    standardizer = Standardizer(feature_width=WIDTH).fit(replace(pixels, values=features))
    scheduler = LocalDDPMScheduler(segments=3, num_train_timesteps=CHAIN, prediction_type="sample")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        conditioner = LocalTargets(feature_width=WIDTH, width=7)
        sizes = {"sizes": space.config.sizes, "token_width": TOKEN_WIDTH}
        denoiser = ChunkTransformer(feature_width=WIDTH, num_train_timesteps=CHAIN, **sizes, width=12, heads=3)
        torch.nn.init.normal_(denoiser.out.weight, std=0.3)
    denoiser.set_noise_levels(scheduler)
    return WeightGenerationPipeline(
        denoiser.eval(), conditioner.eval(), standardizer, space, scheduler, backbone,
        calibration=((1.0, 5.0), (4.0, 9.0)), steps=CHAIN,
    )  # fmt: skip
