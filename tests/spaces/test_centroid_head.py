"""The head that knows nothing but the support."""

from __future__ import annotations

import torch
from torch.nn.functional import cosine_similarity

from weightgen.spaces.chunks import centroid_head

BATCH, WAYS, SHOTS, QUERIES, WIDTH = 2, 3, 4, 5, 6


def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    support = torch.randn(BATCH, WAYS, SHOTS, WIDTH, generator=generator)
    mask = torch.arange(SHOTS) < torch.tensor([[4, 1, 2], [3, 0, 4]])[..., None]
    return support, mask, torch.randn(BATCH, QUERIES, WIDTH, generator=generator)


def test_logits_are_cosines_to_the_means_but_for_the_query_s_length() -> None:
    support, mask, query = drawn()
    logits = centroid_head(support, mask, scale=7.0).logits(query)
    means = torch.stack([support[0, way][mask[0, way]].mean(0) for way in range(WAYS)])
    radius = support[0][mask[0]].norm(dim=-1).mean()
    cosines = cosine_similarity(query[0][:, None], means[None], dim=-1)
    torch.testing.assert_close(logits[0], 7 * cosines * query[0].norm(dim=-1, keepdim=True) / radius)


def test_a_class_without_images_gets_probability_0_and_padding_has_no_say() -> None:
    support, mask, query = drawn()
    logits = centroid_head(support, mask, scale=torch.tensor([1.0, 2.0])).logits(query)
    assert (logits.softmax(-1)[1, :, 1] == 0).all()
    support[~mask] = 1e3
    assert torch.equal(centroid_head(support, mask, scale=torch.tensor([1.0, 2.0])).logits(query), logits)
