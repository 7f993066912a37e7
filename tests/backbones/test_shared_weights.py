"""An ImageNet network from a bare safetensors file, where the project's shared data lies beside the checkout."""

import json
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from weightgen.backbones.backbone import Backbone

SHARED = Path(__file__).parents[2].parent / "shared"
WEIGHTS = SHARED / "weights" / "mobilenetv2_100_imagenet.safetensors"
pytestmark = pytest.mark.skipif(not WEIGHTS.exists(), reason="../shared/weights is not beside this checkout")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.create(checkpoint=WEIGHTS)


def test_metadata_is_all_it_needs(backbone):
    assert (backbone.architecture, backbone.options) == ("mobilenetv2_100", {"pad_type": "same"})
    assert (backbone.head_slot, backbone.feature_width) == ("classifier", 1280)
    config = backbone.preprocess.config
    assert config["mean"] == config["std"] == [0.5, 0.5, 0.5]
    assert (config["crop_pct"], config["interpolation"]) == (0.875, "bilinear")
    assert backbone.preprocess.input_size == (3, 224, 224)


def test_its_own_classifier_gives_timms_logits(backbone):
    tensors = load_file(WEIGHTS)
    with safe_open(WEIGHTS, "pt") as opened:
        metadata = opened.metadata()
    expected = timm.create_model(metadata["architecture"], **json.loads(metadata["kwargs"])).eval()
    expected.load_state_dict(tensors, strict=True)
    ours = backbone.with_head(tensors["classifier.weight"].float(), tensors["classifier.bias"].float())
    path = next((SHARED / "data" / "query_example" / "ibis").glob("*.png"))
    image = backbone.preprocess(Image.open(path))[None]
    with torch.inference_mode():
        assert torch.allclose(ours(image), expected(image), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_centroids_of_its_features_tell_the_example_classes_apart(backbone):
    def features(part: str, name: str) -> torch.Tensor:
        paths = sorted((SHARED / "data" / part / name).glob("*.png"))
        images = torch.stack([backbone.preprocess(Image.open(path)) for path in paths])
        return torch.nn.functional.normalize(backbone(images), dim=-1)

    names = sorted(path.name for path in (SHARED / "data" / "support_example").iterdir())
    with torch.inference_mode():
        centroids = torch.stack([features("support_example", name).mean(0) for name in names])
        hits = [(features("query_example", name) @ centroids.mT).argmax(1) == i for i, name in enumerate(names)]
    assert torch.cat(hits).float().mean() >= 0.75  # of five classes; 0.86 measured
