"""What this library's operators do on a GPU, which PyTorch's dispatch does not see: launches and bytes.

An operator is one operation. Its kernels are launched by `kernels/*/triton.py`; whatever PyTorch's own
operations inside it launch counts one each, as outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

#: Arguments by name.
Arguments = dict[str, Any]


def _one(_: Arguments) -> int:
    return 1


def _with_sums(_: Arguments) -> int:
    """The kernel, and the one that adds its programs' sums."""
    return 2


def _gelu_backward(given: Arguments) -> int:
    """Without a bias there is nothing to sum."""
    return 1 if given["bias"] is None else 2


def _attention_backward(given: Arguments) -> int:
    """The kernel, and a sum of readers for each buffer whose rows are shared."""
    return 1 + sum(given.get(name) is not None for name in ("starts", "query_starts", "key_starts"))


def _text_backward(given: Arguments) -> int:
    """The two of every norm, and PyTorch's gradients of the tables.

    Without segments that of their table is zeros, and a sum and a copy unless row 0 is padding.
    """
    of_segments = 1 if given["segments"] is not None or given["padding"] == 0 else 3
    return 2 + 2 + of_segments


#: Kernels that an operator launches, by its name; an operator that is not here has no known cost.
LAUNCHES: dict[str, Callable[[Arguments], int]] = {
    "lxmert_fast::self_attention": _one,
    "lxmert_fast::self_attention_backward": _attention_backward,
    "lxmert_fast::cross_attention": _one,
    "lxmert_fast::cross_attention_backward": _attention_backward,
    "lxmert_fast::attention": _one,
    "lxmert_fast::attention_backward": _attention_backward,
    "lxmert_fast::dropout_add_layer_norm": _one,
    "lxmert_fast::dropout_add_layer_norm_backward": _with_sums,
    "lxmert_fast::bias_gelu": _one,
    "lxmert_fast::bias_gelu_backward": _gelu_backward,
    "lxmert_fast::text_embedding": _one,
    "lxmert_fast::text_embedding_backward": _text_backward,
    "lxmert_fast::visual_embedding": _one,
    "lxmert_fast::visual_embedding_backward": _with_sums,
    "lxmert_fast::repeat_rows": _one,
    "lxmert_fast::sum_readers": _one,
}

#: Arguments that are tables, and the argument that has a row number for each row that is fetched.
LOOKED_UP = {
    "lxmert_fast::text_embedding": {"word": "ids", "position": "positions", "segment": "segments"},
    "lxmert_fast::text_embedding_backward": {"word": "ids", "position": "positions", "segment": "segments"},
    "lxmert_fast::repeat_rows": {"x": "source"},
}


def named_arguments(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """The arguments of a call of an operator by their names."""
    names = [argument.name for argument in function._schema.arguments]
    return dict(zip(names, args, strict=False)) | kwargs


def inputs_read(operator: str, given: Arguments) -> tuple[list[Tensor], int]:
    """Tensors that are read as a whole, and the bytes of rows that are fetched from tables."""
    tables = LOOKED_UP.get(operator, {})
    whole = [x for name, x in given.items() if isinstance(x, Tensor) and name not in tables]
    fetched = 0
    for name, index in tables.items():
        table, numbers = given[name], given[index]
        # without row numbers everyone has row 0
        rows = 1 if numbers is None else numbers.numel()
        fetched += rows * table[0].numel() * table.element_size()
    return whole, fetched
