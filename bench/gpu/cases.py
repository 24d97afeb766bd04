"""Calls of every operator whose results and gradients are compared: small odd shapes, and the base model's.

A case holds fp64 numbers; `cast` gives them to an operator in its dtype. Small ones come first, so that a run
under `compute-sanitizer` (`--parts small`) sees every kernel within seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lxmert_fast.bench.gpu.formulas import Given
from lxmert_fast.kernels.layout import Layout, dense, packed, shared
from lxmert_fast.kernels.meetings import Meetings, Readers, between, crossing, side_by_side, within

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """One call of an operator."""

    name: str
    operator: str
    given: Given

    def cast(self, dtype: torch.dtype, device: torch.device) -> Given:
        """Its arguments, floats in `dtype` and with gradients; of a mask (1 is closed) what is added."""
        moved: Given = {}
        for name, value in self.given.items():
            if not isinstance(value, Tensor):
                moved[name] = value
            elif not value.is_floating_point():
                moved[name] = value.to(device)
            elif name == "bias" and "table" in self.given:
                moved[name] = (value * torch.finfo(dtype).min).to(device, dtype)
            else:
                moved[name] = value.to(device, dtype).requires_grad_()
        return moved


@dataclass(frozen=True)
class Size:
    """Of a set of cases."""

    name: str
    texts: int
    images: int
    length: int
    boxes: int
    width: int
    heads: int
    inner: int


SMALL = (
    Size("odd", texts=3, images=2, length=7, boxes=5, width=48, heads=3, inner=80),
    Size("one row", texts=1, images=1, length=1, boxes=1, width=32, heads=1, inner=33),
    Size("over a tile", texts=5, images=2, length=21, boxes=37, width=200, heads=2, inner=520),
)
BASE = (Size("base", texts=32, images=8, length=20, boxes=36, width=768, heads=12, inner=3072),)


def cases(size: Size, p: float) -> Iterator[Case]:
    """Every operator, with dropout of rate p."""
    draw = _Draw(size, p)
    for streams in (1, 2):
        yield draw.norm(streams, keep_sum=True)
        yield draw.gelu(streams)
    yield draw.norm(1, keep_sum=False)
    for with_segments in (False, True):
        yield draw.text(with_segments)
    yield draw.visual()
    texts, objects = draw.layouts()
    text_pairs, object_pairs = (shared(x, index, rows) for x, index, rows in draw.paired(texts, objects))
    own = (text_pairs[1].written, object_pairs[1].written)
    yield draw.one_buffer("self_attention", "packed texts", within(texts), texts.written)
    both = side_by_side(text_pairs[1], object_pairs[1])
    yield draw.one_buffer("self_attention", "both streams", both, sum(own))
    yield draw.one_buffer("self_attention", "masked", within(draw.masked()), size.texts * size.length)
    rows = texts.written, objects.written
    yield draw.one_buffer(
        "cross_attention", "shared", crossing(text_pairs[0], object_pairs[0], *rows), sum(rows)
    )
    later = crossing(text_pairs[1], object_pairs[1], *own)
    yield draw.one_buffer("cross_attention", "own rows", later, sum(own))
    yield draw.two_buffers(between(text_pairs[0], object_pairs[0], *rows), *rows)
    yield draw.repeats()


class _Draw:
    """Random arguments; the same each time."""

    def __init__(self, size: Size, p: float) -> None:
        self.size = size
        self.random = torch.Generator().manual_seed(0)
        self.dropping: dict[str, Any] = {"seed": torch.tensor([1234567]), "site": 3, "p": p}

    def numbers(self, *shape: int, mean: float = 0.0, spread: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=self.random, dtype=torch.float64) * spread + mean

    def norm_parameters(self) -> tuple[Tensor, Tensor]:
        """No weight smaller than its shift: a norm may be inverted."""
        width = self.size.width
        weight = torch.rand(width, generator=self.random, dtype=torch.float64) + 0.6
        return weight, self.numbers(width, spread=0.1)

    def norm(self, streams: int, keep_sum: bool) -> Case:
        rows, width = self.size.texts * self.size.length + self.size.boxes, self.size.width
        (weight, shift), (weight2, shift2) = self.norm_parameters(), self.norm_parameters()
        two = streams == 2
        given = {
            "x": self.numbers(rows, width),
            "residual": self.numbers(rows, width, mean=0.3),
            "weight": weight,
            "shift": shift,
            "bias": self.numbers(width),
            "weight2": weight2 if two else None,
            "shift2": shift2 if two else None,
            "bias2": self.numbers(width) if two else None,
            "split": self.size.texts * self.size.length if two else rows,
            "eps": 1e-12,
            "keep_sum": keep_sum,
            **self.dropping,
        }
        kept = "" if keep_sum else ", from the output"
        return Case(_streams(streams) + kept, "dropout_add_layer_norm", given)

    def gelu(self, streams: int) -> Case:
        rows, inner = self.size.texts * self.size.length + self.size.boxes, self.size.inner
        given = {
            "x": self.numbers(rows, inner, spread=2.0),
            "bias": self.numbers(inner),
            "bias2": self.numbers(inner) if streams == 2 else None,
            "split": rows // 3 if streams == 2 else rows,
        }
        return Case(_streams(streams), "bias_gelu", given)

    def text(self, with_segments: bool) -> Case:
        size, rows = self.size, self.size.texts * self.size.length
        weight, shift = self.norm_parameters()
        given = {
            "word": self.numbers(50, size.width),
            "position": self.numbers(size.length, size.width),
            "segment": self.numbers(2, size.width),
            "weight": weight,
            "shift": shift,
            "ids": torch.randint(50, (rows,), generator=self.random),
            "positions": torch.arange(rows) % size.length,
            "segments": torch.randint(2, (rows,), generator=self.random) if with_segments else None,
            "padding": 0,
            "eps": 1e-12,
            **self.dropping,
        }
        return Case("with segments" if with_segments else "without segments", "text_embedding", given)

    def visual(self) -> Case:
        rows, width = self.size.images * self.size.boxes, self.size.width
        names = "feature_norm_weight", "feature_norm_shift", "box_norm_weight", "box_norm_shift"
        norms = *self.norm_parameters(), *self.norm_parameters()
        given = {
            "feature": self.numbers(rows, width),
            "feature_bias": self.numbers(width),
            "box": torch.rand(rows, 4, generator=self.random, dtype=torch.float64),
            "box_weight": self.numbers(width, 4),
            "box_bias": self.numbers(width),
            **dict(zip(names, norms, strict=True)),
            "eps": 1e-12,
            **self.dropping,
        }
        return Case("regions", "visual_embedding", given)

    def layouts(self) -> tuple[Layout, Layout]:
        """Texts of different lengths, and images."""
        size = self.size
        lengths = torch.randint(1, size.length + 1, (size.texts,), generator=self.random)
        lengths[0] = size.length
        keep = torch.arange(size.length) < lengths[:, None]
        total = int(lengths.sum())
        texts = packed(keep, None, torch.float32, kept=total, longest=size.length)
        return texts, dense(size.images, size.boxes, None, CPU)

    def paired(self, texts: Layout, objects: Layout) -> list[tuple[Layout, Tensor, int]]:
        """A pair a text, and one more of the first; images are shared."""
        text_index = torch.cat([torch.arange(self.size.texts), torch.zeros(1, dtype=torch.int64)])
        image_index = torch.arange(len(text_index)) % self.size.images
        rows = int(texts.starts.diff()[text_index].sum())
        return [(texts, text_index, rows), (objects, image_index, 0)]

    def masked(self) -> Layout:
        """Texts that keep all positions, the first of which has no key at all."""
        closed = torch.rand(self.size.texts, self.size.length, generator=self.random) < 0.3
        closed[0] = True
        return dense(self.size.texts, self.size.length, closed.double(), CPU)

    def one_buffer(self, operator: str, name: str, met: Meetings, rows: int) -> Case:
        readers = met.query_readers
        given = {
            "qkv": self.numbers(rows, 3 * self.size.width),
            **self._of(met),
            "starts": readers and readers.starts,
            "readers": readers and readers.rows,
            "written": met.written[0],
        }
        return Case(name, operator, given)

    def two_buffers(self, met: Meetings, query_rows: int, key_rows: int) -> Case:
        given = {
            "query": self.numbers(query_rows, self.size.width),
            "key_value": self.numbers(key_rows, 2 * self.size.width),
            **self._of(met),
            "written_queries": met.written[0],
            "written_keys": met.written[1],
        }
        for side, readers in (("query", met.query_readers), ("key", met.key_readers)):
            given |= {
                f"{side}_starts": readers and readers.starts,
                f"{side}_readers": readers and readers.rows,
            }
        return Case("shared", "attention", given)

    def _of(self, met: Meetings) -> Given:
        most = {"most_queries": met.most_queries, "most_keys": met.most_keys}
        return {"table": met.table, "bias": met.bias, "heads": self.size.heads, **most, **self.dropping}

    def repeats(self) -> Case:
        rows = self.size.images * self.size.boxes
        source = torch.randint(rows, (2 * rows + 1,), generator=self.random)
        readers = _readers_of(source, rows)
        given = {
            "x": self.numbers(rows, self.size.width),
            "source": source,
            "starts": readers.starts,
            "readers": readers.rows,
        }
        return Case("rows", "repeat_rows", given)


def _readers_of(source: Tensor, rows: int) -> Readers:
    counts = torch.bincount(source, minlength=rows)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return Readers(starts, source.argsort(stable=True))


def _streams(number: int) -> str:
    return "one stream" if number == 1 else "two streams"
