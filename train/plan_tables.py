"""An estimate in tables: what a rank keeps, what it sends, how long it takes, and what of that is assumed."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from transformers import LxmertConfig

from .plan import Estimate
from .plan_inputs import Assumptions

GB = 1e9

#: Titles and rows.
Lines = tuple[list[str], list[list[str]]]


def memory_lines(found: Estimate) -> Lines:
    """Bytes of one rank, each with its formula: P parameters, W ranks, e bytes a weight."""
    one, stage = found.memory, found.stage
    shared = " / W" if stage else ""
    gradients = {0: "e P", 1: "e P + e P / W", 2: "e P / W", 3: "e P / W"}[stage]
    buckets = {0: "e min(P, 5e8)", 3: "2 e bucket"}.get(stage, "e (bucket + min(P, bucket))")
    copies = f"{'e' if stage else '2'} P: let go after backward"
    rows = [
        ("weights", one.weights, "e P / W and small ones whole" if stage == 3 else "e P"),
        ("fp32 masters", one.masters, f"4 P{shared}"),
        ("optimizer states", one.states, f"8 P{shared}"),
        ("gradients", one.gradients, gradients),
        ("DeepSpeed's buckets", one.buckets, buckets),
        (f"activations of {found.micro} pairs", sum(found.activations), "train/activations.py"),
        ("gathered weights" if stage else "autocast's copies", one.gathered, copies),
        ("update", one.update, "fp32 gradients and two intermediates; not with activations"),
    ]
    lines = [[name, f"{value / GB:.2f}", formula] for name, value, formula in rows if value]
    lines.append(["needed at most", f"{found.peak / GB:.2f}", "of these at one time"])
    lines.append(["there", f"{found.room / GB:.2f}", "GPU memory less the reserve"])
    if one.host:
        lines.append(["beside it in the host's", f"{one.host / GB:.2f}", "offloaded"])
    return ["a rank's memory", "GB", "formula"], lines


def time_lines(found: Estimate) -> Lines:
    """Bytes sent, seconds, pairs and days; two figures are all overlap and no overlap."""
    lines = [
        ["pairs of an update", f"{found.run.batch:,}"],
        ["ranks x passes x pairs", f"{found.cluster.ranks} x {found.accumulation} x {found.micro}"],
        ["model TFLOP of an update on a rank", f"{found.flops / 1e12:.2f}"],
        ["GB that a rank sends in an update: gradients", f"{found.wire.gradients / GB:.2f}"],
        ["GB that a rank sends in an update: weights", f"{found.wire.weights / GB:.2f}"],
        ["GB that a node sends to others in an update", f"{_leaving(found) / GB:.2f}"],
        ["ms of computing", f"{found.compute * 1e3:.1f}"],
        ["ms of the optimizer", f"{found.update * 1e3:.1f}"],
        ["ms of communication", f"{found.communication * 1e3:.1f}"],
        ["ms of an update", _range(*found.seconds, 1e3, ".1f")],
        ["pairs a second that the data path must deliver", _range(*found.pairs_per_second, 1, ",.0f")],
        ["GB a second of regions read, at most", f"{found.bytes_per_second / GB:.2f}"],
        [f"days for {found.run.epochs} epochs of {found.run.pairs:,} pairs", _range(*found.days, 1, ".3g")],
    ]
    return ["estimated", "overlapped to not"], lines


def stage_lines(found: list[Estimate]) -> Lines:
    """A row a ZeRO stage."""
    lines = [
        [
            str(one.stage),
            str(one.micro),
            f"{one.peak / GB:.1f}" + ("" if one.fits else " (too much)"),
            f"{one.wire.sent / GB:.2f}",
            _range(*one.seconds, 1e3, ".1f"),
            _range(*one.days, 1, ".3g"),
        ]
        for one in found
    ]
    return ["ZeRO", "micro batch", "GB a rank", "GB sent", "ms an update", "days"], lines


def to_json(found: Estimate, assumed: Assumptions) -> dict[str, Any]:
    """Plain values; bytes, seconds and FLOP, ranges as [overlapped, not overlapped]."""
    run = asdict(replace(found.run, config=LxmertConfig())) | {"config": found.run.config.to_diff_dict()}
    return {
        "estimate": True,
        "stage": found.stage,
        "micro_batch_size": found.micro,
        "accumulation": found.accumulation,
        "fits": found.fits,
        "memory": found.memory._asdict(),
        "activations": found.activations._asdict(),
        "peak": found.peak,
        "room": found.room,
        "flops": found.flops,
        "sent": found.wire._asdict(),
        "compute": found.compute,
        "update": found.update,
        "communication": found.communication,
        "seconds": found.seconds,
        "pairs_per_second": found.pairs_per_second,
        "bytes_per_second": found.bytes_per_second,
        "days": found.days,
        "run": run,
        "cluster": asdict(found.cluster),
        "assumptions": asdict(assumed),
    }


def _leaving(found: Estimate) -> float:
    return found.wire.sent if found.cluster.nodes > 1 else 0.0


def _range(best: float, worst: float, scale: float, form: str) -> str:
    low, high = f"{best * scale:{form}}", f"{worst * scale:{form}}"
    return low if low == high else f"{low} to {high}"
