"""Dropout: the rate, the scale of what is kept, and that both implementations agree on them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import both, embed_text, make_batch, make_config
from torch import Tensor

from lxmert_fast.modeling import LxmertModel

RATE = 0.3


def rate_of_zeros(x: Tensor) -> float:
    return (x == 0).float().mean().item()


def allowance(x: Tensor) -> float:
    """Six standard deviations of the share of zeros among as many independent draws."""
    return 6 * (RATE * (1 - RATE) / x.numel()) ** 0.5


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_attention_probabilities(implementation: str):
    """In every encoder and both directions across; both return what the values were weighted with."""
    config = make_config(attention_probs_dropout_prob=RATE)
    ours, theirs = both(LxmertModel, config)
    ours.set_attn_implementation(implementation)
    batch = make_batch(config, pairs=40)
    still = ours(**batch, output_attentions=True)
    torch.manual_seed(0)
    found, wanted = (model.train()(**batch, output_attentions=True) for model in (ours, theirs))
    names = [name for name in found if name.endswith("attentions")]
    assert len(names) == 4
    for name in names:
        for output in (found, wanted) if name in wanted else (found,):
            for layer in output[name]:
                assert abs(rate_of_zeros(layer) - RATE) < allowance(layer), name
    for name in ("language_attentions", "vision_attentions"):
        kept = found[name][0] != 0
        scaled = still[name][0][kept] / (1 - RATE)
        torch.testing.assert_close(found[name][0][kept], scaled, rtol=1e-5, atol=0)


@torch.no_grad()
def test_without_probabilities_the_rate_is_the_same():
    """The path that training takes gives the same draws as the one that returns probabilities."""
    ours, _ = both(LxmertModel, make_config(attention_probs_dropout_prob=RATE))
    batch = make_batch(ours.config)
    ours.train()
    seen = []
    for extra in ({}, {"output_attentions": True}):
        torch.manual_seed(1)
        seen.append(ours(**batch, **extra).language_output)
    assert torch.equal(*seen)


@torch.no_grad()
def test_embeddings():
    """Where nothing comes after it, dropout shows as it is."""
    config = make_config(hidden_dropout_prob=RATE)
    ours, theirs = both(LxmertModel, config)
    batch = make_batch(config, pairs=40)
    ids = (batch["input_ids"], batch["token_type_ids"])
    regions = (batch["visual_feats"], batch["visual_pos"])

    def embed(model: Any) -> tuple[Tensor, Tensor]:
        return embed_text(model, *ids), model.encoder.visn_fc(*regions)

    still = embed(ours)
    for model in (ours.train(), theirs.train()):
        for found, wanted in zip(embed(model), still, strict=True):
            assert abs(rate_of_zeros(found) - RATE) < allowance(found)
            kept = found != 0
            torch.testing.assert_close(found[kept], wanted[kept] / (1 - RATE), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_residual_sub_layers():
    """Every number of the product is dropped by itself; a constant product shows which."""
    ours, _ = both(LxmertModel, make_config(hidden_dropout_prob=RATE))
    sub_layer = ours.encoder.layer[0].output.train()
    x, residual = torch.zeros(450, 112), torch.zeros(450, 64)
    sub_layer.LayerNorm = torch.nn.LayerNorm(64, eps=1e-12, elementwise_affine=True)
    sub_layer.dense.bias.fill_(1.0)
    torch.manual_seed(0)
    # after LayerNorm two values a row remain: the dropped numbers lie below its mean
    below = (sub_layer(x, residual) < 0).float()
    assert abs(below.mean().item() - RATE) < allowance(below)
