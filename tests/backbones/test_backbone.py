"""Any timm model becomes a trunk and a linear head slot, whatever its family."""

import json
import re

import huggingface_hub.errors
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from weightgen.backbones import construction
from weightgen.backbones.backbone import Backbone
from weightgen.errors import InputError
from weightgen.heads.head import Head
from weightgen.records import LinearHeads

FAMILIES = {
    "conv4": {"width": 6},
    "resnet12": {"widths": [4, 5, 6, 7], "img_size": 33},
    "test_resnet": {},
    "test_vit": {"in_chans": 1},
    "test_efficientnet": {},
    "test_convnext": {},
    "test_convnext2": {"in_chans": 1},
    "test_byobnet": {},
    "test_mambaout": {},
    "mobilenetv2_035": {"img_size": 47},
    "mobilenetv3_small_050": {"img_size": 45},
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 1},
}


@pytest.fixture(params=FAMILIES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return Backbone.create(model=request.param, options=FAMILIES[request.param], seed=3)


def images_for(backbone: Backbone, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, *backbone.preprocess.input_size, generator=torch.Generator().manual_seed(5))


def test_logits_are_the_head_on_the_features(backbone):
    images = images_for(backbone)
    weight, bias = torch.randn(3, backbone.feature_width), torch.randn(3)
    with torch.inference_mode():
        features = backbone(images)
        model = backbone.with_head(weight, bias)
        logits = model(images)
    assert features.shape == (2, backbone.feature_width)
    assert torch.allclose(logits, features @ weight.mT + bias, rtol=0, atol=1e-5)
    assert features.std() > 0 and not model.training
    assert model.num_classes == 3 and torch.equal(model.get_classifier().weight, weight)


def test_features_are_what_timm_calls_pre_logits(backbone):
    images = images_for(backbone)
    full = timm.create_model(backbone.architecture, num_classes=3, **backbone.options).eval()
    full.load_state_dict(backbone.trunk.state_dict(), strict=False)
    with torch.inference_mode():
        expected = full.forward_head(full.forward_features(images), pre_logits=True)
        assert torch.allclose(backbone(images), expected, rtol=1e-4, atol=1e-5)


def test_heads_of_one_backbone_are_independent(backbone):
    before = backbone.weights_hash()
    one = backbone.with_head(torch.ones(3, backbone.feature_width), torch.zeros(3))
    two = backbone.with_head(torch.zeros(4, backbone.feature_width), torch.ones(4))
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.fill_(1.0)
    assert backbone.weights_hash() == before
    assert two.num_classes == 4 and torch.equal(two.get_classifier().bias, torch.ones(4))


def test_saved_and_read_again_gives_equal_features(backbone, tmp_path):
    backbone.save_pretrained(tmp_path / "backbone")
    again = Backbone.from_pretrained(tmp_path / "backbone")
    images = images_for(backbone)
    with torch.inference_mode():
        assert torch.equal(again(images), backbone(images))
    assert again.weights_hash() == backbone.weights_hash()
    assert again.preprocessing_key() == backbone.preprocessing_key()
    assert (again.head_slot, again.feature_width) == (backbone.head_slot, backbone.feature_width)
    assert sorted(path.name for path in (tmp_path / "backbone").iterdir()) == ["config.json", "model.safetensors"]


def test_backbone_is_frozen_and_in_evaluation_mode(backbone):
    assert not backbone.training and not any(parameter.requires_grad for parameter in backbone.parameters())


def test_same_seed_same_weights():
    one, two, other = (Backbone.create(model="conv4", seed=seed) for seed in (1, 1, 2))
    assert one.weights_hash() == two.weights_hash() != other.weights_hash()


def test_creating_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Backbone.create(model="conv4")
    assert torch.equal(torch.rand(1), expected)


def test_pooling_option_survives():
    images = torch.randn(2, 3, 64, 64)
    options = {"global_pool": "max"}
    backbone = Backbone.create(model="test_resnet", options=options)
    maps = backbone.trunk.forward_features(images)
    assert torch.allclose(backbone(images), maps.amax((2, 3)), atol=1e-6)
    model = backbone.with_head(torch.eye(backbone.feature_width), torch.zeros(backbone.feature_width))
    assert torch.allclose(model(images), maps.amax((2, 3)), atol=1e-5)


def test_options_that_change_features_change_the_hash():
    keys = {Backbone.create(model="mobilenetv2_035", options={"pad_type": pad}).weights_hash() for pad in ("", "same")}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "neither a model nor a checkpoint"),
        ({"model": "convv4"}, "no model 'convv4'; did you mean 'conv4'"),
        ({"model": "resnet50.a1_in1"}, "no weights 'resnet50.a1_in1'; did you mean 'resnet50.a1_in1k'"),
        ({"model": "no such network at all"}, "no model"),
        ({"model": "deit_tiny_distilled_patch16_224"}, "2 heads"),
        ({"model": "levit_128s"}, "2 heads"),
        ({"model": "conv4", "options": {"wdth": 5}}, "conv4.*wdth"),
        ({"model": "conv4", "options": {"num_classes": 5}}, "'num_classes' is not yours"),
        ({"model": "conv4", "options": {"in_chans": 2}}, "in_chans is 2"),
        ({"model": "test_resnet", "options": {"output_stride": 5}}, r"so: assert output_stride in \(8, 16, 32\)"),
        ({"model": "test_convnext", "options": {"depths": [1]}}, "so: list index out of range"),
        ({"model": "test_vit", "options": {"patch_size": 0}}, "so: integer .*by zero"),
        ({"model": "conv4", "pretrained": True, "checkpoint": "x.safetensors"}, "exclude each other"),
        ({"model": "conv4", "pretrained": True}, "no safetensors weights for 'conv4'"),
        ({"checkpoint": "missing.safetensors"}, "missing.safetensors"),
        ({"model": "conv4", "checkpoint": "weights.bin"}, "never pickles"),
        ({"model": "conv4", "checkpoint": "weights.pth"}, "never pickles"),
    ],
)
def test_wrong_input_is_refused_in_one_line(arguments, message):
    with pytest.raises(InputError, match=message) as refused:
        Backbone.create(**arguments)
    assert "\n" not in str(refused.value)


