"""The ONNX file answers as `predict` does, by onnxruntime and its own metadata; what cannot be written is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import refuse, succeed

from weightgen import Head, extras
from weightgen.backbones.backbone import Backbone, FeatureBackbone
from weightgen.backbones.preprocessing import Preprocessing
from weightgen.errors import InputError
from weightgen.heads import onnx_export
from weightgen.heads.onnx_export import PixelPreprocessing, export_onnx
from weightgen.records import LinearHeads

onnxruntime = pytest.importorskip("onnxruntime")

EXAMPLE = Path(__file__).parents[2] / "examples" / "serve_onnx.py"


@cache
def opened(file: Path) -> Any:
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def answers(file: Path, given: np.ndarray) -> tuple[np.ndarray, dict[str, str]]:
    """Probabilities and metadata of an ONNX file."""
    session = opened(file)
    metadata = session.get_modelmeta().custom_metadata_map
    return session.run(["probabilities"], {session.get_inputs()[0].name: given})[0], metadata


def predicted(head: Head, images: list[Path]) -> np.ndarray:
    return np.array([list(one.probabilities.values()) for one in head.predict(images)])


@pytest.mark.parametrize("samples", [1, 4])
def test_the_file_answers_pictures_as_predict_does(make, pictures: Path, tmp_path: Path, samples: int) -> None:
    head, file = make(samples=samples).head(), tmp_path / "head.onnx"
    written = export_onnx(head, file, preprocessing=True)
    assert written["largest_difference"] < 1e-4
    for image in sorted(pictures.iterdir()):  # all of other sizes
        values = np.asarray(Image.open(image).convert(head.backbone.preprocess.mode))
        pixels = values.reshape(1, *values.shape[:2], -1)
        given, metadata = answers(file, np.concatenate([pixels, pixels]))
        np.testing.assert_allclose(given, predicted(head, [image]).repeat(2, 0), atol=0.02)  # single grey levels differ
    assert json.loads(metadata["class_names"]) == list(head.class_names)
    assert json.loads(metadata["provenance"]) == head.provenance
    assert json.loads(metadata["preprocessing"])["in_file"] is True


@pytest.mark.slow
@pytest.mark.parametrize("model", ["conv4", "test_vit"])
def test_the_metadata_say_how_to_preprocess(make, pictures: Path, tmp_path: Path, model: str) -> None:
    head, file = make(model, samples=2).head(), tmp_path / "head.onnx"
    export_onnx(head, file)
    images = sorted(pictures.iterdir())
    described = json.loads(answers(file, make(model).images.numpy())[1]["preprocessing"])
    assert described.pop("in_file") is False
    mode = described.pop("mode")
    described["input_size"] = tuple(described["input_size"])
    preprocess = Preprocessing(described)
    pixels = torch.stack([preprocess(Image.open(image).convert(mode)) for image in images])
    np.testing.assert_allclose(answers(file, pixels.numpy())[0], predicted(head, images), atol=1e-5)


def test_generated_parts_of_the_backbone_are_in_the_file(make, tmp_path: Path) -> None:
    plain = make()
    tensors = plain.backbone.trunk.state_dict()
    part = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    adapted = Backbone.create(model="conv4", options={"width": 6})
    adapted.trunk.load_state_dict({**adapted.trunk.state_dict(), part: tensors[part] + 1})
    head = plain.head(backbone=adapted, parts=(part,))
    export_onnx(head, tmp_path / "adapted")
    given = answers(tmp_path / "adapted", plain.images.numpy())[0]
    without, wanted = (each.attach()(plain.images).softmax(-1).detach().numpy() for each in (plain.head(), head))
    np.testing.assert_allclose(given, wanted, atol=1e-5)
    assert abs(given - without).max() > 1e-3


def on_features() -> Head:
    rng = torch.Generator().manual_seed(0)
    draws = LinearHeads(torch.randn(1, 2, 3, 5, generator=rng), torch.randn(1, 2, 3, generator=rng))
    return Head(draws=draws, backbone=FeatureBackbone(5), class_names=("a", "b", "c"))


def test_a_head_on_given_features_takes_features(tmp_path: Path) -> None:
    head = on_features()
    assert export_onnx(head, tmp_path / "head.onnx")["input"] == "features"
    features = torch.randn(7, 5)
    given, _ = answers(tmp_path / "head.onnx", features.numpy())
    np.testing.assert_allclose(given, head.probabilities(features).numpy(), atol=1e-6)
    with pytest.raises(InputError, match="takes features, not images"):
        export_onnx(head, tmp_path / "other.onnx", preprocessing=True)


GEOMETRIES = {
    "shorter side, enlarged": {"input_size": (3, 64, 64), "crop_pct": 0.875, "interpolation": "bilinear"},
    "bicubic, grey": {
        "input_size": (1, 64, 64),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": (0.5,),
        "std": (0.5,),
    },
    "squashed": {"input_size": (3, 40, 64), "crop_pct": 0.9, "interpolation": "bicubic", "crop_mode": "squash"},
}


@pytest.mark.parametrize("config", GEOMETRIES.values(), ids=GEOMETRIES)
def test_pixels_are_pillows(config: dict[str, Any]) -> None:
    preprocess = Preprocessing(config)
    channels = config["input_size"][0]
    for size in ((50, 80), (81, 50), (200, 333), (64, 64), (300, 20)):
        pixels = np.random.default_rng(0).integers(0, 256, (*size, channels), dtype=np.uint8)
        image = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
        given = PixelPreprocessing(preprocess)(torch.from_numpy(pixels)[None])[0]
        levels = (given - preprocess(image)).abs() * 255 * torch.tensor(preprocess.config["std"])[:, None, None]
        # Pillow counts in 22 bits; and where sides are scaled differently, it begins with either
        assert levels.mean() < (0.5 if "crop_mode" in config else 0.02)
        assert "crop_mode" in config or levels.max() < 1.01


@pytest.mark.parametrize(
    "config",
    [{"crop_mode": "border"}, {"interpolation": "lanczos"}, {"input_size": (3, 40, 64)}],
    ids=["border", "lanczos", "oblong"],
)
def test_preprocessing_that_onnx_does_not_know_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"--preprocessing: .* cannot be put into the file; leave it out"):
        PixelPreprocessing(Preprocessing({"input_size": (3, 64, 64), "interpolation": "bilinear", **config}))


class Branching(torch.nn.Module):
    """Computes by what it sees, which no exporter can follow."""

    def __init__(self, trunk: torch.nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.trunk(images) * (1 if (images > 0).sum().item() > 3 else 2)


def test_a_network_that_cannot_be_exported_is_one_line(
    make, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    head = make().head()
    monkeypatch.setattr(head.backbone, "trunk", Branching(head.backbone.trunk))
    with pytest.raises(InputError, match="torch cannot export this network to ONNX") as refused:
        export_onnx(head, tmp_path / "head.onnx")
    assert "\n" not in str(refused.value) and capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_a_file_that_answers_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "_difference", lambda *_: 2e-4)
    with pytest.raises(InputError, match=r"not written, for onnxruntime's logits differ from torch's by 0\.0002"):
        export_onnx(on_features(), tmp_path / "head.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("photo.jpg", r"photo.jpg: is another file than an ONNX one; name one such as .*photo\.onnx"),
        ("birds/model.safetensors", "lies in a head folder"),
        ("birds/birds.onnx", "lies in a head folder, which holds nothing else; write the ONNX file elsewhere"),
    ],
)
def test_neither_another_file_nor_a_head_is_spoilt(make, tmp_path: Path, file: str, message: str) -> None:
    head = on_features()
    head.save_pretrained(tmp_path / "birds")
    for name in ("photo.jpg", "birds/model.safetensors"):
        (tmp_path / name).write_bytes(b"kept")
    with pytest.raises(InputError, match=message):
        export_onnx(head, tmp_path / file)
    assert {(tmp_path / name).read_bytes() for name in ("photo.jpg", "birds/model.safetensors")} == {b"kept"}
    assert not (tmp_path / "birds" / "birds.onnx").exists()


@pytest.mark.slow
def test_the_command_writes_a_file_that_the_example_serves(make, pictures: Path, tmp_path: Path) -> None:
    head, file = make().head(), tmp_path / "birds.onnx"
    head.save_pretrained(tmp_path / "birds")
    options = ("--onnx", file, "--preprocessing", "--format", "json")
    written = json.loads(succeed("export", tmp_path / "birds", *options).stdout)
    assert (written["onnx"], written["classes"]) == (str(file), list(head.class_names))
    assert written["bytes"] == file.stat().st_size
    with subprocess.Popen([sys.executable, EXAMPLE, file, "0"], stdout=subprocess.PIPE, text=True) as server:
        try:
            port = server.stdout.readline().split()[-1]
            address = f"http://127.0.0.1:{port}"
            with urlopen(address, (pictures / "0.png").read_bytes()) as answer:
                given = json.load(answer)
            with pytest.raises(HTTPError, match="not an image") as refused:
                urlopen(address, b"something else")
            refused.value.close()
        finally:
            server.terminate()
    assert list(given) == list(head.class_names)
    np.testing.assert_allclose(list(given.values()), predicted(head, [pictures / "0.png"])[0], atol=0.02)


def test_the_command_refuses_in_one_line(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make().head().save_pretrained(tmp_path / "birds")
    assert "is not a directory" in refuse("export", tmp_path / "none", "--onnx", tmp_path / "x.onnx")
    assert "is a directory; name a file" in refuse("export", tmp_path / "birds", "--onnx", tmp_path)
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "onnxscript" else find_spec(name))
    complaint = refuse("export", tmp_path / "birds", "--onnx", tmp_path / "x.onnx")
    assert complaint == "export to ONNX needs onnxscript: pip install 'weightgen[onnx]'"
    assert {path.name for path in tmp_path.iterdir()} == {"birds"}
