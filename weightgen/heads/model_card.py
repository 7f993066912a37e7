"""The `README.md` of a head folder: what it is and how to load it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import timm

from weightgen.hub import card_header
from weightgen.specs import HUB

if TYPE_CHECKING:
    from weightgen.heads.head import Head

_SHOWN_CLASSES = 20
_LOCAL = ("FOLDER", "local-dir:FOLDER", "FOLDER")
_CARD = """{header}

# A {architecture} classifier for {ways} classes

{origin} {draws}{support}

Classes, in the order of the logits{cut}:

```json
{classes}
```

## Use

In weightgen, with class names and uncertainty:

```python
from weightgen import load_head

predictions = load_head("{weightgen}").predict(["IMAGE"])
```

In timm:

```python
import timm
from PIL import Image
{custom}
model = timm.create_model("{timm}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
logits = model(transform(Image.open("IMAGE").convert("{mode}"))[None])
name = model.pretrained_cfg["label_names"][int(logits.argmax())]
```

In transformers:

```python
import timm
from PIL import Image
from transformers import AutoModelForImageClassification
{custom}
model = AutoModelForImageClassification.from_pretrained("{transformers}").eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=model.config.pretrained_cfg))
logits = model(transform(Image.open("IMAGE").convert("{mode}"))[None]).logits
name = model.config.id2label[int(logits.argmax())]
```

In onnxruntime, after `weightgen export {weightgen} --onnx head.onnx --preprocessing`:

```python
import json

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("head.onnx")
pixels = np.asarray(Image.open("IMAGE").convert("{mode}"))
(probabilities,) = session.run(["probabilities"], {{"images": pixels.reshape(1, *pixels.shape[:2], -1)}})[0]
name = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])[probabilities.argmax()]
```

## How accurate it is

{accuracy}

## Where it comes from

```json
{provenance}
```
"""

_FROZEN = "The head of this model was written by weightgen, not trained; the backbone is frozen."
_ADAPTED = (
    "{parts} tensors of this model's backbone were written by weightgen, not trained, and its head holds the class "
    "means of the images they were written for; all generated tensors are in `head.safetensors`."
)
_SUPPORT = (
    " `statistics.safetensors` keeps what it takes to add classes: how many images the head was written from, their "
    "means and scatter, and the features of some. Delete it before you publish a head of private images; all else "
    "works without."
)


def model_card(head: Head, *, repository: str | None = None, license: str | None = None) -> str:
    """Markdown with code that runs once IMAGE is put in, and FOLDER where no hub repository is named.

    Raises InputError for a licence that is not an identifier.
    """
    shown = list(head.class_names[:_SHOWN_CLASSES])
    architecture, parts = head.backbone.architecture, len(head.parts)
    custom = timm.model_entrypoint(architecture).__module__.startswith("weightgen.")
    places = (f"{HUB}{repository}", f"{HUB}{repository}", repository) if repository else _LOCAL
    return _CARD.format(
        header=card_header(
            license,
            library_name="timm",
            pipeline_tag="image-classification",
            tags="[image-classification, timm, transformers, weightgen]",
        ),
        **dict(zip(("weightgen", "timm", "transformers"), places, strict=True)),
        architecture=architecture,
        ways=len(head.class_names),
        origin=_ADAPTED.format(parts=parts) if parts else _FROZEN,
        draws=f"It is the mean of {head.samples} draws, kept in `samples.safetensors`."
        if head.samples > 1
        else "It is one draw.",
        support="" if head.support is None else _SUPPORT,
        cut="" if len(shown) == len(head.class_names) else f" (the first {len(shown)}; all are in `config.json`)",
        classes=_fenced(shown),
        custom=f"import weightgen.backbones  # makes '{architecture}' known to timm\n" if custom else "",
        mode=head.backbone.preprocess.mode,
        accuracy=_accuracy(head),
        provenance=_fenced(dict(sorted(head.provenance.items()))),
    )


def _accuracy(head: Head) -> str:
    """Data and what was estimated on them; provenance is text that others may have written, so on one line."""
    data = f"Support: {head.provenance.get('support_images', 'an unknown number of')} labelled images"
    estimate = " ".join(head.provenance.get("leave_one_out", "not estimated").split())
    since = " Classes were added, taken out or renamed since." if {"edited", "extended"} & set(head.provenance) else ""
    return (
        f"{data}. Leave-one-out: {estimate}.{since}\n\n`weightgen evaluate` compares the generator with tuned "
        "baselines, the cosine centroid among them, on labelled images of your own."
    )


def _fenced(content: object) -> str:
    """JSON for a code block; no line of it can be a closing fence."""
    return json.dumps(content, indent=2, ensure_ascii=False)
