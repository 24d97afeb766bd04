"""BertAdam against its formula, the schedule against its corners."""

from __future__ import annotations

import math

import pytest
import torch

from lxmert_fast.train.optim import BertAdam, make_optimizer, make_schedule, warmup_linear


def test_bertadam_follows_the_formula():
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(7, 5, dtype=torch.float64))
    optimizer = BertAdam([p], lr=0.1, weight_decay=0.01)
    expected, m, v = p.detach().clone(), torch.zeros(7, 5), torch.zeros(7, 5)
    for _ in range(4):
        g = torch.randn(7, 5, dtype=torch.float64)
        p.grad = g.clone()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        expected = expected - 0.1 * (m / (v.sqrt() + 1e-6) + 0.01 * expected)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=0)


def test_bertadam_leaves_parameters_without_gradient_alone():
    used, unused = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = BertAdam([used, unused], lr=0.1, weight_decay=0.5)
    used.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(unused, torch.ones(3))
    assert unused not in optimizer.state
    assert (used < 1).all()


def test_bertadam_restores_from_its_state_dict():
    torch.manual_seed(1)

    def run(steps: int, state: dict | None, p: torch.nn.Parameter, grads: list) -> BertAdam:
        optimizer = BertAdam([p], lr=0.1)
        if state:
            optimizer.load_state_dict(state)
        for g in grads[:steps]:
            p.grad = g
            optimizer.step()
        return optimizer

    grads = [torch.randn(4) for _ in range(6)]
    whole = torch.nn.Parameter(torch.ones(4))
    run(6, None, whole, grads)
    halves = torch.nn.Parameter(torch.ones(4))
    state = run(3, None, halves, grads).state_dict()
    run(3, state, halves, grads[3:])
    assert torch.equal(whole, halves)


def test_bertadam_on_a_flat_partition_goes_element_by_element():
    """As ZeRO hands parameters over, whatever stretch of them; no gradient there means zeros."""
    torch.manual_seed(2)
    whole = [torch.nn.Parameter(torch.randn(shape)) for shape in ((4, 3), (5,))]
    flat = torch.nn.Parameter(torch.cat([p.detach().flatten() for p in whole])[2:15].clone())
    optimizers = BertAdam(whole, lr=0.1), BertAdam([flat], lr=0.1)
    for _ in range(3):
        for p in whole:
            p.grad = torch.randn(p.shape)
        flat.grad = torch.cat([p.grad.flatten() for p in whole])[2:15].clone()
        for optimizer in optimizers:
            optimizer.step()
        # through a checkpoint, in which a state is known by the place of its parameter
        optimizers[1].load_state_dict(optimizers[1].state_dict())
    wanted = torch.cat([p.detach().flatten() for p in whole])[2:15]
    torch.testing.assert_close(flat.detach(), wanted, rtol=1e-6, atol=0)


def test_schedule_rises_from_zero_and_falls_to_zero():
    assert warmup_linear(0, 100, 0.1) == 0.0
    assert warmup_linear(5, 100, 0.1) == pytest.approx(0.5)
    assert warmup_linear(10, 100, 0.1) == pytest.approx(1.0)
    assert warmup_linear(55, 100, 0.1) == pytest.approx(0.5)
    assert warmup_linear(100, 100, 0.1) == 0.0
    assert warmup_linear(120, 100, 0.1) == 0.0
    assert warmup_linear(0, 100, 0.0) == 1.0


def test_first_update_moves_nothing_but_the_moments():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = BertAdam([p], lr=0.1)
    schedule = make_schedule(optimizer, 10, 0.2)
    p.grad = torch.full((3,), 2.0)
    optimizer.step()
    schedule.step()
    assert torch.equal(p.detach(), torch.ones(3))
    assert optimizer.state[p]["exp_avg"][0] == pytest.approx(0.2)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


@pytest.mark.parametrize("name", ["bertadam", "lamb", "adamw"])
def test_every_optimizer_goes_downhill(name):
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(10) + 3)
    optimizer = make_optimizer(name, [p], lr=0.05, weight_decay=0.0)
    first = math.inf
    for step in range(200):
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        optimizer.step()
        first = loss.item() if step == 0 else first
    assert loss.item() < first / 4