def test_a_head_of_another_width_is_refused():
    backbone = Backbone.create(model="conv4", options={"width": 6})
    with pytest.raises(InputError, match="6 features"):
        backbone.with_head(torch.zeros(3, 7), torch.zeros(3))
    with pytest.raises((InputError, TypeError)):  # a shape checker, where one is switched on, is faster
        backbone.with_head(torch.zeros(3, 6), torch.zeros(4))


def test_a_model_without_pooling_is_refused_when_used():
    backbone = Backbone.create(model="test_resnet", options={"global_pool": ""})
    with pytest.raises(InputError, match="pooling"):
        backbone(torch.zeros(1, 3, 32, 32))


class TestCheckpoint:
    @pytest.fixture
    def full(self):
        torch.manual_seed(0)
        return timm.create_model("conv4", num_classes=5, width=6).eval()

    @staticmethod
    def write(path, tensors, **metadata):
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
        return path

    def test_metadata_names_the_model(self, full, tmp_path):
        config = {"mean": [0.25], "std": [0.75], "input_size": [1, 24, 20]}
        path = self.write(
            tmp_path / "x.safetensors",
            full.state_dict(),
            architecture="conv4",
            kwargs=json.dumps({"width": 6}),
            pretrained_cfg=json.dumps(config),
        )
        backbone = Backbone.create(checkpoint=path)
        images = torch.randn(2, 1, 24, 20)
        with torch.inference_mode():
            logits = backbone.with_head(full.fc.weight, full.fc.bias)(images)
            assert torch.allclose(logits, full(images), rtol=0, atol=1e-5)
        assert backbone.preprocess.input_size == (1, 24, 20)
        white = backbone.preprocess(Image.new("RGB", (50, 60), "white"))
        assert white.shape == (1, 24, 20) and torch.allclose(white, torch.tensor(1.0))
        assert Backbone.create(checkpoint=path, options={"mean": [0.5]}).preprocess.config["mean"] == [0.5]

    def test_a_checkpoint_without_classifier_will_do(self, full, tmp_path):
        tensors = {name: tensor for name, tensor in full.state_dict().items() if not name.startswith("fc.")}
        path = self.write(tmp_path / "x.safetensors", tensors)
        backbone = Backbone.create(model="conv4", checkpoint=path, options={"width": 6})
        assert torch.equal(backbone.trunk.state_dict()["blocks.3.conv.weight"], full.blocks[3].conv.weight)

    def test_half_precision_is_read(self, full, tmp_path):
        tensors = {
            name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in full.state_dict().items()
        }
        path = self.write(tmp_path / "x.safetensors", tensors, architecture="conv4", kwargs='{"width": 6}')
        backbone = Backbone.create(checkpoint=path)
        weight = backbone.trunk.state_dict()["blocks.0.conv.weight"]
        assert weight.dtype == torch.float32 and torch.equal(weight, full.blocks[0].conv.weight.half().float())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.pop("blocks.1.conv.weight"), "'blocks.1.conv.weight' is missing"),
            (lambda t: t.update({"blocks.9.x": torch.zeros(1)}), "'blocks.9.x' is unknown"),
            (lambda t: t.update({"blocks.2.conv.weight": torch.zeros(6, 5, 3, 3)}), "'blocks.2.conv.weight' has shape"),
            (lambda t: t["blocks.2.conv.weight"].fill_(float("nan")), "'blocks.2.conv.weight' holds NaN"),
            (lambda t: t["blocks.0.norm.bias"].fill_(float("inf")), "'blocks.0.norm.bias' holds NaN or inf"),
        ],
    )
    def test_what_does_not_fit_is_named(self, full, tmp_path, change, message):
        tensors = {name: tensor.clone() for name, tensor in full.state_dict().items()}
        change(tensors)
        path = self.write(tmp_path / "x.safetensors", tensors)
        with pytest.raises(InputError, match=message) as refused:
            Backbone.create(model="conv4", checkpoint=path, options={"width": 6})
        assert "x.safetensors" in str(refused.value)

    @pytest.mark.parametrize(
        ("metadata", "model", "message"),
        [
            ({}, None, "names no architecture"),
            ({"architecture": "resnet12"}, "conv4", "is a 'resnet12', not a 'conv4'"),
            ({"architecture": "conv4", "kwargs": "{"}, None, "'kwargs' is not valid JSON"),
            ({"architecture": "conv4", "kwargs": "[1]"}, None, "'kwargs' is not a JSON object"),
            (
                {"architecture": "conv4", "kwargs": '{"checkpoint_path": "x.bin"}'},
                None,
                "'checkpoint_path' is not yours",
            ),
            ({"architecture": "conv44"}, None, "did you mean 'conv4'"),
        ],
    )
    def test_wrong_metadata(self, full, tmp_path, metadata, model, message):
        path = self.write(tmp_path / "x.safetensors", full.state_dict(), **metadata)
        with pytest.raises(InputError, match=message):
            Backbone.create(model=model, checkpoint=path)

    def test_a_truncated_file(self, full, tmp_path):
        path = self.write(tmp_path / "x.safetensors", full.state_dict())
        path.write_bytes(path.read_bytes()[:-7])
        with pytest.raises(InputError, match="not a whole safetensors file"):
            Backbone.create(model="conv4", checkpoint=path)

    PREFIXES = ("module.", "_orig_mod.", "model.", "timm_model.", "backbone.", "module._orig_mod.", "model.encoder.")

    @pytest.mark.parametrize("prefix", PREFIXES)
    def test_names_below_one_prefix_are_read(self, full, tmp_path, prefix):
        wrapped = {f"{prefix}{name}": tensor for name, tensor in full.state_dict().items()}
        plain, read = (
            Backbone.create(model="conv4", checkpoint=self.write(tmp_path / name, tensors), options={"width": 6})
            for name, tensors in (("a.safetensors", full.state_dict()), ("b.safetensors", wrapped))
        )
        assert read.weights_hash() == plain.weights_hash()

    @pytest.mark.parametrize("prefix", PREFIXES)
    def test_what_lies_beside_the_prefix_or_lacks_below_it_is_named_with_the_prefix(self, full, tmp_path, prefix):
        wrapped = {f"{prefix}{name}": tensor for name, tensor in full.state_dict().items()}
        more = self.write(tmp_path / "a.safetensors", {**wrapped, "projector.weight": torch.zeros(2)})
        with pytest.raises(InputError, match=rf"named '{re.escape(prefix)}…'.*'projector.weight'") as caught:
            Backbone.create(model="conv4", checkpoint=more, options={"width": 6})
        assert "\n" not in str(caught.value)
        del wrapped[f"{prefix}blocks.1.norm.weight"]
        fewer = self.write(tmp_path / "b.safetensors", wrapped)
        with pytest.raises(
            InputError, match=rf"\(below '{re.escape(prefix)}'\): tensor 'blocks.1.norm.weight' is miss"
        ):
            Backbone.create(model="conv4", checkpoint=fewer, options={"width": 6})

    def test_a_file_without_tensors(self, tmp_path):
        with pytest.raises(InputError, match="is missing"):
            Backbone.create(model="conv4", checkpoint=self.write(tmp_path / "x.safetensors", {}, format="pt"))


