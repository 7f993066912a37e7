"""The large libraries, imported before weightgen.

What is imported from within a module that jaxtyping instruments has its bytecode looked up by another name, and would
be compiled anew: 14 seconds in every process of a test run.
"""

# ruff: noqa: F401
import accelerate
import beartype.door
import datasets
import diffusers.pipelines.pipeline_utils
import matplotlib.figure
import PIL.Image
import pydantic
import sklearn.linear_model
import timm
import torchmetrics.functional.classification
import torchvision
