"""NVIDIA's Apex as a named alternative: its fused LayerNorm, under LXMERT_FAST_KERNELS=apex.

An unrelated package on PyPI has the same name. So what counts is the function that is needed and the compiled
extension behind it, not the name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec

from torch import Tensor

from .dispatch import VARIABLE

_FUNCTION = "apex.normalization.fused_layer_norm"
_EXTENSION = "fused_layer_norm_cuda"


def layer_norm(x: Tensor, weight: Tensor, shift: Tensor, eps: float) -> Tensor:
    """LayerNorm of the last dimension, (..., H) to (..., H).

    Raises:
        ValueError: NVIDIA's Apex is not installed.
    """
    function = _function()
    if function is None:
        raise ValueError(f"{VARIABLE} is 'apex', and {missing()}")
    return function(x, weight, shift, weight.shape, eps)


def missing() -> str | None:
    """What keeps Apex from serving, in words; None where it can."""
    if _function() is not None:
        return None
    if find_spec("apex") is None:
        return "no package apex is installed; NVIDIA's is built from its repository"
    if find_spec(_EXTENSION) is None:
        return f"the package apex that is installed has no {_EXTENSION}: it is another one, or built without"
    return f"the package apex that is installed has no {_FUNCTION}"


@lru_cache
def _function() -> Callable[..., Tensor] | None:
    if find_spec("apex") is None or find_spec(_EXTENSION) is None:
        return None
    try:
        return import_module(_FUNCTION).fused_layer_norm_affine
    except (ImportError, AttributeError):
        return None
