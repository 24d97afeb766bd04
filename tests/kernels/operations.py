"""Each operation twice: as the encoders call it, and by `reference.py` with the same dropout masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from drawn import drawing, new_seed, of_meetings, of_rows
from standing import Shape, randn, standing
from torch import Tensor
from torch.nn import functional as F

from lxmert_fast.kernels.bias_gelu import bias_gelu_linear
from lxmert_fast.kernels.bias_gelu import op as gelu_op
from lxmert_fast.kernels.bias_gelu import reference as gelu_reference
from lxmert_fast.kernels.cross_attention import cross_attention
from lxmert_fast.kernels.cross_attention.reference import cross_attention as cross_formula
from lxmert_fast.kernels.dropout_add_layer_norm import Parameters, dropout_add_layer_norm
from lxmert_fast.kernels.dropout_add_layer_norm import reference as norm_reference
from lxmert_fast.kernels.dropout_add_layer_norm.invertible import invertible
from lxmert_fast.kernels.layout import Layout, packed, shared
from lxmert_fast.kernels.rows import repeat_rows
from lxmert_fast.kernels.self_attention import attention, self_attention
from lxmert_fast.kernels.self_attention import reference as attention_reference
from lxmert_fast.kernels.text_embedding import embed_text
from lxmert_fast.kernels.text_embedding import reference as text_reference
from lxmert_fast.kernels.visual_embedding import embed_regions
from lxmert_fast.kernels.visual_embedding import reference as visual_reference

SHARING = ("own", "images", "texts", "both")
WORDS, PLACES = 97, 16

Operation = Callable[..., Tensor]


class Case(NamedTuple):
    """An operation on tensors."""

    kernel: Operation
    """Takes the tensors by name."""
    formula: Operation
    tensors: dict[str, Tensor]
    """fp64."""


def of_self_attention(shape: Shape, kind: str, p: float = 0.0) -> Case:
    """Of the objects, which are the longer sequences."""
    batch, _, width, hidden, heads = shape
    seed = new_seed()

    def kernel(qkv: Tensor) -> Tensor:
        layout = standing(kind, batch, width, qkv.dtype)
        return self_attention(qkv, layout, heads, dropout_p=p, seed=seed)[0]

    def formula(qkv: Tensor) -> Tensor:
        layout = standing(kind, batch, width, qkv.dtype)
        mask = of_meetings(seed, 0, (batch, heads, layout.width, layout.width), p)
        with drawing(attention_reference, *[mask] if p else []):
            return attention_reference.self_attention(qkv, layout, heads, dropout_p=p)[0]

    rows = standing(kind, batch, width, torch.float64).written
    return Case(kernel, formula, {"qkv": randn(rows, 3 * hidden)})


def crossing_layouts(
    shape: Shape, sharing: str, kinds: tuple[str, str], dtype: torch.dtype
) -> tuple[tuple[Layout, Layout], tuple[int, int]]:
    """Texts and objects as pairs read them, and how many rows each has."""
    texts = standing(kinds[0], shape.batch, shape.texts, dtype)
    objects = standing(kinds[1], shape.batch, shape.objects, dtype)
    rows = texts.written, objects.written
    if sharing == "own":
        return (texts, objects), rows
    pairs = 2 * shape.batch if sharing == "both" else shape.batch
    # some texts are read by no pair, image 0 by several
    text_index = torch.arange(pairs) // 2 + max(0, shape.batch - (pairs + 1) // 2)
    image_index = torch.arange(pairs) * 3 // 4 % shape.batch
    if sharing in ("texts", "both"):
        texts, _ = shared(texts, text_index, int(texts.starts.diff()[text_index].sum()))
    if sharing in ("images", "both"):
        objects, _ = shared(objects, image_index, int(objects.starts.diff()[image_index].sum()))
    return (texts, objects), rows


def of_cross_attention(
    shape: Shape, sharing: str = "own", kinds: tuple[str, str] = ("packed", "packed"), p: float = 0.0
) -> Case:
    """Both directions."""
    hidden, heads, seed = shape.hidden, shape.heads, new_seed()

    def kernel(qkv: Tensor) -> Tensor:
        layouts, rows = crossing_layouts(shape, sharing, kinds, qkv.dtype)
        return cross_attention(qkv, rows[0], *layouts, heads, dropout_p=p, seed=seed).context

    def formula(qkv: Tensor) -> Tensor:
        (texts, objects), rows = crossing_layouts(shape, sharing, kinds, qkv.dtype)
        pairs, widths = texts.batch, (texts.width, objects.width)
        masks = [
            of_meetings(seed, first, (pairs, heads, *sides), p)
            for first, sides in ((0, widths), (pairs, widths[::-1]))
        ]
        with drawing(attention_reference, *masks if p else []):
            return cross_formula(qkv, rows[0], texts, objects, heads, dropout_p=p).context

    _, rows = crossing_layouts(shape, sharing, kinds, torch.float64)
    return Case(kernel, formula, {"qkv": randn(sum(rows), 3 * hidden)})


def reading(batch: int, width: int) -> Layout:
    """Some queries of each sequence: in the first none, in the last all."""
    generator = torch.Generator().manual_seed(0)
    read = torch.rand(batch, width, generator=generator) < 0.4
    read[0], read[-1] = False, True
    return packed(read, None, torch.float32, kept=int(read.sum()), longest=width)


def of_attention(shape: Shape, kind: str = "packed", share: bool = False, p: float = 0.0) -> Case:
    """From some words to all objects; `share`: two pairs read each."""
    batch, width, objects, hidden, heads = shape
    queries, seed = reading(batch, width), new_seed()
    index = torch.arange(batch) // 2

    def both(dtype: torch.dtype) -> tuple[Layout, Layout]:
        keys = standing(kind, batch, objects, dtype)
        if not share:
            return queries, keys
        read = [shared(x, index, int(x.starts.diff()[index].sum()))[0] for x in (queries, keys)]
        return read[0], read[1]

    def kernel(query: Tensor, key_value: Tensor) -> Tensor:
        return attention(query, key_value, *both(query.dtype), heads, dropout_p=p, seed=seed)[0]

    def formula(query: Tensor, key_value: Tensor) -> Tensor:
        q, k = both(query.dtype)
        mask = of_meetings(seed, 0, (batch, heads, q.width, k.width), p)
        with drawing(attention_reference, *[mask] if p else []):
            return attention_reference.attention(query, key_value, q, k, heads, dropout_p=p)[0]

    rows = queries.written, standing(kind, batch, objects, torch.float64).written
    return Case(
        kernel, formula, {"query": randn(rows[0], hidden), "key_value": randn(rows[1], 2 * hidden, seed=1)}
    )


def _norm_parameters(width: int, bias: bool, names: str, small: bool) -> dict[str, Tensor]:
    """Weights that give the normalised row back, or some that are small beside their shift."""
    weight, shift = randn(width, seed=1, scale=0.1) + 1.5, randn(width, seed=2, scale=0.2).clamp(-1, 1)
    if small:
        weight[::3], shift[::3] = 1e-4, 2.0
        weight[1:2] = 0.0
    given = {"weight": weight, "shift": shift}
    if bias:
        given["bias"] = randn(width, seed=3)
    return {name + names: x for name, x in given.items()}


def of_norm(
    rows: tuple[int, int],
    width: int,
    *,
    two: bool = True,
    bias: bool = True,
    p: float = 0.0,
    small: bool = False,
) -> Case:
    """The end of a sub-layer, of rows of two streams."""
    total, seed = sum(rows), new_seed()
    split = rows[0] if two else total
    mask = of_rows(seed, (total, width), p)
    tensors = {"x": randn(total, width), "residual": randn(total, width, seed=5) + 0.5}
    tensors |= _norm_parameters(width, bias, "1", small)
    if two:
        tensors |= _norm_parameters(width, bias, "2", False)
        tensors["weight2"] = tensors["weight2"] * 1.3

    def kernel(x: Tensor, residual: Tensor, weight1: Tensor, shift1: Tensor, **rest: Tensor) -> Tensor:
        assert invertible(weight1, shift1, residual.dtype) is not small
        second = Parameters(rest["weight2"], rest["shift2"], rest.get("bias2")) if two else None
        return dropout_add_layer_norm(
            x, residual, weight1, shift1, bias=rest.get("bias1"), second=second, split=split, dropout_p=p,
            seed=seed,
        )  # fmt: skip

    def formula(x: Tensor, residual: Tensor, **given: Tensor) -> Tensor:
        parts = []
        spans = [slice(None, split), slice(split, None)][: 2 if two else 1]
        with drawing(norm_reference, *[mask[span] for span in spans] if p else []):
            for name, span in zip("12", spans, strict=False):
                own_bias = given.get(f"bias{name}")
                weight, shift = (given[of + name].to(residual.dtype) for of in ("weight", "shift"))
                parts.append(
                    norm_reference.dropout_add_layer_norm(
                        x[span], residual[span], weight, shift, bias=own_bias, dropout_p=p
                    )
                )
        return torch.cat(parts)

    return Case(kernel, formula, tensors)


def of_gelu(rows: tuple[int, int], width: int, biases: int) -> Case:
    """The activation, with a bias for each stream, one for both, or none."""
    total = sum(rows)
    split = rows[0] if biases == 2 else total
    tensors = {"x": randn(total, width, scale=2.0)}
    tensors |= {f"bias{i + 1}": randn(width, seed=i + 1) for i in range(biases)}

    def kernel(x: Tensor, bias1: Tensor | None = None, bias2: Tensor | None = None) -> Tensor:
        return gelu_op.bias_gelu(x, bias1, bias2, split)

    def formula(x: Tensor, bias1: Tensor | None = None, bias2: Tensor | None = None) -> Tensor:
        parts = [gelu_reference.bias_gelu(x[:split], bias1), gelu_reference.bias_gelu(x[split:], bias2)]
        return torch.cat(parts).to(x.dtype)

    return Case(kernel, formula, tensors)


def of_gelu_linear(rows: tuple[int, int], inner: int, hidden: int, streams: int) -> Case:
    """The activation and the product after it."""
    total = sum(rows)
    split = rows[0] if streams == 2 else total
    tensors = {"x": randn(total, inner)}
    for i in range(streams):
        tensors[f"bias{i}"] = randn(inner, seed=i)
        tensors[f"weight{i}"] = randn(hidden, inner, seed=i + 2, scale=0.1)

    def kernel(x: Tensor, **of: Tensor) -> Tensor:
        biases, weights = (tuple(of[f"{n}{i}"] for i in range(streams)) for n in ("bias", "weight"))
        return bias_gelu_linear(x, biases, weights, split)

    def formula(x: Tensor, **of: Tensor) -> Tensor:
        spans = [slice(None, split), slice(split, None)][:streams]
        hidden_rows = [gelu_reference.bias_gelu(x[s], of[f"bias{i}"]) for i, s in enumerate(spans)]
        return torch.cat([F.linear(h, of[f"weight{i}"]) for i, h in enumerate(hidden_rows)])

    return Case(kernel, formula, tensors)


def _norm(width: int, name: str, seed: int) -> dict[str, Tensor]:
    return {f"{name}_weight": randn(width, seed=seed) + 1.0, f"{name}_shift": randn(width, seed=seed + 1)}


def of_text(
    rows: int,
    width: int,
    *,
    segments: bool = True,
    padding: int = 0,
    p: float = 0.0,
    place: Callable[[Tensor], Tensor] = torch.clone,
) -> Case:
    """The embedding of words; `place` puts the ids somewhere."""
    generator = torch.Generator().manual_seed(rows)
    ids, positions, of_segments = (torch.randint(n, (rows,), generator=generator) for n in (WORDS, PLACES, 2))
    ids[::5] = 0
    seed = new_seed()
    mask = of_rows(seed, (rows, width), p)
    tensors = {
        "word": randn(WORDS, width),
        "position": randn(PLACES, width),
        "segment": randn(2, width),
        **_norm(width, "norm", 3),
    }
    indices = [place(x) for x in (ids, positions, of_segments)]

    def kernel(
        word: Tensor, position: Tensor, segment: Tensor, norm_weight: Tensor, norm_shift: Tensor
    ) -> Tensor:
        return embed_text(
            (word, position, segment), (indices[0], indices[1], indices[2] if segments else None),
            (norm_weight, norm_shift), padding=padding, dropout_p=p, seed=seed,
        )  # fmt: skip

    def formula(
        word: Tensor, position: Tensor, segment: Tensor, norm_weight: Tensor, norm_shift: Tensor
    ) -> Tensor:
        own = of_segments if segments else torch.zeros_like(ids)
        vectors = (
            F.embedding(i, table, padding if 0 <= padding < len(table) else None)
            for i, table in ((ids, word), (positions, position), (own, segment))
        )
        scaling = norm_weight.to(word.dtype), norm_shift.to(word.dtype)
        with drawing(text_reference, *[mask] if p else []):
            return text_reference.text_embedding(*vectors, scaling, dropout_p=p)

    return Case(kernel, formula, tensors)


def of_regions(rows: int, width: int, *, bias: bool = True, p: float = 0.0) -> Case:
    """The embedding of regions."""
    seed = new_seed()
    mask = of_rows(seed, (rows, width), p)
    tensors = {
        "feature": randn(rows, width),
        "box": randn(rows, 4).sigmoid(),
        "projection": randn(width, 4),
        "projection_bias": randn(width, seed=1, scale=0.5),
        **_norm(width, "feature_norm", 3),
        **_norm(width, "box_norm", 5),
    }
    if bias:
        tensors["feature_bias"] = randn(width, seed=7)

    def kernel(feature: Tensor, box: Tensor, **of: Tensor) -> Tensor:
        return embed_regions(
            feature, of.get("feature_bias"), box, (of["projection"], of["projection_bias"]),
            (of["feature_norm_weight"], of["feature_norm_shift"]),
            (of["box_norm_weight"], of["box_norm_shift"]), dropout_p=p, seed=seed,
        )  # fmt: skip

    def formula(feature: Tensor, box: Tensor, **of: Tensor) -> Tensor:
        of = {name: x.to(feature.dtype) for name, x in of.items()}
        if bias:
            feature = feature + of["feature_bias"]
        with drawing(visual_reference, *[mask] if p else []):
            return visual_reference.visual_embedding(
                feature, F.linear(box, of["projection"], of["projection_bias"]),
                (of["feature_norm_weight"], of["feature_norm_shift"]),
                (of["box_norm_weight"], of["box_norm_shift"]), dropout_p=p,
            )  # fmt: skip

    return Case(kernel, formula, tensors)


def readers_of(source: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Who reads each row: first places (rows + 1,) in a list of readers."""
    found = [(source == row).nonzero()[:, 0] for row in range(rows)]
    starts = torch.tensor([0, *(len(x) for x in found)]).cumsum(0)
    return starts, torch.cat(found)


def of_rows_repeated(rows: int, written: int, width: int) -> Case:
    """Some rows are read by no one, some often."""
    generator = torch.Generator().manual_seed(written)
    source = torch.randint(max(1, rows - 2), (written,), generator=generator)
    index = readers_of(source, rows)
    return Case(lambda x: repeat_rows(x, source, *index), lambda x: x[source], {"x": randn(rows, width)})
