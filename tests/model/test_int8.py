"""8-bit products: close to fp32, row by row and layer by layer, and never in the way of the fp32 model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import both, make_batch, make_config, scatter
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lxmert_fast import accelerate, quantize
from lxmert_fast.dense import dense
from lxmert_fast.errors import InputError
from lxmert_fast.int8 import Int8Linear
from lxmert_fast.modeling import LxmertModel
from lxmert_fast.models import LxmertForQuestionAnswering


@given(
    rows=st.integers(1, 40), wide=st.integers(16, 80), seed=st.integers(0, 1000), size=st.floats(1e-3, 1e3)
)
@settings(max_examples=25, deadline=None)
def test_the_error_of_a_layer_is_that_of_rounding(rows: int, wide: int, seed: int, size: float):
    """Half a step of an activation by the weights' sum, half a step of a weight by the activations'."""
    torch.manual_seed(seed)
    layer = nn.Linear(wide, 24)
    x = torch.randn(rows, wide) * size
    with torch.no_grad():
        found, wanted = Int8Linear(layer)(x), layer(x)
        weight = layer.weight.abs()
        steps = x.abs().amax(1, keepdim=True) / 127
        bound = steps / 2 * weight.sum(1) + x.abs().sum(1, keepdim=True) * weight.amax(1) / 254
        bound = bound + steps * weight.amax(1) / 254 * wide + 1e-5 * size
    assert found.shape == wanted.shape
    assert ((found - wanted).abs() <= bound * 1.01).all()


def test_joined_layers_give_what_each_gives():
    torch.manual_seed(0)
    layers = [Int8Linear(nn.Linear(32, 16)) for _ in range(3)]
    x = torch.randn(5, 32)
    assert torch.equal(dense(x, *layers), torch.cat([layer(x) for layer in layers], -1))


def test_rows_and_weights_of_zeros():
    layer = nn.Linear(32, 16)
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        assert torch.equal(Int8Linear(layer)(torch.zeros(3, 32)), layer(torch.zeros(3, 32)))
        assert Int8Linear(layer)(torch.zeros(0, 32)).shape == (0, 16)


@torch.no_grad()
@pytest.mark.parametrize("side", ["ours", "swapped in"])
def test_a_model_stays_close_and_the_original_as_it_was(side: str):
    ours, theirs = both(LxmertForQuestionAnswering)
    if side == "swapped in":
        accelerate(theirs)
    model = ours if side == "ours" else theirs
    batch = make_batch(model.config)
    wanted = model(**batch).question_answering_score
    smaller = quantize(model)
    found = smaller(**batch).question_answering_score
    assert torch.equal(model(**batch).question_answering_score, wanted)
    assert not torch.equal(found, wanted)
    # root mean square: about 1 % a product, and LayerNorm keeps what is added up from growing
    assert (found - wanted).square().mean().sqrt() < 0.1 * wanted.std()
    kinds = {type(m) for m in smaller.lxmert.encoder.layer[0].modules()}
    assert Int8Linear in kinds
    assert nn.Linear not in kinds
    assert not smaller.training


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (nn.Linear(2, 2), "quantize got a Linear, wanted a model of this library"),
        (
            scatter(LxmertModel(make_config())).double(),
            "is torch.float64 on cpu, wanted torch.float32 on cpu",
        ),
    ],
)
def test_what_cannot_be_quantised(thing: Any, message: str):
    with pytest.raises(InputError, match=message):
        quantize(thing)
