"""The pictures of runs: how losses fell, which regions words looked at, how the arms of a grid compare."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib
import numpy as np

from lxmert_fast.files import replace_file, writing

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


def curves_svg(lines: Mapping[str, tuple[list[int], list[float]]], name: str) -> str:
    """An SVG element of one quantity: a line a run, updates from left to right.

    Args:
        lines: run to (updates, values); nan where there is none.
        name: of the quantity; also keeps the element's inner names apart from those of others on a page.
    """
    # text stays text, and the same curves give the same bytes
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure = Figure(figsize=(4.2, 2.9))
        # a layout engine would take seconds for a page of figures
        axis = figure.add_axes((0.14, 0.16, 0.83, 0.72))
        for run, (updates, values) in lines.items():
            marker = "o" if len(updates) < 30 else None
            # a dollar sign would begin a formula
            axis.plot(updates, values, label=run.replace("$", r"\$"), marker=marker, ms=3, lw=1.2)
        axis.set_title(name.replace("$", r"\$"), fontsize=10)
        axis.set_xlabel("update", fontsize=8)
        axis.ticklabel_format(axis="y", scilimits=(-3, 4))
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        if len(lines) > 1:
            axis.legend(fontsize=7)
        content = io.StringIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    drawn = content.getvalue()
    label = escape(f"{name} by update", quote=True)
    return drawn[drawn.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


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


@dataclass(frozen=True)
class Bars:
    """One panel of a comparison; a figure that there is not is None.

    Attributes:
        title: of the panel.
        ours: percent, one a row.
        paper: percent, one a row.
    """

    title: str
    ours: Sequence[float | None]
    paper: Sequence[float | None]


def plot_bars(panels: Sequence[Bars], rows: Sequence[str], out: Path, title: str) -> None:
    """Draw a bar a row, a panel a task, and the paper's figures as marks beside them.

    Raises:
        InputError: the file cannot be written.
    """
    size = (3 + 3.5 * len(panels), 1.6 + 0.4 * len(rows))
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharey=True)
    places = np.arange(len(rows))
    for axis, panel in zip(axes[0], panels, strict=True):
        ours, paper = np.array(panel.ours, float), np.array(panel.paper, float)
        axis.barh(places, np.nan_to_num(ours), label="run here")
        for place, value in zip(places, ours, strict=True):
            if not np.isnan(value):
                axis.annotate(
                    f"{value:.2f}", (value, place), xytext=(2, -3), textcoords="offset points", fontsize=7
                )
        if not np.isnan(paper).all():
            axis.plot(paper, places, "D", color="black", markersize=4, linestyle="none", label="paper")
        known = np.concatenate([ours, paper])[~np.isnan(np.concatenate([ours, paper]))]
        if len(known):
            # bars differ by a few points: they begin a little below the least
            axis.set_xlim(max(0.0, known.min() - 5), min(105.0, known.max() + 5))
        axis.set(title=panel.title, xlabel="accuracy, %", yticks=places, yticklabels=rows)
        axis.grid(alpha=0.3, axis="x")
        axis.legend(fontsize=7)
    axes[0, 0].invert_yaxis()
    figure.suptitle(title)
    figure.tight_layout()
    with writing(out):
        replace_file(out, lambda beside: figure.savefig(beside, format="png", dpi=110))
    plt.close(figure)
