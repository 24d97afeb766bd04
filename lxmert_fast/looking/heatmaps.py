"""All layers and heads of one direction of cross attention in one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lxmert_fast.files import replace_file, writing

#: Columns and rows between two heads or layers.
_GAP = 2


def draw_heads(weights: np.ndarray, words: Sequence[str], out: Path, title: str) -> None:
    """Draw a row a layer and a column a head, each with a line a word and a column a box.

    Every head's colours go from 0 to its own largest weight.

    Args:
        weights: (L, heads, T, O).
        words: T tokens.
        out: PNG file.
        title: above the figure.

    Raises:
        InputError: it cannot be written.
    """
    layers, heads, tokens, boxes = weights.shape
    largest = weights.max(axis=(2, 3), keepdims=True)
    shares = weights / np.where(largest > 0, largest, 1)
    apart = np.pad(shares, ((0, 0), (0, 0), (0, _GAP), (0, _GAP)), constant_values=np.nan)
    # (L, heads, T, O) side by side is (L T, heads O)
    mosaic = apart.transpose(0, 2, 1, 3).reshape(layers * (tokens + _GAP), heads * (boxes + _GAP))
    figure = Figure(figsize=(2 + 0.03 * mosaic.shape[1], 1.2 + 0.12 * mosaic.shape[0]), layout="constrained")
    axes = figure.subplots()
    axes.imshow(mosaic, cmap="magma", aspect="auto", interpolation="nearest", vmin=0, vmax=1)
    axes.set_xticks(
        [head * (boxes + _GAP) + (boxes - 1) / 2 for head in range(heads)],
        [f"head {head + 1}" for head in range(heads)],
        fontsize=7,
    )
    axes.set_yticks(
        [layer * (tokens + _GAP) + token for layer in range(layers) for token in range(tokens)],
        [
            # a dollar sign would begin a formula
            (f"layer {layer + 1}:  " if token == 0 else "") + word.replace("$", r"\$")
            for layer in range(layers)
            for token, word in enumerate(words)
        ],
        fontsize=6,
    )
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=9)
    with writing(out):
        replace_file(out, lambda beside: figure.savefig(beside, format="png", dpi=130))
