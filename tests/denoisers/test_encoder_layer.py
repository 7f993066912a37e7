"""The lean transformer layer against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from weightgen.denoisers._encoder_layer import EncoderLayer


@pytest.mark.parametrize("training", [True, False])
def test_it_is_the_layer_of_torch(training: bool) -> None:
    torch.manual_seed(0)
    ours = EncoderLayer(12, 3, 0.0).train(training)
    theirs = nn.TransformerEncoderLayer(12, 3, 24, 0.0, activation="gelu", batch_first=True, norm_first=True)
    theirs.load_state_dict(ours.state_dict())
    theirs.train(training)
    tokens, there = torch.randn(2, 5, 12), torch.tensor([[True] * 5, [True, False, True, True, False]])
    expected = theirs(tokens, src_key_padding_mask=~there)
    torch.testing.assert_close(ours(tokens, there)[there], expected[there], rtol=1e-5, atol=1e-5)


def test_dropout_drops_in_training_alone() -> None:
    torch.manual_seed(0)
    layer, tokens, there = EncoderLayer(12, 3, 0.5), torch.randn(2, 5, 12), torch.ones(2, 5, dtype=torch.bool)
    assert not torch.equal(layer(tokens, there), layer(tokens, there))
    layer.eval()
    assert torch.equal(layer(tokens, there), layer(tokens, there))
