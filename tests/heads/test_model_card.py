"""The card's code runs as it stands, and no class name breaks out of it."""

import re
from pathlib import Path

import pytest

from weightgen import load_head
from weightgen.heads.model_card import model_card
from weightgen.heads.onnx_export import export_onnx


def blocks(folder: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (folder / "README.md").read_text(), re.DOTALL | re.MULTILINE)


def run(code: str, folder: Path, image: Path) -> dict:
    variables: dict = {}
    exec(code.replace("FOLDER", str(folder)).replace("IMAGE", str(image)), variables)
    return variables


@pytest.mark.parametrize("model", ["conv4", "test_resnet"])
def test_the_cards_timm_and_weightgen_code_agree(make, pictures: Path, tmp_path: Path, model: str) -> None:
    make(model).save(tmp_path / "head")
    ours, theirs, _, _ = (block for block in blocks(tmp_path / "head", "python"))
    image = pictures / "0.png"
    prediction = run(ours, tmp_path / "head", image)["predictions"][0]
    assert run(theirs, tmp_path / "head", image)["name"] == prediction.class_name


@pytest.mark.slow
def test_the_cards_transformers_code_agrees(make, pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    make().save(tmp_path / "head")
    ours, _, theirs, _ = (block for block in blocks(tmp_path / "head", "python"))
    image = pictures / "0.png"
    prediction = run(ours, tmp_path / "head", image)["predictions"][0]
    assert run(theirs, tmp_path / "head", image)["name"] == prediction.class_name


@pytest.mark.slow
def test_the_cards_onnxruntime_code_agrees(
    make, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    make().save(tmp_path / "head")
    monkeypatch.chdir(tmp_path)
    export_onnx(load_head("head"), "head.onnx", preprocessing=True)
    ours, _, _, theirs = (block for block in blocks(tmp_path / "head", "python"))
    image = pictures / "0.png"
    prediction = run(ours, tmp_path / "head", image)["predictions"][0]
    assert run(theirs, tmp_path / "head", image)["name"] == prediction.class_name


def test_a_card_for_the_hub_loads_from_there_and_names_its_licence(make) -> None:
    head = make().head(provenance={"leave_one_out": "9 of 10 images right", "support_images": "10"})
    card = model_card(head, repository="me/birds", license="cc-by-4.0")
    assert card.startswith("---\nlicense: cc-by-4.0\nlibrary_name: timm\n") and "FOLDER" not in card
    for place in ('load_head("hf-hub:me/birds")', 'create_model("hf-hub:me/birds"', 'from_pretrained("me/birds")'):
        assert place in card
    assert "Support: 10 labelled images. Leave-one-out: 9 of 10 images right." in card
    assert "license" not in model_card(head)


def test_only_custom_architectures_need_the_import(make, tmp_path: Path) -> None:
    for model, needed in (("conv4", True), ("test_resnet", False)):
        make(model).save(tmp_path / model)
        assert ("import weightgen.backbones" in (tmp_path / model / "README.md").read_text()) is needed


def test_class_names_stay_in_their_block(make, tmp_path: Path) -> None:
    case = make()
    case.save(tmp_path / "head", class_names=("a", "b", "```\n# out"))
    classes, provenance = blocks(tmp_path / "head", "json")
    assert "out" in classes and "0123abcd" in provenance
    assert "\n# out" not in (tmp_path / "head/README.md").read_text()
