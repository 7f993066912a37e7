"""Our two halves of preprocessing are timm's evaluation transform."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from weightgen.backbones.preprocessing import Preprocessing
from weightgen.data.pictures import plain
from weightgen.errors import InputError

CONFIGS = {
    "grey": {"input_size": (1, 28, 28), "mean": (0.4,), "std": (0.6,), "crop_pct": 1.0, "interpolation": "bilinear"},
    "grey cropped": {"input_size": (1, 28, 28), "mean": (0.4,), "std": (0.6,), "crop_pct": 0.8},
    "colour": {"input_size": (3, 32, 32), "crop_pct": 0.875, "interpolation": "bicubic"},
    "oblong": {"input_size": (3, 24, 40), "crop_pct": 1.0},
    "squashed": {"input_size": (3, 24, 24), "crop_pct": 1.0, "crop_mode": "squash"},
}


def picture(mode: str, size: tuple[int, int]) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(values) if mode == "RGBA" else Image.fromarray(values[..., :3]).convert(mode)


@pytest.fixture(params=CONFIGS)
def preprocess(request: pytest.FixtureRequest) -> Preprocessing:
    return Preprocessing(CONFIGS[request.param])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("size", [(28, 28), (24, 40), (40, 24), (5, 61), (300, 90)])
def test_equals_timms_transform(preprocess, mode, size):
    image = picture(mode, size)
    expected = create_transform(**preprocess.config)(plain(image).convert(preprocess.mode))
    result = preprocess(image)
    assert result.shape == preprocess.input_size and result.dtype == torch.float32
    assert torch.allclose(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_upright_opaque_picture_is_converted_as_pillow_does(channels):
    preprocess = Preprocessing({"input_size": (channels, 24, 40), "mean": (0.5,) * channels, "std": (0.5,) * channels})
    image = picture("RGB", (61, 53))
    expected = create_transform(**preprocess.config)(image.convert(preprocess.mode))
    assert torch.allclose(preprocess(image), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (2, 1001)])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_a_strip_is_cut_before_it_is_enlarged(size, mode):
    """Whole, it would be enlarged to 3 billion pixels."""
    preprocess = Preprocessing({"input_size": (3, 224, 224), "crop_mode": mode})
    line = np.zeros((size[1], size[0], 3), np.uint8)
    line[size[1] * 9 // 20 : size[1] * 11 // 20 + 1, size[0] * 9 // 20 : size[0] * 11 // 20 + 1] = 255
    pixels = preprocess.pixels(Image.fromarray(line))
    assert pixels.shape == (3, 224, 224)
    assert mode == "border" or pixels[:, 112, 112].tolist() == [255] * 3
    assert mode != "center" or pixels.min() == 255  # the middle alone


def test_pixels_then_normalise_is_the_call(preprocess):
    image = picture("RGB", (50, 31))
    pixels = preprocess.pixels(image)
    assert pixels.dtype == torch.uint8 and pixels.shape == preprocess.input_size
    batch = preprocess.normalise(torch.stack([pixels, pixels]))
    assert torch.equal(batch[1], preprocess(image))


def test_pixels_do_not_share_memory_with_the_image():
    preprocess = Preprocessing(CONFIGS["grey"])
    image = Image.new("L", (28, 28), 7)
    preprocess.pixels(image).fill_(9)
    assert image.getpixel((3, 3)) == 7


@pytest.mark.parametrize(
    "change",
    [{"input_size": (1, 30, 28)}, {"mean": (0.5,)}, {"std": (0.5,)}, {"interpolation": "nearest"}, {"crop_pct": 0.9}],
)
def test_key_changes_with_every_setting(change):
    config = CONFIGS["grey"]
    assert Preprocessing(config).key() == Preprocessing(dict(config)).key() != Preprocessing({**config, **change}).key()


def test_key_does_not_tell_lists_from_tuples():
    config = CONFIGS["grey"]
    assert Preprocessing({**config, "mean": [0.4]}).key() == Preprocessing(config).key()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": (2, 28, 28)}, "in_chans is 2"),
        ({"mean": (0.1, 0.2)}, "mean has 2 values"),
        ({"interpolation": "cubist"}, "cubist"),
        ({"crop_pct": -1}, "crop_pct is -1; it must be above 0"),
        ({"input_size": (1, 0, 28)}, "input_size is .*; it must be of 1 or more"),
        ({"mean": (float("nan"),)}, "mean is .*nan.*; it must be finite"),
        ({"std": (0.0,)}, "std is .*; it must be above 0"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        Preprocessing({**CONFIGS["grey"], **change})
