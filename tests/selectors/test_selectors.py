"""Every selector moves a part of a model to one vector and back, and touches nothing else."""

import copy
import sys

import pytest
import timm
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn

import weightgen.backbones  # noqa: F401 - registers conv4 and resnet12
from weightgen import extras, registry
from weightgen.errors import InputError
from weightgen.interfaces import Selector
from weightgen.selectors._module_names import ModuleNames

MODELS = ["test_vit", "test_resnet", "test_convnext", "conv4"]
LAYERS = ["conv", "conv2", "conv_pw", "qkv", "mlp.fc1"]  # every model has some
OPTIONS = {"pattern": {"target_modules": LAYERS}, "lora": {"target_modules": LAYERS, "rank": 2}}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return fresh(request.param)


def fresh(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3).eval()
    for parameter in model.parameters():
        if not parameter.any():  # timm starts residual branches at 0, where changes inside them show nowhere
            nn.init.normal_(parameter, std=0.1)
    return model


def selector_of(name: str, **options: object) -> Selector:
    return registry.create("selectors", name, {**OPTIONS.get(name, {}), **options})


@torch.no_grad()
def outputs(model: nn.Module) -> torch.Tensor:
    return model(images_for(model))


def images_for(model: nn.Module) -> torch.Tensor:
    channels, height, width = model.pretrained_cfg["input_size"]
    if model.pretrained_cfg["architecture"] != "test_vit":  # which takes no other size
        height, width = 64, 96
    return torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", registry.names("selectors"))
def test_read_and_write_are_exact_inverses_and_leave_the_rest_alone(name: str, model: nn.Module) -> None:
    selector = selector_of(name)
    selector.prepare(model)
    layout = selector.layout(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    vector = selector.read(model)
    assert vector.shape == (layout.size,) and not vector.requires_grad

    other = layout.flatten(selector.admissible(layout.unflatten(torch.randn_like(vector))))
    selector.write(model, other)
    assert torch.equal(selector.read(model), other)
    written = layout.unflatten(other)
    for key, value in model.state_dict().items():
        assert torch.equal(value, written[key] if key in written else before[key])

    selector.write(model, vector)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", registry.names("selectors"))
def test_read_gives_a_copy(name: str, model: nn.Module) -> None:
    selector = selector_of(name)
    selector.prepare(model)
    vector = selector.read(model)
    kept = vector.clone()
    selector.write(model, vector + 1)
    assert torch.equal(vector, kept)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", registry.names("selectors"))
def test_wrong_vectors_are_refused_and_nothing_is_written(name: str, model: nn.Module) -> None:
    selector = selector_of(name)
    selector.prepare(model)
    vector = selector.read(model)
    with pytest.raises(InputError, match="last dimension must be"):
        selector.write(model, torch.cat([vector, vector[:1]]))
    with pytest.raises(InputError, match="one vector"):
        selector.write(model, torch.stack([vector, vector]))
    assert torch.equal(selector.read(model), vector)


@pytest.mark.parametrize("name", registry.names("selectors"))
def test_a_model_without_the_part_is_refused_in_one_line(name: str) -> None:
    selector = selector_of(name)
    bare = nn.Sequential(nn.ReLU() if name == "all" else nn.Conv2d(1, 2, 3, bias=False))
    with pytest.raises(InputError) as caught:
        selector.read(bare)
    assert "Sequential" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", registry.names("selectors"))
def test_preparing_changes_no_output_and_is_done_once(name: str, model: nn.Module) -> None:
    selector, before = selector_of(name), outputs(model)
    selector.prepare(model)
    assert torch.equal(outputs(model), before)
    selector.write(model, torch.randn(selector.layout(model).size))
    written = selector.read(model)
    selector.prepare(model)
    assert torch.equal(selector.read(model), written)


@pytest.mark.parametrize("name", registry.names("selectors"))
def test_a_functional_call_with_the_vector_is_what_writing_gives(name: str, model: nn.Module) -> None:
    selector = selector_of(name)
    selector.prepare(model)
    vector, before = selector.read(model), outputs(model)
    other = vector + 0.1 * torch.randn(vector.shape, generator=torch.Generator().manual_seed(2))
    given = selector.layout(model).unflatten(other)
    assert set(given) <= set(model.state_dict())
    with torch.no_grad():
        called = torch.func.functional_call(model, given, images_for(model))
    assert torch.equal(outputs(model), before)
    selector.write(model, other)
    assert torch.equal(outputs(model), called)
    assert not torch.equal(called, before)


@pytest.mark.parametrize(
    "name", [name for name in registry.names("selectors") if name not in ("head", "norm_affine", "all")]
)
def test_trunk_selectors_leave_the_head_out(name: str, model: nn.Module) -> None:
    selector = selector_of(name)
    selector.prepare(model)
    head = set(selector_of("head").tensors(model))
    assert head and not head & set(selector.tensors(model))


@pytest.mark.parametrize("name", registry.names("selectors"))
def test_every_selector_describes_itself(name: str) -> None:
    assert registry.summary("selectors", name).endswith((".", ")."))


def test_the_head_is_weight_and_bias_of_the_classifier(model: nn.Module) -> None:
    selector, classifier = registry.create("selectors", "head", {}), model.get_classifier()
    weight, bias = selector.layout(model).unflatten(selector.read(model)).values()
    assert torch.equal(weight, classifier.weight)
    assert torch.equal(bias, classifier.bias)


def test_head_of_a_model_without_classes_is_refused() -> None:
    selector = registry.create("selectors", "head", {})
    with pytest.raises(InputError, match="head"):
        selector.read(timm.create_model("test_resnet", num_classes=0))


def test_head_bias_belongs_to_the_head_alone(model: nn.Module) -> None:
    head = {name for name, _ in registry.create("selectors", "head", {}).layout(model).entries}
    bias = {name for name, _ in registry.create("selectors", "bias", {}).layout(model).entries}
    assert not head & bias
    assert all(name.endswith("bias") for name in bias)


def test_norm_affine_finds_every_norm_of_a_resnet() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    selected = registry.create("selectors", "norm_affine", {}).tensors(model)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {id(value) for value in selected.values()} == {id(p) for norm in norms for p in norm.parameters()}


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("conv4", "blocks.3.conv.weight", "blocks.3.norm.bias"),
        ("resnet12", "blocks.3.conv1.weight", "blocks.3.shortcut.1.bias"),
        ("resnet18", "layer4.1.conv1.weight", "layer4.1.bn2.bias"),
        ("resnet10t", "layer4.0.conv1.weight", "layer4.0.downsample.2.bias"),
        ("mobilenetv2_100", "blocks.6.0.conv_pw.weight", "bn2.bias"),
        ("mobilenetv3_small_050", "blocks.5.0.conv.weight", "conv_head.bias"),
        ("efficientnet_b0", "blocks.6.0.conv_pw.weight", "bn2.bias"),
        ("vit_tiny_patch16_224", "blocks.11.norm1.weight", "norm.bias"),
        ("convnext_atto", "stages.3.blocks.1.gamma", "head.norm.bias"),
        ("pit_ti_224", "transformers.2.pool.conv.weight", "norm.bias"),  # without timm's groups
    ],
)
def test_last_block_reaches_from_the_last_block_to_the_head_filled_or_not(name: str, first: str, last: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=3)
    selected = list(selector_of("last_block").tensors(model))
    names = [key for key, _ in model.named_parameters()]
    assert (selected[0], selected[-1]) == (first, last)
    begin = names.index(first)
    assert selected == names[begin : begin + len(selected)]
    model.set_submodule(model.pretrained_cfg["classifier"], nn.Identity())
    assert list(selector_of("last_block").tensors(model)) == selected


