"""The whole small model trains through interpreted kernels, and its losses are the reference's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import MASKS, make_batch, make_config, scatter
from torch import Tensor

from lxmert_fast.bench.workloads import WORKLOADS, batches, config_for
from lxmert_fast.kernels.dispatch import implementation
from lxmert_fast.kernels.launch import listening
from lxmert_fast.models import LxmertForPreTraining, LxmertForQuestionAnswering

STEPS = 20
#: Of the largest loss: rounding of twenty updates, each fed by the one before.
TOLERANCE = 1e-4


def losses(choice: str) -> Tensor:
    """Of 20 updates of a model that learns four answers."""
    config = make_config(l_layers=1, r_layers=1, x_layers=2)
    model: Any = scatter(LxmertForQuestionAnswering(config)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch = make_batch(config) | MASKS["padding"] | {"labels": torch.tensor([3, 1, 4, 5])}
    found = []
    with implementation(choice):
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
    return torch.stack(found)


def test_twenty_steps_follow_the_reference():
    launched: list[str] = []
    with listening(lambda name, _: launched.append(name)):
        found = losses("operator")
    wanted = losses("reference")
    assert (found - wanted).abs().max() <= TOLERANCE * wanted.max()
    assert found[-1] < found[0] / 2
    for kernel in ("attention", "norm", "gelu", "text", "visual"):
        assert {f"{kernel}_forward", f"{kernel}_backward"} <= set(launched), kernel


@pytest.mark.parametrize("name", ["captions4"])
def test_a_step_of_pretraining(name: str):
    """Shared images, heads on what is masked, and dropout: the kernels' masks are those of `philox.py`."""
    workload = WORKLOADS[name].sized(pairs=4)
    config = config_for(workload, tiny=True)
    model: Any = scatter(LxmertForPreTraining(config)).train()
    batch = batches(workload, config, labels=True).ours
    torch.manual_seed(0)
    loss = model(**batch, loss_only=True).loss
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
