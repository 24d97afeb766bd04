"""Efficiency against the number of GPUs: a plot and its table by the model of `plan.py`, nothing measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_file, writing
from lxmert_fast.pages import table

from .plan import Estimate, estimate, model_size
from .plan_inputs import Assumptions, Cluster, Run

NETWORKS = 25, 100, 400
MOST_GPUS = 1024
KINDS: tuple[Literal["weak", "strong"], ...] = ("weak", "strong")


@dataclass(frozen=True)
class Point:
    """One number of GPUs.

    Attributes:
        kind: "weak", every GPU keeps its pairs; "strong", the update keeps its pairs.
        network: Gbit/s of a node.
        gpus, batch: of all nodes.
        efficiency: pairs a second and GPU over those of one GPU: communication overlapped, and not.
        estimate: the run.
    """

    kind: str
    network: float
    gpus: int
    batch: int
    efficiency: tuple[float, float]
    estimate: Estimate


def points(
    run: Run, cluster: Cluster, assumed: Assumptions, networks: Sequence[float] = NETWORKS
) -> list[Point]:
    """Powers of two up to 1,024 GPUs, `cluster.gpus` a node; strong scaling ends at a pair a GPU.

    The pairs of an update are the run's in strong scaling; in weak scaling its pairs a GPU are kept.

    Raises:
        InputError: a batch that is no multiple of the ranks.
    """
    size = model_size(run.config)
    share = run.batch // cluster.ranks
    if not share or run.batch % cluster.ranks:
        raise InputError(f"batch {run.batch}, wanted a multiple of the {cluster.ranks} ranks")
    found = []
    for kind in KINDS:
        for network in networks:
            first: Estimate | None = None
            for gpus in (2**k for k in range(MOST_GPUS.bit_length())):
                batch = share * gpus if kind == "weak" else run.batch
                if batch % gpus:
                    break
                on = replace(
                    cluster, nodes=max(1, gpus // cluster.gpus), gpus=min(gpus, cluster.gpus), network=network
                )
                if on.ranks != gpus:
                    continue
                one = estimate(replace(run, batch=batch), on, assumed, size)
                first = first or one
                best, worst = (
                    rate / gpus / alone
                    for rate, alone in zip(one.pairs_per_second, first.pairs_per_second, strict=True)
                )
                found.append(Point(kind, network, gpus, batch, (best, worst), one))
    return found


def points_table(found: Sequence[Point]) -> str:
    """Markdown, a row a number of GPUs and kind."""
    networks = sorted({point.network for point in found})
    lines = []
    for kind in KINDS:
        for gpus in sorted({point.gpus for point in found if point.kind == kind}):
            at = {p.network: p for p in found if (p.kind, p.gpus) == (kind, gpus)}
            one = at[networks[0]]
            cells = [
                f"{at[network].efficiency[1]:.2f} to {at[network].efficiency[0]:.2f}, "
                f"{at[network].estimate.days[1]:.3g} d"
                for network in networks
            ]
            lines.append([kind, f"{gpus:,}", f"{one.batch:,}", *cells])
    titles = ["scaling (model, not measured)", "GPUs", "pairs an update"]
    return table([*titles, *(f"{network:g} Gbit/s a node" for network in networks)], lines)


def draw(found: Sequence[Point], path: Path, title: str) -> None:
    """Write the plot: efficiency between no overlap and full overlap, a panel a kind, a colour a network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    figure.suptitle(f"Model, not measured: {title}")
    for axes, kind in zip(figure.subplots(1, len(KINDS), sharey=True), KINDS, strict=True):
        for network in sorted({point.network for point in found}):
            line = [p for p in found if (p.kind, p.network) == (kind, network)]
            gpus = [p.gpus for p in line]
            best, worst = [p.efficiency[0] for p in line], [p.efficiency[1] for p in line]
            (drawn,) = axes.plot(gpus, worst, marker="o", label=f"{network:g} Gbit/s a node")
            axes.fill_between(gpus, worst, best, alpha=0.15, color=drawn.get_color())
        axes.set_xscale("log", base=2)
        axes.set_ylim(0, 1.05)
        axes.set_title(f"{kind} scaling")
        axes.set_xlabel("GPUs")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("efficiency (line: no overlap, band: up to full)")
    figure.axes[0].legend()
    form = path.suffix.lstrip(".") or "png"
    with writing(path):
        replace_file(path, lambda beside: figure.savefig(beside, format=form, dpi=120))
