"""A result file of `make bench` read, checked, and written as Markdown.

Every ratio is of fastest rounds from the same run (`race.py` says why). A contender without a time has its
reason in the table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_text
from lxmert_fast.pages import table

REFERENCE, COMPILED, OURS = "huggingface eager", "huggingface compiled", "ours"
#: What a CPU user would pick today; the best of them is the third column of ratios.
PEERS = (COMPILED, "onnxruntime", "openvino")
#: Whose FLOPs a contender computes; int8's are not fp32's.
FLOPS_OF = {REFERENCE: REFERENCE, OURS: OURS, "ours compiled": OURS} | dict.fromkeys(PEERS, REFERENCE)
MARK = "<!-- bench -->"
#: Of the run's best matrix-product rate; less in a whole race means that others were at work.
QUIET = 0.8
DISTURBED = " †"
MODES = {"inference": "inference", "step": "training step"}


@dataclass(frozen=True)
class Race:
    """One workload in one mode at one size."""

    workload: str
    mode: str
    pairs: int
    per_image: float
    matrix_rate: float
    """FLOP a second that the machine's matrix products reached at best, in the whole run."""
    rate_here: float
    """The same during this race alone."""
    entries: dict[str, dict[str, Any]]
    counts: dict[str, dict[str, Any]]

    @property
    def title(self) -> str:
        """What the tables call it."""
        sharing = "" if self.workload == "nlvr2" else f", {self.per_image:g} an image"
        pairs = f"{self.pairs} pair{'s' if self.pairs > 1 else ''}"
        return f"{self.workload} {MODES[self.mode]}, {pairs}{sharing}"

    @property
    def quiet(self) -> bool:
        """Whether the machine was this run's own: its matrix products were about as fast as ever."""
        return self.rate_here >= QUIET * self.matrix_rate

    def seconds(self, name: str) -> float | None:
        """Fastest round of a contender; None where it has none."""
        return self.entries.get(name, {}).get("fastest")

    def ratio(self, name: str, against: str) -> float | None:
        """How many times as fast as another contender."""
        mine, other = self.seconds(name), self.seconds(against)
        return other / mine if mine and other else None

    def ratio_to_best(self, name: str) -> float | None:
        """How many times as fast as the fastest of `PEERS`; None where there is none."""
        ratios = [ratio for peer in PEERS if (ratio := self.ratio(name, peer))]
        return min(ratios, default=None)

    def share_of_rate(self, name: str) -> float | None:
        """FLOPs a second over the machine's matrix products; None where the FLOPs are unknown."""
        counts, seconds = self.counts.get(FLOPS_OF.get(name, "")), self.seconds(name)
        if not counts or not seconds or counts["unknown"]:
            return None
        return counts["flops"] / seconds / self.matrix_rate


@dataclass(frozen=True)
class Report:
    """All that a result file says."""

    path: Path
    date: str
    commit: str
    machine: dict[str, Any]
    races: list[Race] = field(default_factory=list)
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Way of reading regions to its figures."""
    loader: dict[str, float] = field(default_factory=dict)
    """Figures of test_loader.py by name."""


def read_report(path: str | Path) -> Report:
    """Read what `pytest bench --benchmark-json=PATH` wrote.

    Raises:
        InputError: no such file, not JSON, or not a result of these benchmarks.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    try:
        report = _parse(path, content)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a result of lxmert-fast's benchmarks ({error!r:.80})") from None
    if not (report.races or report.data or report.loader):
        raise InputError(f"{path}: holds no benchmark of lxmert-fast")
    return report


def _parse(path: Path, content: dict[str, Any]) -> Report:
    commit = content["commit_info"]
    report = Report(
        path,
        date=content["datetime"][:16].replace("T", " "),
        commit=str(commit.get("id", "unknown"))[:7] + ("+changes" if commit.get("dirty") else ""),
        machine=content["machine_info"]["lxmert_fast"],
    )
    for benchmark in content["benchmarks"]:
        extra = benchmark["extra_info"]
        if "race" in extra:
            race = extra["race"]
            entries = {entry["name"]: entry for entry in race["entries"]}
            keys = ("workload", "mode", "pairs", "per_image", "matrix_rate", "counts")
            known = {key: race[key] for key in keys}
            report.races.append(Race(entries=entries, rate_here=race["matrix_rate"], **known))
        report.data.update(extra.get("data", {}))
        report.loader.update({k: v for k, v in extra.items() if k.endswith("_a_second")})
    best = max((race.matrix_rate for race in report.races), default=0.0)
    return replace(report, races=[replace(race, matrix_rate=best) for race in report.races])


