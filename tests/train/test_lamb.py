"""LAMB against algorithm 2 of its paper, and against another implementation where the two agree."""

from __future__ import annotations

import copy

import pytest
import torch
from pytorch_optimizer import Lamb as OtherLamb
from torch import Tensor, nn

from lxmert_fast.train.lamb import Lamb
from lxmert_fast.train.segments import Segments


def weights(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]


def with_gradients(params: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)


def by_the_paper(p: Tensor, grads: list[Tensor], corrects: bool) -> Tensor:
    m = v = torch.zeros_like(p)
    for t, g in enumerate(grads, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        first, second = (m / (1 - 0.9**t), v / (1 - 0.999**t)) if corrects else (m, v)
        update = first / (second.sqrt() + 1e-6) + 0.01 * p
        p = p - 0.1 * p.norm() / update.norm() * update
    return p


@pytest.mark.parametrize("corrects", [True, False])
def test_follows_the_paper(corrects: bool):
    params = weights((7, 5), (3,))
    optimizer = Lamb(params, lr=0.1, bias_correction=corrects)
    starts, grads = [p.detach().clone() for p in params], []
    for step in range(4):
        with_gradients(params, step)
        grads.append([p.grad.clone() for p in params])
        optimizer.step()
    for i, p in enumerate(params):
        wanted = by_the_paper(starts[i], [g[i] for g in grads], corrects)
        torch.testing.assert_close(p.detach(), wanted, rtol=1e-12, atol=1e-12)


def test_a_norm_of_zero_leaves_the_update_as_it_is():
    zero, still = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.ones(4))
    optimizer = Lamb([zero, still], lr=0.1, weight_decay=0.0)
    zero.grad, still.grad = torch.ones(4), torch.zeros(4)
    optimizer.step()
    torch.testing.assert_close(zero.detach(), torch.full((4,), -0.1))
    assert torch.equal(still, torch.ones(4))


def test_parameters_without_gradient_are_left_alone():
    used, unused = weights((3,), (3,))
    before = unused.detach().clone()
    optimizer = Lamb([used, unused], lr=0.1, weight_decay=0.5)
    used.grad = torch.ones_like(used)
    optimizer.step()
    assert torch.equal(unused, before)
    assert unused not in optimizer.state


def test_the_other_implementation_takes_the_same_step():
    """Where told: it divides the step by 1 - b1^t outside the ratio, and decays outside it, unless told.

    Beside that it corrects no bias, adds eps to the norm of the update, and clamps that of the weight at 10.
    """
    ours, theirs = (weights((20, 6), (9,)) for _ in range(2))
    for p in (*ours, *theirs):
        p.data /= 2  # to norms below its clamp
    with_gradients(ours, 1)
    with_gradients(theirs, 1)
    Lamb(ours, lr=0.1, weight_decay=0.01, bias_correction=False).step()
    OtherLamb(theirs, lr=0.1, weight_decay=0.01, weight_decouple=False, adam_debias=True).step()
    for p, q in zip(ours, theirs, strict=True):
        # the eps beside a norm of more than 1
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


def test_goes_on_from_its_state_dict():
    whole, halves = (weights((6, 2)) for _ in range(2))
    first, second = Lamb(whole, lr=0.1), Lamb(halves, lr=0.1)
    for step in range(4):
        if step == 2:
            state = copy.deepcopy(second.state_dict())
            second = Lamb(halves, lr=0.1)
            second.load_state_dict(state)
        for params, optimizer in ((whole, first), (halves, second)):
            with_gradients(params, step)
            optimizer.step()
    assert torch.equal(whole[0], halves[0])


@pytest.fixture
def one_rank(tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/ranks", rank=0, world_size=1)
    yield torch.distributed.group.WORLD
    torch.distributed.destroy_process_group()


def test_a_flat_partition_steps_as_its_parameters_do(one_rank):
    """In any order, with holes between them; what is in a hole, NaN here, reaches nobody."""
    params = weights((4, 3), (5,), dtype=torch.float32)
    flat = nn.Parameter(torch.full((22,), torch.nan))
    spans = ((1, 5), (7, 12))
    owners = torch.tensor([1, 0])
    segments = Segments(spans, owners, 2, one_rank, torch.device("cpu"))
    optimizer, alone = Lamb([flat], lr=0.1), Lamb(params, lr=0.1)
    optimizer.segments = {flat: segments}
    for (start, size), p in zip(spans, reversed(params), strict=True):
        flat.data[start : start + size] = p.detach().flatten()
    for step in range(3):
        with_gradients(params, step)
        flat.grad = torch.full_like(flat, torch.nan)
        for (start, size), p in zip(spans, reversed(params), strict=True):
            flat.grad[start : start + size] = p.grad.flatten()
        optimizer.step()
        alone.step()
    for piece, p in zip(segments.cut(flat.detach()), reversed(params), strict=True):
        torch.testing.assert_close(piece, p.detach().flatten(), rtol=1e-6, atol=0)


def test_a_partition_that_is_all_padding_steps(one_rank):
    flat = nn.Parameter(torch.ones(4))
    optimizer = Lamb([flat], lr=0.1)
    nothing = torch.empty(0, dtype=torch.int64)
    optimizer.segments = {flat: Segments((), nothing, 3, one_rank, torch.device("cpu"))}
    flat.grad = torch.zeros(4)
    optimizer.step()
    assert flat.isfinite().all()
