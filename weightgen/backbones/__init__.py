"""Frozen timm networks and their features; importing this package registers `conv4` and `resnet12` with timm."""

from weightgen.backbones import conv4, resnet12

__all__ = ["conv4", "resnet12"]