def markdown(report: Report) -> str:
    """The whole report."""
    parts = [
        "# Benchmarks",
        origin(report),
        summary(report),
        "## What a call costs on any machine",
        counts_lines([race for race in report.races if race.counts]),
        "## Every contender",
        *(details(race) for race in report.races),
    ]
    if report.data or report.loader:
        parts += ["## The data path", data_table(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def origin(report: Report) -> str:
    """Date, commit, machine and versions, one paragraph."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    rates = {race.matrix_rate for race in report.races}
    rate = f" Matrix products reach {max(rates) / 1e9:,.0f} GFLOP/s." if rates else ""
    tiny = " **A tiny model: these times mean nothing.**" if machine.get("tiny") else ""
    return (
        f"Measured {report.date} UTC at commit {report.commit} on {machine['processor']}, "
        f"{machine['cores']} cores, {machine['threads']} threads, {machine['memory_gb']} GB, load "
        f"{machine['load']} at the start; {versions}.{rate} Base-size model, random weights, "
        f"{machine.get('dtype', 'fp32')}.{tiny}"
    )


def summary(report: Report) -> str:
    """Ours against the others: one row a form, of the races that were counted (not the sweeps')."""
    rows = []
    for race in report.races:
        if not race.counts:
            continue
        for name, entry in race.entries.items():
            if name.startswith(("huggingface", "onnx", "openvino")) or "fastest" not in entry:
                continue
            same = entry.get("same_top")
            rows.append(
                [
                    race.title + ("" if race.quiet else DISTURBED),
                    name,
                    _milliseconds(entry["fastest"] / race.pairs),
                    _times(race.ratio(name, REFERENCE)),
                    _times(race.ratio(name, COMPILED)),
                    _times(race.ratio_to_best(name)),
                    _percent(race.share_of_rate(name)),
                    _percent(same) if entry["difference"] > 1e-3 else "all",
                ]
            )
    titles = ["workload", "", "ms a pair", "x HF eager", "x HF compiled", "x best of HF compiled, ONNX "]
    titles[-1] += "Runtime, OpenVINO"
    text = table([*titles, "of the matrix-product rate", "equal top answers"], rows)
    note = f"{DISTURBED.strip()} Other work took part of the machine during all of its rounds."
    return text if all(race.quiet for race in report.races if race.counts) else f"{text}\n\n{note}"


def counts_lines(races: list[Race]) -> str:
    """Hugging Face's eager model and ours, a pair; operations a call."""
    rows = []
    for race in races:
        for name, counts in race.counts.items():
            n = race.pairs
            figures = [
                f"{counts['flops'] / n / 1e9:,.2f}" if counts["flops"] else "",
                _operations(counts),
                f"{counts['bytes_moved'] / n / 1e6:,.1f}",
                f"{counts['saved_bytes'] / n / 1e6:,.1f}" if race.mode == "step" else "",
                f"{counts['peak_bytes'] / n / 1e6:,.1f}",
            ]
            note = f" (without {', '.join(counts['unknown'])})" if counts["unknown"] else ""
            rows.append([race.title, name + note, *figures])
    titles = ["workload", "", "GFLOP a pair", "operations a call", "MB moved a pair"]
    return table([*titles, "MB saved for backward a pair", "peak MB a pair"], rows)


def _operations(counts: dict[str, Any]) -> str:
    """With their launches where those are more or fewer; older files do not have them."""
    operations, launches = counts["operations"], counts.get("launches", counts["operations"])
    return f"{operations:,}" + (f" ({launches:,} launches)" if launches != operations else "")


def details(race: Race) -> str:
    """Every contender of a race."""
    rows = []
    for name, entry in race.entries.items():
        if "fastest" not in entry:
            rows.append([name, entry["fault"] or "not run", "", "", "", "", ""])
            continue
        rows.append(
            [
                name,
                _milliseconds(entry["fastest"]),
                _milliseconds(entry["median"]),
                _times(race.ratio(name, REFERENCE)),
                _percent(race.share_of_rate(name)),
                f"{entry['difference']:.0e}",
                f"{entry['prepared']:.1f}",
            ]
        )
    titles = ["contender", "fastest ms", "median ms", "x HF eager", "of the matrix-product rate"]
    titles += ["largest difference", "s to make ready"]
    noise = f", the machine at {race.rate_here / race.matrix_rate:.0%} of its best" if not race.quiet else ""
    return f"**{race.title}**{noise}\n\n" + table(titles, rows)


def data_table(report: Report) -> str:
    """Regions into batches, and the loader."""
    rows = [
        [
            name,
            f"{row['examples_a_second']:,.0f}",
            f"{row['held_bytes'] / row['images'] / 1e3:,.0f}",
            f"{row['open_seconds'] / row['images'] * 1e3:,.2f}",
        ]
        for name, row in report.data.items()
    ]
    titles = ["regions", "examples a second, one process", "kB held an image", "ms an image to open"]
    lines = [f"{name.replace('_', ' ')}: {value:,.0f}" for name, value in report.loader.items()]
    return "\n\n".join(part for part in (table(titles, rows) if rows else "", "; ".join(lines)) if part)


def put_into(path: Path, report: Report) -> None:
    """Replace what stands between the two marks of a Markdown file by origin and summary.

    Raises:
        InputError: no such file, or not exactly two marks in it.
    """
    try:
        parts = path.read_text(encoding="utf-8").split(MARK)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    if len(parts) != 3:
        raise InputError(f"{path}: {len(parts) - 1} lines {MARK}, wanted two around the table")
    parts[1] = f"\n{origin(report)}\n\n{summary(report)}\n"
    replace_text(path, MARK.join(parts))


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f}" if seconds < 1 else f"{seconds * 1e3:,.0f}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
