"""conv4 and resnet12 are timm models like any other."""

import json

import pytest
import timm
import torch
from timm.models import save_for_hf

import weightgen.backbones  # noqa: F401  (registers the architectures)

SMALL = {"conv4": {"width": 6}, "resnet12": {"widths": (4, 5, 6, 7)}}
WIDTH = {"conv4": 6, "resnet12": 7}


def small(name: str, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **{**SMALL[name], **options}).eval()


def images_for(model: torch.nn.Module, size: int = 37) -> torch.Tensor:
    return torch.randn(2, model.in_chans, size, size + 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SMALL)
class TestTimmInterface:
    def test_create_model_with_classes_and_channels(self, name):
        model = small(name, num_classes=5, in_chans=2)
        assert model(torch.randn(3, 2, 40, 33)).shape == (3, 5)
        assert model.num_classes == 5 and model.get_classifier().out_features == 5

    def test_head_and_features_fit_together(self, name):
        model = small(name, num_classes=5)
        maps = model.forward_features(images_for(model, 48))
        assert maps.shape == (2, WIDTH[name], 3, 3)
        features = model.forward_head(maps, pre_logits=True)
        assert features.shape == (2, model.head_hidden_size) and model.num_features == WIDTH[name]
        assert torch.allclose(model.fc(features), model(images_for(model, 48)))

    def test_reset_classifier(self, name):
        model = small(name, num_classes=5)
        images = images_for(model)
        before = model.forward_head(model.forward_features(images), pre_logits=True)
        model.reset_classifier(0)
        assert torch.equal(model(images), before) and model.num_classes == 0
        model.reset_classifier(3)
        assert model(images).shape == (2, 3)
        model.reset_classifier(0, global_pool="max")
        assert torch.allclose(model(images), model.forward_features(images).amax((2, 3)))
        model.reset_classifier(0)
        assert torch.allclose(model(images), model.forward_features(images).amax((2, 3)))

    def test_default_config_describes_the_model(self, name):
        model = timm.create_model(name, **SMALL[name])
        config = model.pretrained_cfg
        assert config["input_size"][0] == model.in_chans == len(config["mean"]) == len(config["std"])
        assert model.get_submodule(config["classifier"]) is model.get_classifier()
        assert model.get_submodule(config["first_conv"]).in_channels == model.in_chans
        assert model.forward_features(torch.zeros(1, *config["input_size"])).shape[-2:] == tuple(config["pool_size"])
        assert config["crop_pct"] == 1.0

    def test_features_only(self, name):
        model = timm.create_model(name, features_only=True, **SMALL[name])
        maps = model(torch.zeros(1, model.feature_info.info[0].get("in_chans", 1 if name == "conv4" else 3), 48, 48))
        assert [entry.shape[1] for entry in maps] == model.feature_info.channels()
        assert [48 // entry.shape[2] for entry in maps] == model.feature_info.reduction()

    def test_saved_for_the_hub_and_loaded_from_a_folder(self, name, tmp_path):
        model = small(name, num_classes=5, in_chans=2)
        save_for_hf(model, tmp_path, model_args={**SMALL[name], "in_chans": 2}, safe_serialization=True)
        again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        images = images_for(model)
        assert torch.allclose(again(images), model(images), atol=1e-6)

    def test_a_head_folder_without_num_classes_in_its_arguments(self, name, tmp_path):
        model = small(name, num_classes=5)
        save_for_hf(model, tmp_path, model_args=dict(SMALL[name]), safe_serialization=True)
        config = json.loads((tmp_path / "config.json").read_text())
        config["model_args"].pop("num_classes", None)
        (tmp_path / "config.json").write_text(json.dumps(config))
        again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        assert again.num_classes == 5
        assert torch.allclose(again(images_for(model)), model(images_for(model)), atol=1e-6)

    def test_batches_do_not_mix_in_evaluation(self, name):
        model = small(name, num_classes=5)
        images = images_for(model)
        assert torch.allclose(model(images)[1:], model(images[1:]), atol=1e-6)

    def test_every_parameter_is_trained(self, name):
        model = small(name, num_classes=5).train()
        model(images_for(model)).square().sum().backward()
        assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []

    def test_dropout_acts_in_training_only(self, name):
        model = small(name, num_classes=5, drop_rate=0.5)
        images = images_for(model)
        assert torch.equal(model(images), model(images))
        model.train()
        torch.manual_seed(0)
        maps = model.forward_features(images)
        one, two = model.forward_head(maps), model.forward_head(model.forward_features(images))
        assert not torch.equal(one, two)


def test_conv4_pools_before_the_relu_with_the_same_result():
    model = small("conv4", num_classes=5)
    images = images_for(model)
    expected = images
    for block in model.blocks:
        expected = block.pool(torch.relu(block.norm(block.conv(expected))))
    assert torch.equal(model.forward_features(images), expected)


def test_full_sizes_are_the_published_ones():
    resnet12 = timm.create_model("resnet12", num_classes=0)
    assert resnet12.num_features == 640
    assert sum(p.numel() for p in resnet12.parameters()) == 12_424_320  # "12.4 M" in the papers
    conv4 = timm.create_model("conv4", num_classes=0, in_chans=3)
    assert sum(p.numel() for p in conv4.parameters()) == 9 * 64 * (3 + 3 * 64) + 4 * 2 * 64
