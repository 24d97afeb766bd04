"""The object-level image embedding in half precision."""

from __future__ import annotations

import pytest
import torch

from lxmert_fast.kernels.visual_embedding.reference import visual_embedding


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_hidden_object_has_a_finite_gradient(dtype: torch.dtype) -> None:
    """Its row is constant, as in a new model, whose biases are zero; eps is 1e-12. Gradients as in fp64, to
    the dtype's precision of the largest."""
    torch.manual_seed(0)
    upstream = 1e-3 * torch.randn(1, 2, 8, dtype=torch.float64)
    box = torch.randn(1, 2, 8, dtype=torch.float64)

    def gradient(kind: torch.dtype) -> torch.Tensor:
        feature = torch.zeros(1, 2, 8, dtype=kind, requires_grad=True)
        one, zero = torch.ones(8, dtype=kind), torch.zeros(8, dtype=kind)
        out = visual_embedding(feature, box.to(kind), (one, zero), (one, zero))
        out.backward(upstream.to(kind))
        assert feature.grad is not None
        return feature.grad.double()

    wanted = gradient(torch.float64)
    torch.testing.assert_close(
        gradient(dtype), wanted, rtol=0.0, atol=4 * torch.finfo(dtype).eps * float(wanted.abs().max())
    )