def test_all_is_every_parameter_and_the_statistics_unless_they_are_renewed(model: nn.Module) -> None:
    parameters = {name for name, _ in model.named_parameters()}
    statistics = {name for name, _ in model.named_buffers() if name.endswith(("running_mean", "running_var"))}
    assert set(selector_of("all", renew_statistics=True).tensors(model)) == parameters
    assert set(selector_of("all").tensors(model)) == parameters | statistics


def test_no_written_variance_is_negative() -> None:
    model, selector = fresh("conv4"), selector_of("all")
    selector.write(model, torch.full((selector.layout(model).size,), -2.0))
    assert all(float(norm.running_var.min()) > 0 for norm in model.modules() if isinstance(norm, nn.BatchNorm2d))
    assert torch.isfinite(outputs(model)).all()


def test_last_block_without_groups_or_stages_is_refused() -> None:
    model = fresh("conv4")
    del model.feature_info
    with pytest.raises(InputError, match="'last_block': a Conv4 has no such parameters"):
        selector_of("last_block").read(model)


@pytest.mark.parametrize(
    "words", [["qkv", "mlp.fc1", "blocks.2"], ["kv"], r".*\.mlp\..*", r"blocks\.[23]\.attn", "qkv", ".*"]
)
def test_modules_match_by_the_rules_of_peft(words: str | list[str]) -> None:
    names = ModuleNames(words, option="target_modules")
    config = LoraConfig(target_modules=words)
    modules = [name for name, _ in fresh("test_vit").named_modules() if name]
    assert [name in names for name in modules] == [bool(check_target_module_exists(config, name)) for name in modules]


