"""Time a pair against batch size and against sentences an image."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from lxmert_fast.bench.report import Race, Report
from lxmert_fast.bench.workloads import WORKLOADS

#: One colour a contender in every plot.
COLOURS = {
    "huggingface eager": "#888888",
    "huggingface compiled": "#333333",
    "onnxruntime": "#b07aa1",
    "openvino": "#9c755f",
    "ours": "#4e79a7",
    "ours compiled": "#e15759",
    "ours int8": "#f28e2b",
    "swap-in": "#76b7b2",
}


def draw(report: Report, folder: Path) -> list[Path]:
    """Write `<workload>_<mode>_batch.png` and `..._sentences.png` where a race was run at several sizes."""
    groups: dict[tuple[str, str], list[Race]] = defaultdict(list)
    for race in report.races:
        groups[race.workload, race.mode].append(race)
    written = []
    for (workload, mode), races in groups.items():
        usual = WORKLOADS[workload].per_image if workload in WORKLOADS else races[0].per_image
        by_batch = {race.pairs: race for race in races if race.per_image == usual}
        sizes = [race.pairs for race in races if race.per_image != usual]
        by_sentences = {race.per_image: race for race in races if race.pairs in sizes}
        for kind, label, points in (
            ("batch", "pairs a batch", by_batch),
            ("sentences", "sentences an image", by_sentences),
        ):
            if len(points) > 1:
                path = folder / f"{workload}_{mode}_{kind}.png"
                _draw(dict(sorted(points.items())), label, f"{workload} {mode}", path)
                written.append(path)
    return written


def _draw(points: dict, label: str, title: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    names = {name for race in points.values() for name in race.entries}
    for name, colour in COLOURS.items():
        line = {
            x: seconds / race.pairs * 1e3 for x, race in points.items() if (seconds := race.seconds(name))
        }
        if name in names and line:
            axes.plot(list(line), list(line.values()), marker="o", color=colour, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(points), [f"{x:g}" for x in points])
    axes.set_ylim(bottom=0)
    axes.set(xlabel=label, ylabel="ms a pair", title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
