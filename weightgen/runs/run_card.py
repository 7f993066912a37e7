"""README.md of a run: what the generator is, what it was trained on, how to use it."""

from weightgen.config.loading import to_yaml
from weightgen.config.recipe import Recipe


def run_card(recipe: Recipe, name: str) -> str:
    """A model card in Markdown."""
    backbone = recipe.backbone.model or recipe.backbone.checkpoint
    selected = "the head" if recipe.selector.name == "head" else f"the head and {recipe.selector.name}"
    return f"""---
library_name: weightgen
tags: [weight-generation, few-shot, diffusion]
---

# {name}

Writes parameters ({selected}) of a frozen backbone ({backbone}) for a handful of labelled images, without training it.
Made with weightgen on {recipe.data.source}.

```python
from weightgen import WeightGenerationPipeline

generator = WeightGenerationPipeline.from_pretrained("generator")
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
