"""Frozen timm networks and their features; importing this package registers `conv4` and `resnet12` with timm."""

from weightgen.backbones import few_shot_networks

__all__ = ["few_shot_networks"]
