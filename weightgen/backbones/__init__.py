"""Frozen timm networks and their features; importing this package registers `conv4` and `resnet12` with timm."""

from weightgen.backbones.few_shot_networks import conv4, resnet12

__all__ = ["conv4", "resnet12"]
