"""The answer whether an output gives its normalised input back, and for how long it holds."""

from __future__ import annotations

import pytest
import torch
from cases import make_config

from lxmert_fast.kernels.dropout_add_layer_norm.invertible import STEPS, invertible
from lxmert_fast.modeling import LxmertModel


def parameters(weight: float = 1.0, shift: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((8,), weight), torch.full((8,), shift)


@pytest.mark.parametrize(
    ("weight", "shift", "dtype", "answer"),
    [
        (1.0, 0.5, torch.float32, True),
        (-1.0, 0.5, torch.float32, True),
        (0.1, 0.5, torch.float32, False),
        (0.3, 1.0, torch.float32, True),
        (0.3, 1.0, torch.float16, False),
        (0.3, 1.0, torch.bfloat16, False),
        (0.0, 0.0, torch.float32, False),
        (1.0, 0.9, torch.float16, True),
        (float("nan"), 0.5, torch.float32, False),
    ],
)
def test_answers(weight: float, shift: float, dtype: torch.dtype, answer: bool):
    assert invertible(*parameters(weight, shift), dtype) is answer


def test_one_element_is_enough():
    weight, shift = parameters()
    weight[3] = 1e-6
    assert not invertible(weight, shift, torch.float32)


def test_an_answer_holds_for_some_steps():
    weight, shift = parameters()
    assert invertible(weight, shift, torch.float32)
    weight.mul_(0.01)
    for _ in range(STEPS - 2):
        assert invertible(weight, shift, torch.float32)
        weight.mul_(1.0)
    assert invertible(weight, shift, torch.float32)
    weight.mul_(1.0)
    assert not invertible(weight, shift, torch.float32)


def test_other_memory_and_another_dtype_are_asked_anew():
    weight, shift = parameters(0.5, 1.0)
    assert invertible(weight, shift, torch.float32)
    assert not invertible(weight, shift, torch.float16)
    assert invertible(weight, shift, torch.float32)
    weight.data = torch.full((8,), 1e-3)
    assert not invertible(weight, shift, torch.float32)


def test_two_weights_have_two_answers():
    good, bad = parameters(), parameters(0.01)
    assert invertible(*good, torch.float32)
    assert not invertible(*bad, torch.float32)
    assert invertible(*good, torch.float32)


def test_what_has_no_values_stands_for_new_parameters():
    weight, shift = (x.to("meta") for x in parameters())
    assert invertible(weight, shift, torch.float32)


def test_loaded_weights_are_asked_anew():
    config = make_config(l_layers=1, r_layers=0, x_layers=1)
    model = LxmertModel(config)
    norm = model.encoder.layer[0].output.LayerNorm
    assert invertible(norm.weight, norm.bias, torch.float32)
    weights = model.state_dict()
    weights["encoder.layer.0.output.LayerNorm.weight"] = torch.zeros_like(norm.weight)
    model.load_state_dict(weights)
    assert not invertible(norm.weight, norm.bias, torch.float32)


def test_inference_tensors_have_no_version():
    with torch.inference_mode():
        weight, shift = parameters()
    assert invertible(weight, shift, torch.float32)


def test_steps_of_an_optimizer_count_where_versions_stand_still():
    """As under ZeRO 1 and 2: the new numbers come through `.data`."""
    weight, shift = parameters()
    assert invertible(weight, shift, torch.float32)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    weight.data.fill_(0.01)
    for _ in range(STEPS - 1):
        optimizer.step()
        assert invertible(weight, shift, torch.float32)
    optimizer.step()
    assert not invertible(weight, shift, torch.float32)
