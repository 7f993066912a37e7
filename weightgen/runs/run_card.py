"""README.md of a run: what the generator is, how it was made, how to use it."""

from weightgen.config.loading import to_yaml
from weightgen.config.part_checks import HEAD
from weightgen.config.recipe import Recipe


def run_card(recipe: Recipe, name: str) -> str:
    """A model card in Markdown."""
    backbone = recipe.backbone.model or recipe.backbone.checkpoint
    made, module, pipeline = "the classifier head of a frozen backbone", "weightgen", "WeightGenerationPipeline"
    if recipe.selector.name != HEAD:
        made, module, pipeline = "parts of a backbone and its head", "weightgen.part_pipeline", "PartPipeline"
    return f"""---
library_name: weightgen
tags: [weight-generation, few-shot, diffusion]
---

# {name}

Writes {made} ({backbone}) for a handful of labelled images, without training it.
Made with weightgen on {recipe.data.source}.

```python
from {module} import {pipeline}

generator = {pipeline}.from_pretrained("generator")
head = generator("support_folder/")   # one sub-folder of images per class
head.save_pretrained("heads/mine")
```

```
weightgen generate --generator {name} --support support_folder/ --out heads/mine
weightgen evaluate {name}
```

How accurate it is, beside the cheap baselines on the same episodes, stands in `report/report.md`.

## Recipe

```yaml
{to_yaml(recipe)}```
"""
