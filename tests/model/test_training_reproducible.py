"""Training from scratch twice with one seed: the same losses, bit for bit, dropout included."""

from __future__ import annotations

import pytest
import torch
from cases import SIZES, make_batch, pretraining_labels
from torch import Tensor
from transformers import LxmertConfig

from lxmert_fast.models import LxmertForPreTraining
from lxmert_fast.train.optim import BertAdam, make_schedule

STEPS = 5


def train(seed: int, checkpointing: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses of a few steps, one row (total, then each task) a step, and the weights after them."""
    torch.manual_seed(seed)
    config = LxmertConfig(**(SIZES | {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}))
    model = LxmertForPreTraining(config).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    optimizer = BertAdam(model.parameters(), lr=1e-3)
    schedule = make_schedule(optimizer, 10, 0.2)
    batch = make_batch(config) | pretraining_labels(config)
    rows = []
    for _ in range(STEPS):
        output = model(**batch)
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        rows.append(torch.stack([output.loss.detach(), *output.losses.values()]))
    return torch.stack(rows), model.state_dict()


def test_same_seed_gives_the_same_bits():
    losses, weights = train(7)
    again, weights_again = train(7)
    assert torch.equal(losses, again)
    assert all(torch.equal(tensor, weights_again[name]) for name, tensor in weights.items())


def test_another_seed_gives_other_losses():
    assert not torch.equal(train(7)[0], train(8)[0])


def test_dropout_is_on_and_off():
    """Without dropout the two runs above would agree whatever the generator did."""
    config = LxmertConfig(**SIZES)
    model = LxmertForPreTraining(config)
    batch = make_batch(config)
    model.train()
    first, second = (model(**batch).cross_relationship_score for _ in range(2))
    assert not torch.equal(first, second)
    model.eval()
    first, second = (model(**batch).cross_relationship_score for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_recomputed_activations_draw_the_same_dropout():
    losses, weights = train(7)
    again, weights_again = train(7, checkpointing=True)
    assert torch.equal(losses, again)
    assert all(torch.equal(tensor, weights_again[name]) for name, tensor in weights.items())
