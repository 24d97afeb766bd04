"""Bytes that autograd keeps between forward and backward, by the sizes of a batch.

Of the operators' path, which a GPU takes: what is listed is what they save. The CPU's reference path saves
more (probabilities, dropout masks), so it is no measure of a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

from transformers import LxmertConfig

from lxmert_fast.flops import BatchSizes, head_width

#: A LayerNorm keeps two numbers a row, in fp32: dropout is drawn again and attention computed again.
NORM = 2 * 4
#: Losses are computed in fp32.
FP32 = 4


class Activations(NamedTuple):
    """Bytes."""

    kept: float
    again: float
    """What checkpointing computes again at a time: the layer that keeps most."""


def activation_bytes(
    config: LxmertConfig,
    sizes: BatchSizes,
    element: int,
    *,
    checkpointing: bool = False,
    apart: bool = False,
) -> Activations:
    """Bytes kept for backward by a pre-training step, or of question answering.

    With H hidden, F intermediate and e bytes an element, a row of a layer of one stream keeps

        e (3 H  query, key, value  +  H context  +  H after LayerNorm  +  F before GELU  +  H after LayerNorm)

    and 8 bytes a LayerNorm; its input is the output that the layer before it keeps. A row of a
    cross-modality layer keeps e (5 H) more for cross attention: query, key, value, context, after LayerNorm.
    The last layer keeps queries, and all that follows, of the rows that are read alone. The scores of the
    heads are kept in fp32: 4 V bytes a masked word.

    Args:
        sizes: of the batch of one forward pass.
        element: bytes of a number, 2 in half precision.
        checkpointing: a layer keeps its input alone and is computed again, one at a time, in backward. (And
            the plan's tables, which do not grow with the model and are not counted.)
        apart: layers have hooks, as ZeRO-3 puts on them, and are called one by one: GELU's output is kept
            too, and the streams are joined anew after every cross-modality layer.
    """
    hidden, inner = config.hidden_size, config.intermediate_size * (2 if apart else 1)
    rows_in, rows = sizes.tokens + sizes.image_rows, sizes.text_rows + sizes.object_rows

    def one_stream(n: float) -> float:
        return n * (element * (6 * hidden + inner) + 2 * NORM)

    def meeting(first: bool) -> float:
        joined = apart and not first
        return (
            element * hidden * ((rows_in if first else rows) * 3 + rows * (3 if joined else 2)) + rows * NORM
        )

    def read(readers: float, n: float) -> float:
        return readers * (element * (5 * hidden + inner) + 2 * NORM) + n * element * 2 * hidden

    embedded = sizes.tokens * (element * hidden + NORM + 8) + sizes.image_rows * (
        2 * element * hidden + 2 * NORM
    )
    singles = [one_stream(sizes.tokens)] * config.l_layers + [one_stream(sizes.image_rows)] * config.r_layers
    crosses = [meeting(number == 0) + one_stream(rows) for number in range(config.x_layers - 1)]
    joined = element * hidden * rows_in if config.x_layers else 0
    last = 0.0
    if config.x_layers:
        last += read(sizes.read_words, sizes.text_rows)
        if sizes.read_regions:
            last += meeting(config.x_layers == 1) + read(sizes.read_regions, sizes.object_rows)
        else:
            # texts ask, objects answer, and no object is written
            last += element * hidden * (3 * sizes.text_rows + 2 * sizes.object_rows) + sizes.text_rows * NORM
    layers, again = sum(singles) + sum(crosses), 0.0
    if checkpointing:
        inputs = config.l_layers * sizes.tokens + config.r_layers * sizes.image_rows
        inputs += max(0, config.x_layers - 1) * rows
        layers, again = element * hidden * inputs, max([*singles, *crosses, last])
        last = 0.0
    return Activations(embedded + layers + joined + last + _heads(config, sizes, element), again)


def _heads(config: LxmertConfig, sizes: BatchSizes, element: int) -> float:
    """Pooled outputs, the transforms before the decoders, each decoder's copy of its rows, scores in fp32."""
    hidden = config.hidden_size
    total = sizes.pairs * 2 * hidden * element
    total += sizes.words * (4 * hidden * element + NORM + FP32 * config.vocab_size)
    total += sizes.read_regions * (2 * hidden * element + NORM)
    for head, rows in (sizes.regions or {}).items():
        # predictions and what they should have been, or the logarithms of the probabilities
        kept = 2 if head == "feat" else 1
        total += rows * (hidden * element + kept * FP32 * head_width(config, head))
    total += sizes.answered * (7 * hidden * element + NORM + FP32 * config.num_qa_labels)
    return total
