"""What every operator asks of its arguments, before any launch; errors name the argument."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def wrong(operator: str, argument: str, found: object, wanted: str) -> ValueError:
    """The error of an argument."""
    return ValueError(f"{operator}: {argument} is {found}, wanted {wanted}")


def check_rows(operator: str, argument: str, x: Tensor, width: int | None = None) -> None:
    """A matrix of rows, of a width if one is wanted, in a float dtype.

    Raises:
        ValueError: it is none.
    """
    if x.dim() != 2 or (width is not None and x.shape[1] != width):
        raise wrong(operator, argument, f"of shape {tuple(x.shape)}", f"(rows, {width or 'H'})")
    if x.dtype not in FLOATS:
        raise wrong(operator, argument, x.dtype, "a float dtype")


def check_like(operator: str, x: Tensor, **others: Tensor | None) -> None:
    """Others have the device and the dtype of x.

    Raises:
        ValueError: one has not.
    """
    for argument, other in others.items():
        if other is not None and other.dtype != x.dtype:
            raise wrong(operator, argument, other.dtype, f"{x.dtype} as the rows")
    check_device(operator, x, **others)


def check_device(operator: str, x: Tensor, **others: Tensor | None) -> None:
    """Others are where x is.

    Raises:
        ValueError: one is not.
    """
    for argument, other in others.items():
        if other is not None and other.device != x.device:
            raise wrong(operator, argument, f"on {other.device}", f"{x.device} as the rows")


def check_vectors(operator: str, x: Tensor, **vectors: Tensor | None) -> None:
    """Parameters (H,) for rows (N, H): the rows' dtype or fp32, the rows' device.

    Raises:
        ValueError: one does not fit.
    """
    for argument, vector in vectors.items():
        if vector is None:
            continue
        if vector.dim() != 1 or vector.shape[0] != x.shape[1]:
            raise wrong(operator, argument, f"of shape {tuple(vector.shape)}", f"({x.shape[1]},)")
        if vector.dtype not in (x.dtype, torch.float32):
            raise wrong(operator, argument, vector.dtype, f"{x.dtype} as the rows, or torch.float32")
    check_device(operator, x, **vectors)


def check_dropout(operator: str, x: Tensor, p: float, seed: Tensor | None) -> None:
    """A rate in [0, 1] and, unless it is 0, a seed (1,) int64.

    Raises:
        ValueError: one does not fit.
    """
    if not 0.0 <= p <= 1.0:
        raise wrong(operator, "p", p, "a rate in [0, 1]")
    if p > 0.0 and (seed is None or seed.dtype != torch.int64 or seed.numel() != 1):
        found = None if seed is None else f"{seed.dtype} of shape {tuple(seed.shape)}"
        raise wrong(operator, "seed", found, "torch.int64 of shape (1,)")
    check_device(operator, x, seed=seed)


def check_indices(operator: str, argument: str, index: Tensor, length: int | None = None) -> None:
    """A vector of int64, of a length if one is wanted.

    Raises:
        ValueError: it is none.
    """
    if index.dim() != 1 or index.dtype != torch.int64:
        raise wrong(operator, argument, f"{index.dtype} of shape {tuple(index.shape)}", "torch.int64 of (N,)")
    if length is not None and len(index) != length:
        raise wrong(operator, argument, f"of length {len(index)}", f"{length}")


def check_readers(
    operator: str,
    names: tuple[str, str, str],
    starts: Tensor | None,
    readers: Tensor | None,
    rows: int,
    written: int,
) -> None:
    """The fields of `Readers`, of `written` rows that read `rows`; without readers each row has one.

    Args:
        names: of `starts`, of `readers` and of `written`.

    Raises:
        ValueError: one does not fit.
    """
    if starts is None or readers is None:
        if starts is not None or readers is not None:
            given, absent = names[:2] if readers is None else names[1::-1]
            raise wrong(operator, given, f"given without {absent}", "both or none")
        if written != rows:
            raise wrong(operator, names[2], written, f"{rows}, the rows that are read, without {names[1]}")
        return
    check_indices(operator, names[0], starts, rows + 1)
    check_indices(operator, names[1], readers, written)


def check_split(operator: str, x: Tensor, split: int, second: bool) -> None:
    """The first stream's rows, all of them where there is no second.

    Raises:
        ValueError: another number.
    """
    if not 0 <= split <= x.shape[0] or (not second and split != x.shape[0]):
        wanted = f"0 to {x.shape[0]}" if second else f"{x.shape[0]}, all rows, with one set of parameters"
        raise wrong(operator, "split", split, wanted)
