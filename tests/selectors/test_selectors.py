"""Every selector moves a part of a model to one vector and back, and touches nothing else."""

import pytest
import timm
import torch
from torch import nn

from weightgen import registry
from weightgen.errors import InputError

MODELS = ["test_vit", "test_resnet", "test_efficientnet", "test_convnext"]


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(request.param, num_classes=3)


@pytest.mark.parametrize("name", registry.names("selectors"))
def test_read_and_write_are_exact_inverses_and_leave_the_rest_alone(name: str, model: nn.Module) -> None:
    selector = registry.create("selectors", name, {})
    layout = selector.layout(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    vector = selector.read(model)
    assert vector.shape == (layout.size,) and not vector.requires_grad

    other = torch.randn_like(vector)
    selector.write(model, other)
    assert torch.equal(selector.read(model), other)
    written = layout.unflatten(other)
    for key, value in model.state_dict().items():
        assert torch.equal(value, written[key] if key in written else before[key])

    selector.write(model, vector)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", registry.names("selectors"))
def test_read_gives_a_copy(name: str, model: nn.Module) -> None:
    selector = registry.create("selectors", name, {})
    vector = selector.read(model)
    kept = vector.clone()
    selector.write(model, vector + 1)
    assert torch.equal(vector, kept)


@pytest.mark.parametrize("name", registry.names("selectors"))
def test_wrong_vectors_are_refused_and_nothing_is_written(name: str, model: nn.Module) -> None:
    selector = registry.create("selectors", name, {})
    vector = selector.read(model)
    with pytest.raises(InputError, match="last dimension must be"):
        selector.write(model, torch.cat([vector, vector[:1]]))
    with pytest.raises(InputError, match="one vector"):
        selector.write(model, torch.stack([vector, vector]))
    assert torch.equal(selector.read(model), vector)


@pytest.mark.parametrize("name", registry.names("selectors"))
def test_a_model_without_the_part_is_refused_in_one_line(name: str) -> None:
    selector = registry.create("selectors", name, {})
    bare = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False))
    with pytest.raises(InputError) as caught:
        selector.read(bare)
    assert "Sequential" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", registry.names("selectors"))
def test_every_selector_describes_itself(name: str) -> None:
    assert registry.summary("selectors", name).endswith((".", ")."))


def test_head_rows_are_classes(model: nn.Module) -> None:
    selector = registry.create("selectors", "head", {})
    layout = selector.layout(model)
    assert layout.rows == 3
    classifier = model.get_classifier()
    tokens = layout.tokens(selector.read(model))
    assert torch.equal(tokens, torch.cat([classifier.weight, classifier.bias[:, None]], dim=-1))


def test_head_layout_for_another_number_of_ways(model: nn.Module) -> None:
    selector = registry.create("selectors", "head", {})
    other = timm.create_model(model.pretrained_cfg["architecture"], num_classes=7)
    assert selector.layout(model, ways=7) == selector.layout(other)


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
    found = registry.create("selectors", "norm_affine", {}).tensors(model)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {id(value) for value in found.values()} == {id(p) for norm in norms for p in norm.parameters()}
