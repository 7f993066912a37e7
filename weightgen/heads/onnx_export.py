"""A head with its backbone as one ONNX file, which onnxruntime serves without torch."""

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

from weightgen.backbones.backbone import FeatureBackbone
from weightgen.backbones.preprocessing import KEYS, Preprocessing
from weightgen.errors import InputError, reason
from weightgen.extras import require
from weightgen.files import check_folder, write_bytes
from weightgen.heads.folder import check_beside
from weightgen.heads.head import Head
from weightgen.records import LinearHeads

_TOLERANCE = 1e-4
_ROUNDED_TOLERANCE = 1e-2  # where a value half-way between grey levels may be rounded to either
_SIDES = (97, 143)  # of pictures that are resized
_HALF = 0.501  # what lies half-way is rounded up, in spite of single precision
_MOST_BYTES = 2**31 - 1  # of a protobuf message
_OUTPUTS = ("logits", "probabilities")


class PixelPreprocessing(nn.Module):
    """`Preprocessing` on tensors, for pictures of one size in a batch.

    Rounds to whole grey levels after each of two passes, as Pillow does: networks notice where small pictures are
    enlarged and many values lie half-way.

    Raises InputError for ways to resize that ONNX does not know.
    """

    def __init__(self, preprocess: Preprocessing) -> None:
        super().__init__()
        config = preprocess.config
        self._crop = preprocess.input_size[1:]
        self.scaled = tuple(math.floor(side / config["crop_pct"]) for side in self._crop)
        self._mode, self._squash = config["interpolation"], config["crop_mode"] == "squash"
        self._normalise = preprocess.normalise
        square = config["crop_mode"] == "center" and self.scaled[0] == self.scaled[1]
        if self._mode not in ("bilinear", "bicubic") or not (self._squash or square):
            raise InputError(
                f"--preprocessing: {self._mode} interpolation with crop_mode {config['crop_mode']} to "
                f"{' x '.join(map(str, self._crop))} pixels cannot be put into the file; leave it out, and preprocess "
                "as the file's metadata say"
            )

    def forward(
        self, images: UInt8[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "batch channels crop_height crop_width"]:
        """Resized, cropped and normalised."""
        pixels = images.permute(0, 3, 1, 2).float()
        height, width = pixels.shape[-2:]
        size = self.scaled
        if not self._squash:
            shorter = torch.sym_min(height, width)
            size = (size[0] * height // shorter, size[0] * width // shorter)
        for pass_size in ((height, size[1]), size):
            pixels = functional.interpolate(pixels, pass_size, mode=self._mode, antialias=True)
            pixels = (pixels + _HALF).floor().clamp(0, 255)
        # torchvision rounds half of what is cut off to the even number
        top, left = ((a - b) // 2 + (a - b) % 4 // 3 for a, b in zip(size, self._crop, strict=True))
        rows, columns = (first + torch.arange(side) for first, side in zip((top, left), self._crop, strict=True))
        cropped = pixels.index_select(2, rows).index_select(3, columns)  # the lengths of slices would not be known
        return self._normalise(cropped.byte())


class _Network(nn.Module):
    """From the input to what `Head.predict` says: logits and probabilities of the mixture of all draws."""

    weight: Tensor
    bias: Tensor

    def __init__(self, head: Head, preprocess: nn.Module) -> None:
        super().__init__()
        self.preprocess, self.trunk = preprocess, head.backbone.trunk
        self.register_buffer("weight", head.draws.weight)
        self.register_buffer("bias", head.draws.bias)

    def forward(self, images: Tensor) -> tuple[Float[Tensor, "batch ways"], Float[Tensor, "batch ways"]]:
        features = self.trunk(self.preprocess(images))
        logits = LinearHeads(self.weight, self.bias).logits(features[None])[0]
        return logits.float(), logits.softmax(-1).float()


@torch.no_grad()
def export_onnx(head: Head, file: Path | str, *, preprocessing: bool = False) -> dict[str, Any]:
    """Write a head and its backbone as one ONNX file, once onnxruntime gives the same logits for it.

    Outputs are `logits` and `probabilities` [batch, classes], as `Head.predict` mixes them where there are several
    draws. Metadata: `class_names`, `preprocessing` and `provenance` as JSON, `architecture`, `weightgen_version`, and
    `threshold` where the head has one.

    Args:
        head: its features come from any timm backbone, with generated parts or without, or are given as such.
        file: an older ONNX file there is replaced, whole or not at all.
        preprocessing: take pictures, `images` uint8 [batch, height, width, channels] of any size, and resize, crop and
            normalise them; else `images` are float [batch, channels, height, width], preprocessed as the metadata
            say. A head on given features takes `features` [batch, width].

    Returns:
        What was written, as JSON values; `largest_difference` is that between onnxruntime's logits and torch's.

    Raises:
        InputError: onnx, onnxscript or onnxruntime is missing, torch cannot export the backbone, the file would be too
            large, is a directory, another kind of file or in a head folder, or preprocessing that ONNX does not know.

    Example::

        export_onnx(load_head("heads/birds"), "birds.onnx", preprocessing=True)
    """
    require("onnx", what="export to ONNX")
    file = Path(file)
    if file.is_dir():
        raise InputError(f"{file}: is a directory; name a file such as {file / 'head.onnx'}")
    check_beside(file, what="the ONNX file")
    if file.exists() and file.suffix != ".onnx":
        raise InputError(f"{file}: is another file than an ONNX one; name one such as {file.with_suffix('.onnx')}")
    check_folder(file.parent, what="the file")
    name, network, axes = _prepared(head, preprocessing=preprocessing)
    size = sum(one.numel() * one.element_size() for one in network.state_dict().values())
    if size > _MOST_BYTES:
        raise InputError(
            f"{file}: would hold {size / 2**30:.1f} GiB, and an ONNX file holds 2; take a smaller backbone"
        )
    examples = _examples(head, network.preprocess)
    content = _exported(network, examples[-1], name, axes, _metadata(head, preprocessing))
    differences = [_difference(content, network, example) for example in examples]
    tolerances = (_TOLERANCE, _ROUNDED_TOLERANCE if preprocessing else _TOLERANCE)
    if not all(one < most for one, most in zip(differences, tolerances, strict=True)):
        raise InputError(
            f"{file}: not written, for onnxruntime's logits differ from torch's by {max(differences):.1g}; update "
            "onnxruntime and onnxscript, or take another backbone"
        )
    write_bytes(file, content)
    return {
        "onnx": str(file),
        "bytes": len(content),
        "input": name,
        "outputs": list(_OUTPUTS),
        "classes": list(head.class_names),
        "preprocessing": "none" if name == "features" else "in the file" if preprocessing else "in the metadata",
        "largest_difference": differences[0],
    }


def _prepared(head: Head, *, preprocessing: bool) -> tuple[str, _Network, dict[int, Dim]]:
    """Name of the input, the network behind it, and which of its axes may have any length."""
    if isinstance(head.backbone, FeatureBackbone):
        if preprocessing:
            raise InputError("--preprocessing: this head takes features, not images; leave it out")
        return "features", _Network(head, nn.Identity()).eval(), {0: Dim("batch")}
    if not preprocessing:
        return "images", _Network(head, nn.Identity()).eval(), {0: Dim("batch")}
    axes = {i: Dim(axis) for i, axis in enumerate(("batch", "height", "width"))}
    return "images", _Network(head, PixelPreprocessing(head.backbone.preprocess)).eval(), axes


def _examples(head: Head, preprocess: nn.Module) -> list[Tensor]:
    """Noise of the input's shape, one and three at a time; one picture needs no resizing, those behind it do."""
    rng = torch.Generator().manual_seed(0)
    if isinstance(preprocess, PixelPreprocessing):
        channels = head.backbone.preprocess.input_size[0]
        shapes = ((1, *preprocess.scaled, channels), (3, *_SIDES, channels))
        return [torch.randint(256, shape, generator=rng, dtype=torch.uint8) for shape in shapes]
    given = isinstance(head.backbone, FeatureBackbone)
    shape = (head.backbone.feature_width,) if given else head.backbone.preprocess.input_size
    return [torch.randn(number, *shape, generator=rng) for number in (1, 3)]


def _metadata(head: Head, preprocessing: bool) -> dict[str, str]:
    described: dict[str, Any] = {"in_file": preprocessing}
    if not isinstance(head.backbone, FeatureBackbone):
        preprocess = head.backbone.preprocess
        described |= {"mode": preprocess.mode, **{key: preprocess.config[key] for key in KEYS}}
    return {
        "class_names": json.dumps(list(head.class_names), ensure_ascii=False),
        "preprocessing": json.dumps(described),
        "provenance": json.dumps(head.provenance, ensure_ascii=False),
        "architecture": head.backbone.architecture,
        **({} if head.threshold is None else {"threshold": str(head.threshold)}),
        "weightgen_version": head.provenance.get("weightgen_version", ""),
    }


def _exported(network: nn.Module, example: Tensor, name: str, axes: dict[int, Dim], metadata: dict[str, str]) -> bytes:
    """The file's content. Raises InputError where torch cannot export the network."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a network that cannot be exported is printed there, whole
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                dynamic_shapes=(axes,),
                input_names=[name],
                output_names=list(_OUTPUTS),
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        why = reason(error.__cause__ or error)
        raise InputError(f"backbone: torch cannot export this network to ONNX ({why}); take another") from error
    assert program is not None
    program.model.metadata_props.update(metadata)
    return program.model_proto.SerializeToString()


def _difference(content: bytes, network: nn.Module, example: Tensor) -> float:
    """The largest between the logits of onnxruntime and of torch, relative to theirs where these are above 1."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    given = torch.from_numpy(session.run([_OUTPUTS[0]], {session.get_inputs()[0].name: example.numpy()})[0])
    wanted = network(example)[0]
    return float(((given - wanted).abs() / wanted.abs().clamp(min=1)).max())
