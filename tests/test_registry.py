"""Components are found by the name of their file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from weightgen import registry
from weightgen.denoisers.gradient_mlp import GradientMlp
from weightgen.errors import InputError

COMPONENTS = [(kind, name) for kind in registry.KINDS for name in registry.names(kind)]


def test_every_kind_has_components() -> None:
    assert {kind for kind, _ in COMPONENTS} == set(registry.KINDS)
    assert ("denoisers", "gradient_mlp") in COMPONENTS
    assert all(not name.startswith("_") for _, name in COMPONENTS)


@pytest.mark.parametrize(("kind", "name"), COMPONENTS)
def test_every_component_describes_itself(kind: str, name: str) -> None:
    component = registry.get(kind, name)
    first = registry.summary(kind, name)
    assert component.__name__.lower().rstrip("_") == name.replace("_", "")
    assert component.__doc__.startswith(first)
    assert first.endswith((".", ")"))


@pytest.mark.parametrize(("kind", "name"), COMPONENTS)
def test_every_option_is_keyword_only_and_documented(kind: str, name: str) -> None:
    component = registry.get(kind, name)
    documented = f"{component.__doc__} {component.__init__.__doc__} {getattr(component, '__bases__', ())[0].__doc__}"
    given = {"feature_width", "sizes", "num_train_timesteps", "base_classes", "statistics", "pipeline", "scale"}
    undocumented = [option for option in registry.option_names(component) - given if option not in documented]
    assert undocumented == []


@pytest.mark.parametrize(("kind", "name"), [one for one in COMPONENTS if one[0] != "methods"])
def test_the_source_of_a_component_declares_what_its_constructor_takes(kind: str, name: str) -> None:
    declared, taken = registry.declared_options(kind, name), registry.option_types(registry.get(kind, name))
    assert set(declared) == set(taken)
    assert all(declared[option] in (taken[option], Any) for option in taken)


def test_get_imports_one_component_only(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = []
    load = registry.importlib.import_module
    monkeypatch.setattr(registry.importlib, "import_module", lambda name: imported.append(name) or load(name))
    registry.get("denoisers", "gradient_mlp")
    assert imported == ["weightgen.denoisers.gradient_mlp"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: registry.names("denoiser"), "kind of component 'denoiser'; did you mean 'denoisers'"),
        (lambda: registry.get("denoisers", "gradient_mpl"), "'gradient_mpl' .*did you mean 'gradient_mlp'"),
        (lambda: registry.get("denoisers", "zzz"), "it is one of: chunk_transformer, class_transformer, gradient_mlp"),
        (lambda: registry.get("denoisers", "_pair_attention"), "unknown name"),
        (lambda: registry.get("denoisers", "no_such_package.thing"), "cannot import 'no_such_package.thing'"),
        (
            lambda: registry.create("denoisers", "gradient_mlp", {"widht": 3}, feature_width=5),
            "denoisers.gradient_mlp has no option 'widht'; did you mean 'width'",
        ),
        (
            lambda: registry.create("denoisers", "gradient_mlp", {"feature_width": 7}, feature_width=5),
            "has no option 'feature_width'",
        ),
        (
            lambda: registry.create("denoisers", "class_transformer", {"width": 7, "heads": 3}, feature_width=5),
            "denoisers.class_transformer: width 7 is no multiple of heads 3",
        ),
        (
            lambda: registry.create("denoisers", "class_transformer", {"bands": 0}, feature_width=5),
            "bands is 0",
        ),
    ],
)
def test_errors_name_the_thing_and_the_mend(call, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_create_passes_options_and_what_is_given() -> None:
    built = registry.create("denoisers", "gradient_mlp", {"width": 12}, feature_width=5)
    assert isinstance(built, GradientMlp)
    assert (built.config.feature_width, built.config.width, built.config.time_width) == (5, 12, 320)


def test_a_dotted_name_is_a_module_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "my_mlp.py").write_text(
        "from weightgen.denoisers.gradient_mlp import GradientMlp\n\n\nclass MyMlp(GradientMlp):\n    pass\n"
    )
    (package / "empty_one.py").write_text("from weightgen.denoisers.gradient_mlp import GradientMlp as EmptyOne\n")
    monkeypatch.syspath_prepend(tmp_path)
    built = registry.create("denoisers", "their_package.my_mlp", {"width": 8}, feature_width=5)
    assert isinstance(built, GradientMlp)
    assert type(built).__module__ == "their_package.my_mlp"
    with pytest.raises(InputError, match="no class named 'empty_one'"):
        registry.get("denoisers", "their_package.empty_one")
