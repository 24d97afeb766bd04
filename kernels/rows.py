"""Rows repeated for those that read them: y[i] = x[source[i]], as a torch operator.

PyTorch's own gradient of a lookup adds atomically on a GPU, in another order each time. Here `Readers` names,
for each row, those to sum.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.library import custom_op

from .checks import check_device, check_indices, check_readers, check_rows
from .dispatch import runs_triton
from .self_attention import tabled


@custom_op("lxmert_fast::repeat_rows", mutates_args=())
def repeat_rows(x: Tensor, source: Tensor, starts: Tensor, readers: Tensor) -> Tensor:
    """(R, H) to (N, H).

    Args:
        source: (N,) int64, the row of each.
        starts, readers: the fields of `Readers`, the inverse of `source`.

    Raises:
        ValueError: an argument that does not fit.
    """
    check_rows("repeat_rows", "x", x)
    check_device("repeat_rows", x, source=source, starts=starts, readers=readers)
    check_indices("repeat_rows", "source", source)
    check_readers("repeat_rows", ("starts", "readers", "source"), starts, readers, len(x), len(source))
    return x.index_select(0, source)


@repeat_rows.register_fake
def _(x: Tensor, source: Tensor, starts: Tensor, readers: Tensor) -> Tensor:
    return x.new_empty(source.shape[0], x.shape[1])


@custom_op("lxmert_fast::sum_readers", mutates_args=())
def sum_readers(x: Tensor, starts: Tensor, readers: Tensor) -> Tensor:
    """(N, W) to (R, W): at each row the sum of those that read it, in their order, in fp32.

    Raises:
        ValueError: an argument that does not fit.
    """
    check_rows("sum_readers", "x", x)
    check_device("sum_readers", x, starts=starts, readers=readers)
    check_indices("sum_readers", "starts", starts)
    check_indices("sum_readers", "readers", readers)
    if runs_triton(x):
        from .self_attention.triton import launch_sum_readers

        return launch_sum_readers(x.contiguous(), starts.contiguous(), readers.contiguous())
    return tabled.sum_readers(x, starts, readers)


@sum_readers.register_fake
def _(x: Tensor, starts: Tensor, readers: Tensor) -> Tensor:
    return x.new_empty(starts.shape[0] - 1, x.shape[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[2:])


def _gradient(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return sum_readers(grad, *ctx.saved_tensors), None, None, None


repeat_rows.register_autograd(_gradient, setup_context=_keep)