class TestModelFolder:
    """timm's `local-dir:` notation."""

    def timm_folder(self, folder, *, classes=3):
        torch.manual_seed(1)
        model = timm.create_model("test_resnet", num_classes=classes, in_chans=1)
        save_for_hf(model, folder, model_args={"in_chans": 1}, safe_serialization=True)
        return model

    def test_what_timm_has_exported(self, tmp_path):
        model = self.timm_folder(tmp_path).eval()
        backbone = Backbone.create(model=f"local-dir:{tmp_path}", pretrained=True)
        images = images_for(backbone)
        assert (backbone.architecture, images.shape[1]) == ("test_resnet", 1)
        with torch.inference_mode():
            expected = model.forward_head(model.forward_features(images), pre_logits=True)
            assert torch.allclose(backbone(images), expected, atol=1e-5)

    def test_a_head_folder_and_a_backbone_folder_of_our_own(self, tmp_path):
        backbone = Backbone.create(model="conv4", options={"width": 6, "img_size": 19}, seed=2)
        weight, bias = torch.randn(1, 1, 3, backbone.feature_width), torch.zeros(1, 1, 3)
        head = Head(draws=LinearHeads(weight, bias), class_names=("a", "b", "c"), backbone=backbone)
        head.save_pretrained(tmp_path / "head")
        backbone.save_pretrained(tmp_path / "own")
        for name in ("head", "own"):
            read = Backbone.create(model=f"local-dir:{tmp_path / name}", pretrained=True)
            assert read.weights_hash() == backbone.weights_hash()
            assert read.preprocessing_key() == backbone.preprocessing_key()

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda folder: (folder / "config.json").unlink(), r"config\.json: cannot be read"),
            (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors: cannot be read"),
            (lambda folder: (folder / "config.json").write_text("[]"), r"config\.json: names no architecture"),
            (lambda folder: (folder / "config.json").write_text('{"architecture": "resnet5x"}'), "no model 'resnet5x'"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, tmp_path, damage, message):
        self.timm_folder(tmp_path)
        damage(tmp_path)
        with pytest.raises(InputError, match=message):
            Backbone.create(model=f"local-dir:{tmp_path}", pretrained=True)

    def test_other_wrong_notations(self, tmp_path):
        with pytest.raises(InputError, match="nowhere: is not a directory"):
            Backbone.create(model="local-dir:nowhere", pretrained=True)
        with pytest.raises(InputError, match="brings its weights; set pretrained: true"):
            Backbone.create(model=f"local-dir:{tmp_path}")
        with pytest.raises(InputError, match="write hf-hub:OWNER/NAME for a model on the hub, local-dir:DIR"):
            Backbone.create(model="heads/birds", pretrained=True)
        with pytest.raises(InputError, match="timm has no model 'resnet5x'"):
            Backbone.create(model="timm/resnet5x", pretrained=True)


class TestSavedFolder:
    @pytest.fixture
    def folder(self, tmp_path):
        Backbone.create(model="conv4", options={"width": 6, "drop_rate": 0.1}).save_pretrained(tmp_path)
        return tmp_path

    @pytest.mark.parametrize("key", ["architecture", "options", "pretrained_cfg", "head_slot", "feature_width"])
    def test_a_missing_key_is_named(self, folder, key):
        config = json.loads((folder / "config.json").read_text())
        del config[key]
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match=f"config.json: key '{key}'"):
            Backbone.from_pretrained(folder)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"feature_width": 7}, "feature_width is 7"),
            ({"head_slot": "classifier"}, "head_slot is classifier"),
            ({"architecture": "conv5"}, "no model 'conv5'"),
            ({"options": {"width": 6, "pretrained": True}}, "'pretrained' is not yours"),
            ({"options": {"width": 5}}, "feature_width|shape"),
            ({"options": [1]}, "'options' is missing or not of type dict"),
            ({"architecture": 4}, "'architecture' is missing or not of type str"),
            ({"pretrained_cfg": {"input_size": [1, 28, 28], "colour": 1}}, "colour"),
        ],
    )
    def test_a_changed_config_is_refused(self, folder, change, message):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(InputError, match=message):
            Backbone.from_pretrained(folder)

    def test_tampered_weights_are_refused(self, folder):
        tensors = load_file(folder / "model.safetensors")
        del tensors["blocks.0.norm.running_mean"]
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(InputError, match=r"'blocks\.0\.norm\.running_mean' is missing"):
            Backbone.from_pretrained(folder)

    def test_a_missing_folder(self, tmp_path):
        with pytest.raises(InputError, match=r"config\.json"):
            Backbone.from_pretrained(tmp_path / "nowhere")

    def test_pickled_weights_are_never_a_substitute(self, folder):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(InputError, match=r"model\.safetensors"):
            Backbone.from_pretrained(folder)


