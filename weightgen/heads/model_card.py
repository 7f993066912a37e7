"""The `README.md` of a head folder: what it is and how to load it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import timm

if TYPE_CHECKING:
    from weightgen.heads.head import Head

_SHOWN_CLASSES = 20
_CARD = """---
library_name: timm
pipeline_tag: image-classification
tags: [image-classification, timm, transformers, weightgen]
---

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

predictions = load_head("FOLDER").predict(["IMAGE"])
```

In timm:

```python
import timm
from PIL import Image
{custom}
model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
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
model = AutoModelForImageClassification.from_pretrained("FOLDER").eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=model.config.pretrained_cfg))
logits = model(transform(Image.open("IMAGE").convert("{mode}"))[None]).logits
name = model.config.id2label[int(logits.argmax())]
```

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


def model_card(head: Head) -> str:
    """Markdown with code that runs once FOLDER and IMAGE are put in."""
    shown = list(head.class_names[:_SHOWN_CLASSES])
    architecture, parts = head.backbone.architecture, len(head.parts)
    custom = timm.model_entrypoint(architecture).__module__.startswith("weightgen.")
    return _CARD.format(
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
        provenance=_fenced(dict(sorted(head.provenance.items()))),
    )


def _fenced(content: object) -> str:
    """JSON for a code block; no line of it can be a closing fence."""
    return json.dumps(content, indent=2, ensure_ascii=False)
