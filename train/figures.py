"""The pictures of a run: how the losses fell, and which regions the words looked at."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib
import numpy as np

from .metrics import METRICS_FILE, read_metrics

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle


def plot_losses(runs: dict[str, Path], out: Path) -> None:
    """Draw every task's training loss of several runs, one panel a run.

    Args:
        runs: title to run folder.
        out: PNG file.
    """
    figure, axes = plt.subplots(1, len(runs), figsize=(5.5 * len(runs), 4), squeeze=False)
    for axis, (title, folder) in zip(axes[0], runs.items(), strict=True):
        lines = [entry for entry in read_metrics(folder / METRICS_FILE) if entry["split"] == "train"]
        steps = [entry["step"] for entry in lines]
        tasks = [name for name in lines[0]["losses"] if name != "total"] or ["total"]
        for name in tasks:
            axis.plot(steps, [entry["losses"].get(name, np.nan) for entry in lines], label=name)
        axis.set(title=title, xlabel="update", ylabel="loss", yscale="log")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out, format="png", dpi=110)
    plt.close(figure)


def curves_svg(panels: Mapping[str, Mapping[str, tuple[list[int], list[float]]]], name: str) -> str:
    """An SVG element: a panel a quantity, a line a run, its updates from left to right.

    Args:
        panels: quantity to run to (updates, values); nan where there is none.
        name: what it shows, for those who do not see it; also keeps its inner names apart from those of other
            figures on a page.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    # text stays text, and the same curves give the same bytes
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure = Figure(figsize=(4.2 * columns, 0.7 + 2.7 * rows))
        height = figure.get_figheight()
        # room in inches for titles and the legend: a layout engine would take seconds for a page of figures
        figure.subplots_adjust(
            0.5 / columns * 0.35,
            0.75 / height,
            1 - 0.03 / columns,
            1 - 0.35 / height,
            wspace=0.28,
            hspace=0.3,
        )
        axes = figure.subplots(rows, columns, squeeze=False).flat
        for axis, (title, lines) in zip(axes, panels.items(), strict=False):
            for run, (updates, values) in lines.items():
                marker = "o" if len(updates) < 30 else None
                axis.plot(updates, values, label=run.replace("$", r"\$"), marker=marker, ms=3, lw=1.2)
            axis.set_title(title.replace("$", r"\$"), fontsize=10)
            axis.grid(alpha=0.3)
        for axis in list(figure.axes)[len(panels) :]:
            axis.remove()
        if any(len(lines) > 1 for lines in panels.values()):
            handles, labels = max((axis.get_legend_handles_labels() for axis in figure.axes), key=len)
            figure.legend(handles, labels, loc="lower center", fontsize=8, ncols=3)
        content = io.StringIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    drawn = content.getvalue()
    return drawn[drawn.index("<svg") :].replace(
        "<svg ", f'<svg role="img" aria-label="{escape(name, quote=True)}" ', 1
    )


@dataclass(frozen=True)
class Look:
    """One question, its picture and where its words looked."""

    picture: np.ndarray
    """(height, width, 3) uint8."""
    question: str
    answer: str
    expected: str | None
    """None where it is not known."""
    words: Sequence[str]
    """T tokens."""
    attention: np.ndarray
    """(T, O), each row sums to 1."""
    boxes: np.ndarray
    """(O, 4) in [0, 1]."""


def plot_attention(looks: Sequence[Look], out: Path) -> None:
    """Draw each picture, and once more under every word with the regions that word attends to lit up.

    Brightness is relative to the brightest region of that word.
    """
    columns = 1 + max(len(look.words) for look in looks)
    figure, axes = plt.subplots(len(looks), columns, figsize=(1.5 * columns, 2.0 * len(looks)), squeeze=False)
    for row, look in zip(axes, looks, strict=True):
        height, width = look.picture.shape[:2]
        for axis in row:
            axis.axis("off")
        row[0].imshow(look.picture)
        verdict = "" if look.expected in (look.answer, None) else f" (is {look.expected})"
        row[0].set_title(f"{look.answer}{verdict}", fontsize=9, fontweight="bold")
        for axis, word, weights in zip(row[1:], look.words, look.attention, strict=False):
            axis.imshow(look.picture)
            axis.add_patch(Rectangle((-0.5, -0.5), width, height, color="black", alpha=0.55, lw=0))
            for (x1, y1, x2, y2), weight in zip(look.boxes, weights / weights.max(), strict=True):
                corner = (x1 * width - 0.5, y1 * height - 0.5)
                size = ((x2 - x1) * width, (y2 - y1) * height)
                axis.add_patch(Rectangle(corner, *size, color="gold", alpha=0.65 * float(weight), lw=0))
            axis.set_title(word, fontsize=8)
    figure.suptitle("From words to regions: last cross-modality layer, mean over heads", fontsize=10)
    figure.tight_layout()
    figure.savefig(out, format="png", dpi=110)
    plt.close(figure)