class TestHubWeights:
    @pytest.mark.parametrize("kind", [OSError, huggingface_hub.errors.LocalEntryNotFoundError])
    def test_no_network(self, monkeypatch, kind):
        def unreachable(*_args, **_options):
            raise kind("no route to host")

        monkeypatch.setattr(construction, "hf_hub_download", unreachable)
        with pytest.raises(InputError, match=r"cannot download 'test_resnet' \(no route to host\)"):
            Backbone.create(model="test_resnet", pretrained=True)

    def test_safetensors_are_loaded_and_adapted_to_grey(self, monkeypatch, tmp_path):
        torch.manual_seed(0)
        full = timm.create_model("test_resnet")
        save_file(full.state_dict(), tmp_path / "model.safetensors")
        asked = []

        def download(repository, name):
            asked.append((repository, name))
            return str(tmp_path / name)

        monkeypatch.setattr(construction, "hf_hub_download", download)
        monkeypatch.setattr(torch, "load", None)
        backbone = Backbone.create(model="test_resnet", pretrained=True, options={"in_chans": 1})
        assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors")]
        stem = f"{backbone.pretrained_cfg['first_conv']}.weight"
        expected = full.state_dict()[stem].sum(1, keepdim=True)
        assert torch.allclose(backbone.trunk.state_dict()[stem], expected, atol=1e-5)
        assert backbone.preprocess.input_size[0] == 1 and len(backbone.preprocess.config["mean"]) == 1

    @pytest.mark.parametrize("notation", ["timm/test_resnet.r160_in1k", "hf-hub:timm/test_resnet.r160_in1k"])
    def test_timms_own_models_in_its_notation_of_the_hub(self, monkeypatch, tmp_path, notation):
        full = timm.create_model("test_resnet")
        save_file(full.state_dict(), tmp_path / "model.safetensors")
        monkeypatch.setattr(construction, "hf_hub_download", lambda _, name: str(tmp_path / name))
        backbone = Backbone.create(model=notation, pretrained=True)
        own = full.state_dict()
        assert backbone.architecture == "test_resnet"
        assert all(torch.equal(tensor, own[name]) for name, tensor in backbone.trunk.state_dict().items())

    def test_a_model_of_somebody_else_on_the_hub(self, monkeypatch, tmp_path):
        model = TestModelFolder().timm_folder(tmp_path)
        asked = []

        def download(repository, name, revision=None):
            asked.append((repository, name, revision))
            return str(tmp_path / name)

        monkeypatch.setattr(construction, "hf_hub_download", download)
        backbone = Backbone.create(model="hf-hub:someone/birds@v2", pretrained=True)
        names = ("config.json", "model.safetensors", "head.safetensors")  # the last only where weightgen wrote it
        assert asked == [("someone/birds", name, "v2") for name in names]
        own = model.state_dict()
        assert all(torch.equal(tensor, own[name]) for name, tensor in backbone.trunk.state_dict().items())

    def test_a_model_of_somebody_else_without_a_network(self, monkeypatch):
        def unreachable(*_args, **_options):
            raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

        monkeypatch.setattr(construction, "hf_hub_download", unreachable)
        with pytest.raises(InputError, match=r"cannot download 'hf-hub:someone/birds' \(offline\); is there a network"):
            Backbone.create(model="hf-hub:someone/birds", pretrained=True)

    def test_weights_that_timm_reads_from_numpy_files_are_on_the_hub_too(self):
        name, file = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "model.safetensors"
        assert construction.published("vit_tiny_patch16_224") == (name, file)

    def test_a_model_without_published_weights_names_the_way_to_pretrain_it(self):
        with pytest.raises(InputError, match=r"backbone\.model=conv4 backbone\.pretraining\.steps=500"):
            Backbone.create(model="conv4", pretrained=True)

    def test_a_hub_folder_with_pickles_only_is_refused(self, monkeypatch):
        def absent(*_args, **_options):
            raise huggingface_hub.errors.EntryNotFoundError("no such file")

        monkeypatch.setattr(construction, "hf_hub_download", absent)
        with pytest.raises(InputError, match="holds no safetensors"):
            Backbone.create(model="test_resnet", pretrained=True)
