"""The feed-forward activation, in plain PyTorch: the definition and the CPU path.

    y = u * Phi(u) = u / 2 * (1 + erf(u / sqrt(2))),   u = x + bias

Exact (erf) GELU: neither code base of LXMERT uses the tanh approximation anywhere.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def bias_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Bias and exact GELU, element by element.

    Args:
        x: (..., H).
        bias: (H,), or None where it has been added already.

    Returns:
        (..., H).
    """
    return F.gelu(x if bias is None else x + bias)
