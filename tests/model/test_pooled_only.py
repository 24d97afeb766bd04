"""A classification head reads one row of the last layer: the rest is not computed, and nothing changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LxmertConfig

from lxmert_fast.execution import Reads
from lxmert_fast.modeling import LxmertModel

# reference 2.6: what the original leaves without gradient under a classification head
DEAD = ("visn_self_att.", "visn_inter.", "visn_output.")


def small(**sizes: int) -> LxmertModel:
    torch.manual_seed(0)
    layers = {"l_layers": 2, "r_layers": 1, "x_layers": 2} | sizes
    config = LxmertConfig(
        vocab_size=50, hidden_size=24, num_attention_heads=3, intermediate_size=32, visual_feat_dim=10,
        initializer_range=0.2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **layers,
    )  # fmt: skip
    return LxmertModel(config).double()


def batch() -> dict[str, Tensor]:
    torch.manual_seed(1)
    mask = torch.ones(4, 7)
    mask[1, 3:] = 0
    mask[2] = 0
    mask[3, 0] = 0
    return {
        "input_ids": torch.randint(50, (4, 7)),
        "attention_mask": mask,
        "visual_feats": torch.randn(4, 5, 10, dtype=torch.float64),
        "visual_pos": torch.rand(4, 5, 4, dtype=torch.float64),
        "visual_attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0] * 5, [0, 1, 0, 1, 1.0]]),
    }


def gradients(model: LxmertModel, **options: Any) -> tuple[Tensor, dict[str, Tensor | None]]:
    model.zero_grad()
    pooled = model(**batch(), **options).pooled_output
    pooled.square().sum().backward()
    return pooled.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("x_layers", [0, 1, 2])
def test_outputs_and_gradients_are_those_of_the_whole_layer(x_layers):
    """fp64: equal to 1e-10 of the largest value of all (a key's bias has gradient zero up to rounding)."""
    model = small(x_layers=x_layers)
    whole, wanted = gradients(model)
    first, found = gradients(model, reads=Reads())
    torch.testing.assert_close(first, whole, rtol=0, atol=1e-10)
    largest = max(float(g.abs().max()) for g in wanted.values() if g is not None)
    for name, gradient in wanted.items():
        other = found[name]
        if gradient is None or other is None:
            assert gradient is other, name
        else:
            torch.testing.assert_close(other, gradient, rtol=0, atol=1e-10 * largest, msg=name)


def test_dead_parameters_stay_without_gradient():
    _, found = gradients(small(), reads=Reads())
    without = {name for name, gradient in found.items() if gradient is None}
    last = {name for name in found if name.startswith("encoder.x_layers.1.") and any(d in name for d in DEAD)}
    assert len(last) == 16
    assert without == last


def test_whoever_asks_for_layers_gets_whole_layers():
    model = small()
    output = model(**batch(), reads=Reads(), output_attentions=True, output_hidden_states=True)
    assert output.vision_hidden_states[-1].shape == (4, 5, 24)
    assert output.language_hidden_states[-1].shape == (4, 7, 24)
    assert output.cross_encoder_attentions[-1].shape == (4, 3, 7, 5)
    assert output.language_output is None
    torch.testing.assert_close(output.pooled_output, model(**batch()).pooled_output, rtol=0, atol=1e-10)
