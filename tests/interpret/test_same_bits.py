"""A seed decides every mask, and nothing but the inputs and the seed decides a bit of what comes out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from drawn import new_seed, of_meetings, of_rows
from standing import CPU, randn
from torch import Tensor

from lxmert_fast.kernels.cross_attention import cross_attention
from lxmert_fast.kernels.dropout_add_layer_norm import dropout_add_layer_norm
from lxmert_fast.kernels.layout import dense, shared
from lxmert_fast.kernels.philox import Seed, keep_scale
from lxmert_fast.kernels.self_attention import self_attention
from lxmert_fast.kernels.text_embedding import embed_text
from lxmert_fast.kernels.visual_embedding import embed_regions

P = 0.4


def crossed(x: Tensor, seed: Seed) -> Tensor:
    texts, objects = dense(4, 3, None, CPU), shared(dense(2, 9, None, CPU), torch.arange(4) // 2, 36)[0]
    qkv = torch.cat([x, x * 0.7, x * 0.5], 1)[: 12 + 18]
    return cross_attention(qkv, 12, texts, objects, 2, dropout_p=P, seed=seed).context


def normed(x: Tensor, seed: Seed) -> Tensor:
    return dropout_add_layer_norm(x, x, torch.ones(32), torch.zeros(32), dropout_p=P, seed=seed)


def read(x: Tensor, seed: Seed) -> Tensor:
    ids = torch.arange(40) % 30
    tables = x, x[:9], x[:2]
    norm = torch.ones(32), torch.ones(32)
    return embed_text(tables, (ids, ids % 9, None), norm, padding=0, dropout_p=P, seed=seed)


def seen(x: Tensor, seed: Seed) -> Tensor:
    norm = torch.ones(32), torch.ones(32)
    return embed_regions(x, None, x[:, :4], (x[:, :4], x[0]), norm, norm, dropout_p=P, seed=seed)


@pytest.mark.parametrize("operation", [crossed, normed, read, seen])
def test_bits_and_masks(operation: Callable[[Tensor, Seed], Tensor]):
    width = 32

    def run(seed: Seed) -> tuple[Tensor, Tensor]:
        x = randn(width, width).float().requires_grad_()
        y = operation(x, seed)
        y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape))
        return y.detach(), x.grad

    first = run(new_seed())
    assert all(torch.equal(a, b) for a, b in zip(first, run(new_seed()), strict=True))
    for other in (new_seed(value=5), new_seed(value=2**61 + 12345 + 2**40), new_seed(site=8)):
        assert not any(torch.equal(a, b) for a, b in zip(first, run(other), strict=True))


def test_the_mask_of_rows_is_philox():
    """Of zeros and ones: what is 0 was dropped."""
    seed, x = new_seed(), torch.ones(70, 48)
    ids = torch.zeros(70, dtype=torch.int64)
    tables = torch.arange(48.0)[None], torch.zeros(1, 48), torch.zeros(1, 48)
    norm = torch.zeros(48), torch.ones(48)
    found = embed_text(tables, (ids, ids, None), norm, padding=-1, dropout_p=P, seed=seed)
    torch.testing.assert_close(found, x * of_rows(seed, (70, 48), P) * keep_scale(P))


def test_the_mask_of_probabilities_is_philox():
    """Values are the rows of an identity and scores are 0, so that a context is a row of probabilities."""
    batch, width, heads = 3, 32, 2
    value = torch.eye(width).repeat(batch, heads)
    qkv = torch.cat([torch.zeros(batch * width, 2 * heads * width), value], 1)
    seed = new_seed()
    found, _ = self_attention(qkv, dense(batch, width, None, CPU), heads, dropout_p=P, seed=seed)
    mask = of_meetings(seed, 0, (batch, heads, width, width), P).transpose(1, 2).reshape(found.shape)
    torch.testing.assert_close(found, mask * keep_scale(P) / width)


def test_a_seed_is_drawn_from_torchs_generator():
    x = randn(9, 32).float()
    weight, shift = torch.ones(32), torch.zeros(32)

    def run() -> Tensor:
        return dropout_add_layer_norm(x, x, weight, shift, dropout_p=P)

    torch.manual_seed(3)
    first, second = run(), run()
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(first, run())


def test_products_of_bfloat16_are_refused():
    """They would be garbage here, not on a GPU."""
    qkv = torch.zeros(3, 96, dtype=torch.bfloat16)
    with pytest.raises(AssertionError, match="bf16"):
        self_attention(qkv, dense(1, 3, None, CPU), 2)
