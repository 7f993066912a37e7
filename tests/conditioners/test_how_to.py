"""The component that the guide for newcomers shows works as it stands there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from weightgen.features.standardizer import Standardizer
from weightgen.records import Episode

GUIDE = Path(__file__).parents[2] / "docs" / "how_to" / "add_a_conditioner.md"


def test_the_conditioner_of_the_guide_tells_of_medians(
    base_standardizer: Standardizer, draw_episode: Callable[..., Episode]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    made: dict[str, Any] = {"__name__": "support_medians"}
    exec(compile(code, str(GUIDE), "exec"), made)
    episode = base_standardizer.standardize(draw_episode(shots=3))
    condition = made["SupportMedians"]()(episode, base_standardizer)
    shrunk = condition.tokens / condition.variance * (base_standardizer.noise_variance / 3)
    torch.testing.assert_close(shrunk, episode.support.median(2).values)
    torch.testing.assert_close(condition.means, episode.support_means())