def test_pattern_takes_all_of_a_module_but_what_is_excluded_inside_it() -> None:
    model = fresh("test_vit")
    every = [name for name, _ in model.named_parameters() if name.startswith("blocks.5.")]
    assert list(selector_of("pattern", target_modules=["blocks.5"]).tensors(model)) == every
    some = selector_of("pattern", target_modules=["blocks.5"], exclude_modules=["norm1", "norm2"]).tensors(model)
    assert list(some) == [name for name in every if ".norm" not in name]
    inner = selector_of("pattern", target_modules=["qkv"], exclude_modules="blocks").tensors(model)
    assert len(inner) == 2 * len(model.blocks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["qvk"]}, r"\['qvk'\] match nothing .* nearest modules are: qkv"),
        ({"target_modules": r".*\.mpl"}, "nearest modules are: .*mlp"),
        ({"target_modules": ["head"]}, "outside the head of a VisionTransformer"),
        ({"target_modules": ["qkv"], "exclude_modules": ".*"}, "exclude_modules leave nothing"),
        ({"target_modules": "blocks.("}, "no regular expression"),
        ({"target_modules": []}, "target_modules is empty"),
    ],
)
def test_a_pattern_without_parameters_is_refused_with_the_nearest_names(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        selector_of("pattern", **options).read(fresh("test_vit"))
    assert "\n" not in str(caught.value)


def test_lora_is_not_in_a_plain_model_and_asking_does_not_put_it_there() -> None:
    model, selector = fresh("test_vit"), selector_of("lora")
    names = list(model.state_dict())
    for ask in (selector.read, selector.layout):
        with pytest.raises(InputError, match=r"call prepare\(model\) first"):
            ask(model)
    assert list(model.state_dict()) == names


def test_lora_is_written_into_a_plain_model() -> None:
    model, selector = fresh("test_vit"), selector_of("lora")
    selector.prepare(model)
    selector.write(model, torch.randn(selector.layout(model).size))
    other = fresh("test_vit")
    selector.write(other, selector.read(model))
    assert torch.equal(outputs(other), outputs(model))


def test_lora_starts_at_the_same_point_and_leaves_seeds_training_and_modes_alone() -> None:
    model, other, selector = fresh("test_vit"), fresh("test_vit"), selector_of("lora")
    model.norm.requires_grad_(False)
    before = {id(parameter): parameter.requires_grad for parameter in model.parameters()}
    state = torch.get_rng_state()
    selector.prepare(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in model.modules())
    added = selector.tensors(model).values()
    assert all(value.requires_grad for value in added)
    kept = {id(parameter): parameter.requires_grad for parameter in model.parameters()}
    assert {key: value for key, value in kept.items() if key in before} == before
    torch.manual_seed(7)
    selector.prepare(other)
    assert torch.equal(selector.read(other), selector.read(model))


@pytest.mark.parametrize("options", [{"rank": 3}, {"alpha": 5}, {"target_modules": ["qkv"]}])
def test_lora_of_other_options_is_refused(options: dict) -> None:
    model = fresh("test_vit")
    selector_of("lora").prepare(model)
    other = selector_of("lora", **options)
    for ask in (other.read, other.prepare):
        with pytest.raises(InputError, match="adapters of other options"):
            ask(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["qvk"]}, "nearest modules are: qkv"),
        ({"target_modules": ["head"]}, "outside the head"),
        ({"target_modules": ["qkv", "norm2"]}, "match 'blocks.0.norm2', which PEFT refuses .*LayerNorm.*; name linear"),
        ({"rank": 0}, "must be 1 or more"),
        ({"alpha": 0}, "must be 1 or more"),
    ],
)
def test_lora_without_a_place_is_refused_and_the_model_stays_plain(options: dict, message: str) -> None:
    model = fresh("test_vit")
    plain = copy.deepcopy(model)
    with pytest.raises(InputError, match=message) as caught:
        selector_of("lora", **options).prepare(model)
    assert "\n" not in str(caught.value)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert torch.equal(outputs(model), outputs(plain))


def test_alpha_scales_what_lora_adds() -> None:
    changes = []
    for alpha in (None, 4):  # rank 2: factors 1 and 2
        model, selector = fresh("conv4"), selector_of("lora", target_modules=["blocks.3.conv"], alpha=alpha)
        selector.prepare(model)
        generator = torch.Generator().manual_seed(3)
        selector.write(model, torch.randn(selector.layout(model).size, generator=generator))
        maps = torch.rand(2, 64, 5, 7, generator=generator)
        layer = model.blocks[3].conv
        changes.append(layer(maps) - layer.base_layer(maps))
    torch.testing.assert_close(changes[1], 2 * changes[0])


def test_lora_without_peft_tells_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "weightgen.selectors.lora", raising=False)
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'weightgen\[lora\]'"):
        registry.get("selectors", "lora")
    assert {"lora", "pattern"} <= set(registry.names("selectors"))
