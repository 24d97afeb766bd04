"""What does not fit is refused before anything is launched, and the message names the argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from arguments import FORWARD, H
from torch import Tensor

from lxmert_fast.kernels.launch import listening
from lxmert_fast.kernels.rows import sum_readers


def moved(x: Tensor) -> Tensor:
    """To another device."""
    return x.detach().to("meta")


def entry(row: int, column: int, value: int) -> Callable[[Tensor], Tensor]:
    """A table with another number in one place."""

    def change(table: Tensor) -> Tensor:
        table = table.clone()
        table[row, column] = value
        return table

    return change


def to(value: Any) -> Callable[[Any], Any]:
    return lambda before: value


def cut(x: Tensor) -> Tensor:
    return x.detach()[:-1]


def narrower(x: Tensor) -> Tensor:
    return x.detach()[:, :-1]


#: The operator, the argument's place, what is wrong with it, and what the message says.
WRONG: list[tuple[str, int, Callable[[Any], Any], str]] = [
    ("self attention", 0, torch.flatten, r"qkv is of shape \(192,\)"),
    ("self attention", 0, narrower, r"qkv is of shape \(4, 47\), wanted \(rows, 3 H\)"),
    ("self attention", 0, Tensor.long, "qkv is torch.int64"),
    ("self attention", 0, cut, "written is 4, wanted 3"),
    ("self attention", 1, Tensor.int, "table is torch.int32"),
    ("self attention", 1, narrower, r"table is torch.int64 of shape \(2, 5\)"),
    ("self attention", 1, moved, "table is on meta"),
    ("self attention", 1, entry(0, 0, -1), "table row 0, query_from is -1"),
    ("self attention", 1, entry(0, 1, 2), "table row 0, query_to is 2 with a length of 3"),
    ("self attention", 1, entry(1, 3, 4), "table row 1, key_from is 4"),
    ("self attention", 1, entry(1, 4, 7), "table row 1, key_to is 7"),
    ("self attention", 1, entry(1, 2, -2), "table row 1, query_from is 3 with a length of -2"),
    ("self attention", 1, entry(0, 5, 99), "most_keys is 16, wanted 99"),
    ("self attention", 3, to(torch.arange(5)), "starts is given without readers"),
    ("self attention", 4, to(torch.arange(4)), "readers is given without starts"),
    ("self attention", 8, to(0), "heads is 0"),
    ("self attention", 8, to(3), "heads is 3, wanted a divisor of the width 16"),
    ("self attention", 9, to(5), "written is 5, wanted 4"),
    ("self attention", 10, to(0), "most_queries is 0"),
    ("self attention", 10, to(2), "most_queries is 2, wanted 3"),
    ("self attention", 11, to(2), "most_keys is 2, wanted 3"),
    ("self attention", 11, to(129), "most_keys is 129, wanted 1 to 128"),
    ("self attention, masked, dropout", 2, narrower, r"bias is of shape \(2, 2\)"),
    ("self attention, masked, dropout", 2, cut, r"bias is of shape \(1, 3\)"),
    ("self attention, masked, dropout", 2, moved, "bias is on meta"),
    ("self attention, masked, dropout", 2, Tensor.bool, "bias is torch.bool"),
    ("self attention, masked, dropout", 5, to(None), "seed is None"),
    ("self attention, masked, dropout", 5, Tensor.int, "seed is torch.int32"),
    ("self attention, masked, dropout", 5, lambda x: x.repeat(2), r"seed is torch.int64 of shape \(2,\)"),
    ("self attention, masked, dropout", 5, moved, "seed is on meta"),
    ("self attention, masked, dropout", 7, to(1.5), r"p is 1.5, wanted a rate in \[0, 1\]"),
    ("self attention, masked, dropout", 7, to(-0.1), "p is -0.1"),
    ("cross attention, shared, dropout", 3, cut, "starts is of length 14, wanted 15"),
    ("cross attention, shared, dropout", 4, cut, "readers is of length 13, wanted 14"),
    ("cross attention, shared, dropout", 3, moved, "starts is on meta"),
    ("cross attention, shared, dropout", 4, Tensor.int, "readers is torch.int32"),
    ("attention", 0, torch.flatten, "query is of shape"),
    ("attention", 1, torch.flatten, "key_value is of shape"),
    ("attention", 1, narrower, r"key_value is of shape \(10, 31\), wanted \(rows, 32\)"),
    ("attention", 1, Tensor.double, "key_value is torch.float64, wanted torch.float32"),
    ("attention", 1, moved, "key_value is on meta"),
    ("attention", 12, to(3), "written_queries is 3, wanted 4"),
    ("attention", 13, to(11), "written_keys is 11, wanted 10"),
    ("attention, shared, dropout", 6, cut, "key_starts is of length 10, wanted 11"),
    ("attention, shared, dropout", 7, to(None), "key_starts is given without key_readers"),
    ("norm", 0, torch.flatten, "x is of shape"),
    ("norm", 0, Tensor.int, "x is torch.int32"),
    ("norm", 1, cut, "residual is of 5 rows, wanted 6"),
    ("norm", 1, narrower, r"residual is of shape \(6, 15\)"),
    ("norm", 1, Tensor.half, "residual is torch.float16"),
    ("norm", 1, moved, "residual is on meta"),
    ("norm", 2, cut, r"weight is of shape \(15,\), wanted \(16,\)"),
    ("norm", 2, Tensor.bfloat16, "weight is torch.bfloat16"),
    ("norm", 3, moved, "shift is on meta"),
    ("norm", 9, to(4), "split is 4, wanted 6, all rows"),
    ("norm, two streams", 5, to(None), "weight2 is given in part"),
    ("norm, two streams", 7, to(None), "weight2 is given in part"),
    ("norm, two streams", 7, cut, "bias2 is of shape"),
    ("norm, two streams", 8, to(None), "seed is None"),
    ("norm, two streams", 9, to(7), "split is 7, wanted 0 to 6"),
    ("norm, two streams", 9, to(-1), "split is -1"),
    ("gelu, bias", 0, torch.flatten, "x is of shape"),
    ("gelu, bias", 1, cut, "bias is of shape"),
    ("gelu, bias", 1, moved, "bias is on meta"),
    ("gelu, bias", 3, to(2), "split is 2"),
    ("gelu, two streams", 1, to(None), "bias2 is given without bias"),
    ("gelu, two streams", 2, Tensor.double, "bias2 is torch.float64"),
    ("text", 0, torch.flatten, "word is of shape"),
    ("text", 1, narrower, r"position is of shape \(4, 15\)"),
    ("text", 2, Tensor.half, "segment is torch.float16"),
    ("text", 2, moved, "segment is on meta"),
    ("text", 3, cut, "weight is of shape"),
    ("text", 5, Tensor.int, "ids is torch.int32"),
    ("text", 6, cut, "positions is torch.int64 of shape"),
    ("text", 7, moved, "segments is on meta"),
    ("text", 7, lambda x: x[None], "segments is torch.int64 of shape"),
    ("text, one segment, dropout", 8, to(None), "seed is None"),
    ("regions", 0, torch.flatten, "feature is of shape"),
    ("regions", 1, cut, "feature_bias is of shape"),
    ("regions", 2, narrower, r"box is of shape \(6, 3\), wanted \(rows, 4\)"),
    ("regions", 2, cut, "box is of 5 rows"),
    ("regions", 2, Tensor.half, "box is torch.float16"),
    ("regions", 3, Tensor.t, "box_weight is of shape"),
    ("regions", 3, moved, "box_weight is on meta"),
    ("regions", 4, Tensor.half, "box_bias is torch.float16"),
    ("regions", 8, cut, "box_norm_shift is of shape"),
    ("regions, no bias, dropout", 12, to(2.0), "p is 2.0"),
    ("repeated rows", 0, torch.flatten, "x is of shape"),
    ("repeated rows", 1, moved, "source is on meta"),
    ("repeated rows", 1, Tensor.int, "source is torch.int32"),
    ("repeated rows", 2, cut, "starts is of length 4, wanted 5"),
    ("repeated rows", 3, cut, "readers is of length 2, wanted 3"),
    ("repeated rows", 3, Tensor.int, "readers is torch.int32"),
]


@pytest.mark.parametrize(
    ("name", "place", "change", "message"), WRONG, ids=[f"{name}-{m}" for name, _, _, m in WRONG]
)
def test_refused(name: str, place: int, change: Callable[[Any], Any], message: str):
    operator, arguments = FORWARD[name]
    given = list(arguments())
    given[place] = change(given[place])
    launched: list[str] = []
    with (
        listening(lambda kernel, grid: launched.append(kernel)),
        pytest.raises(ValueError, match=rf"^{operator._name}: .*{message}"),
    ):
        # a tensor on the meta device would be dispatched to the shapes alone; on two real ones this runs
        (operator._init_fn if change is moved else operator)(*given)
    assert not launched


def test_heads_wider_than_the_kernel_holds():
    operator, arguments = FORWARD["self attention"]
    given = list(arguments())
    given[0], given[8] = torch.zeros(4, 3 * 130), 1
    with pytest.raises(ValueError, match="heads is 1 of width 130, wanted widths up to 128"):
        operator(*given)


def test_sums_of_readers_that_are_no_matrix():
    with pytest.raises(ValueError, match="x is of shape"):
        sum_readers(torch.zeros(3), torch.tensor([0, 3]), torch.arange(3))


def test_rows_longer_than_an_operator_holds_are_the_references():
    """129 boxes, a width of 4097: no error, no operator."""
    from lxmert_fast.kernels.dispatch import implementation
    from lxmert_fast.kernels.dropout_add_layer_norm import dropout_add_layer_norm
    from lxmert_fast.kernels.layout import dense
    from lxmert_fast.kernels.self_attention import self_attention

    x, wide = torch.randn(129, 3 * H), torch.randn(2, 4097)
    weight, shift = torch.ones(4097), torch.zeros(4097)

    def both() -> tuple[Tensor, Tensor]:
        attended = self_attention(x, dense(1, 129, None, x.device), 2)[0]
        return attended, dropout_add_layer_norm(wide, wide, weight, shift)

    wanted = both()
    with implementation("operator"):
        found = both()
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", FORWARD)
def test_not_contiguous_is_fine(name: str):
    """Every other element of a wider buffer: the same numbers."""
    operator, arguments = FORWARD[name]
    given = arguments()
    spread = [
        torch.stack([x.detach(), x.detach()], -1)[..., 0] if isinstance(x, Tensor) else x for x in given
    ]
    outputs = [operator(*arguments) for arguments in (given, spread)]
    for one, other in zip(*[[x] if isinstance(x, Tensor) else x for x in outputs], strict=True):
        torch.testing.assert_close(one, other)
