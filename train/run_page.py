"""One HTML page about training runs, from what they wrote; nothing is loaded but text.

metrics.jsonl           curves and their numbers
run.json                settings, commit, versions (runs of before it was written: "not recorded")
best/, last/            the model's sizes
checkpoints/step_*/     what is there to go on from
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from lxmert_fast.data.json_list import read_json
from lxmert_fast.errors import InputError
from lxmert_fast.pages import html_table

from .checkpoints import open_checkpoint
from .figures import curves_svg
from .metrics import METRICS_FILE, flatten, read_metrics
from .run_record import RECORD_FILE

TEMPLATE = Path(__file__).with_name("run_page.html")
ABSENT = "not recorded"
#: Lines of a table of metrics; all of them are in metrics.jsonl.
MOST_LINES = 40
SIZES = (
    "architectures", "hidden_size", "num_attention_heads", "intermediate_size", "l_layers", "r_layers",
    "x_layers", "vocab_size", "visual_feat_dim", "num_qa_labels",
)  # fmt: skip
#: Figures by title, each of the training quantities that its test takes.
TRAINING: dict[str, Callable[[str], bool]] = {
    "Training loss by task": lambda name: name.startswith("losses/"),
    "Learning rate and gradient norm": lambda name: name in ("lr", "grad_norm", "loss_scale"),
    "Throughput": lambda name: name in ("pairs_per_second", "tokens_per_second", "data_wait_share", "mfu"),
    "Memory, GiB": lambda name: name.startswith("memory_gib/"),
}


@dataclass(frozen=True)
class Recorded:
    """What a run's folder holds."""

    name: str
    folder: Path
    train: list[tuple[int, dict[str, float]]]
    """(update, numbers by their path) of every line."""
    valid: list[tuple[int, dict[str, float]]]
    bad: list[dict[str, Any]]
    """Lines about updates that were left out."""
    record: dict[str, Any]
    """`run.json`, {} without one."""

    @classmethod
    def read(cls, folder: Path, name: str) -> Recorded:
        """Read a run's folder.

        Raises:
            InputError: no such folder, none of a run, a damaged file in it.
        """
        if not folder.is_dir():
            raise InputError(f"{folder}: {'is not a folder' if folder.exists() else 'no such folder'}")
        if not (folder / METRICS_FILE).is_file():
            raise InputError(
                f"{folder}: no {METRICS_FILE} in it, wanted a folder that pretrain or finetune wrote"
            )
        lines = read_metrics(folder / METRICS_FILE)
        record = read_json(folder / RECORD_FILE) if (folder / RECORD_FILE).is_file() else {}
        if not isinstance(record, dict):
            raise InputError(f"{folder / RECORD_FILE}: found a {type(record).__name__}, wanted an object")

        def of(split: str) -> list[tuple[int, dict[str, float]]]:
            found = ((line["step"], dict(flatten(line))) for line in lines if line["split"] == split)
            return [(step, {k: v for k, v in values.items() if k != "step"}) for step, values in found]

        bad = [line for line in lines if line["split"] == "bad"]
        return cls(name, folder, of("train"), of("valid"), bad, record)


def run_page(folders: Sequence[Path]) -> str:
    """The page, with one section a run and the curves of all of them beside each other.

    Raises:
        InputError: a folder that is not a run's, one that is named twice, a damaged file.
    """
    resolved = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, resolved, strict=True):
        if resolved.count(place) > 1:
            raise InputError(f"{folder}: named twice, wanted every run once")
    short = [place.name for place in resolved]
    runs = [
        Recorded.read(folder, name if short.count(name) == 1 else str(folder))
        for folder, name in zip(folders, short, strict=True)
    ]
    parts = [_overview(runs)]
    for title, wanted in TRAINING.items():
        parts.append(_figure(title, {run.name: run.train for run in runs}, wanted))
    parts.append(_figure("Validation", {run.name: run.valid for run in runs}, lambda name: name != "epoch"))
    parts += [_details(run) for run in runs]
    title = escape("Training run " + runs[0].name if len(runs) == 1 else f"{len(runs)} training runs")
    page = TEMPLATE.read_text(encoding="utf-8")
    # the title first: what it marks may stand in the body as text
    return page.replace("{{title}}", title).replace("{{body}}", "\n".join(parts), 1)


Lines = list[tuple[int, dict[str, float]]]


def _overview(runs: Sequence[Recorded]) -> str:
    """A column a run, its last and best numbers."""
    rows: dict[str, list[str]] = {}

    def add(name: str, values: list[str]) -> None:
        rows[name] = [value or ABSENT for value in values]

    add("updates", [f"{run.train[-1][0]:,}" if run.train else "" for run in runs])
    for name in _names([run.train for run in runs], lambda name: name.startswith("losses/")):
        add(f"last {name}", [_shown(run.train[-1][1].get(name)) if run.train else "" for run in runs])
    for name in _names([run.valid for run in runs], lambda name: name != "epoch"):
        worst_first = "loss" in name
        add(f"best validation {name}", [_best(run.valid, name, lowest=worst_first) for run in runs])
    add("pairs a second, median", [_median(run.train, "pairs_per_second") for run in runs])
    add("updates left out", [str(len(run.bad)) for run in runs])
    for name in ("started", "ranks"):
        add(name, [str(run.record.get(name, "")) for run in runs])
    add("commit", [_commit(run.record) for run in runs])
    table = html_table(["", *(run.name for run in runs)], [[name, *values] for name, values in rows.items()])
    return f'<section aria-label="Overview"><div class="wide" tabindex="0">{table}</div></section>'


def _figure(title: str, runs: dict[str, Lines], wanted: Callable[[str], bool]) -> str:
    """Curves and the numbers that they were drawn from."""
    names = _names(runs.values(), wanted)
    head = f"<section><h2>{escape(title)}</h2>"
    if not names:
        return f'{head}<p class="soft">{ABSENT}</p></section>'
    panels = []
    for name in names:
        found = {
            run: ([step for step, _ in lines], [values.get(name, math.nan) for _, values in lines])
            for run, lines in runs.items()
            if any(name in values for _, values in lines)
        }
        panels.append(curves_svg(found, name))
    tables = [_numbers(run, lines, names) for run, lines in runs.items() if lines]
    drawn = f'<div class="panels">{"".join(panels)}</div>'
    return f"{head}{drawn}{''.join(tables)}</section>"


def _numbers(run: str, lines: Lines, names: Sequence[str]) -> str:
    step = max(1, math.ceil(len(lines) / MOST_LINES))
    kept = lines[::step]
    if kept[-1] is not lines[-1]:
        kept.append(lines[-1])
    rows = [[f"{update:,}", *(_shown(values.get(name)) for name in names)] for update, values in kept]
    which = f"{len(lines)} lines" if step == 1 else f"{len(kept)} of {len(lines)} lines"
    return (
        f"<details><summary>Numbers of {escape(run)}, {which}</summary>"
        f'<div class="wide" tabindex="0">{html_table(["update", *names], rows)}</div></details>'
    )


def _details(run: Recorded) -> str:
    """Settings, versions, model, checkpoints and what was left out."""
    settings, versions = run.record.get("settings"), run.record.get("versions")
    tables = {
        "Settings": [[name, _text(value)] for name, value in _leaves(settings)],
        "Versions": [[name, _text(value)] for name, value in _leaves(versions)],
        "Model": _model(run.folder),
        "Checkpoints": _checkpoints(run.folder / "checkpoints"),
        "Updates left out": [[f"{line['step']:,}", _text(line.get("problem"))] for line in run.bad],
    }
    parts = [f"<section><h2>{escape(run.name)}</h2>", f'<p class="soft">{escape(str(run.folder))}</p>']
    for title, rows in tables.items():
        none = "none" if title == "Updates left out" else ABSENT
        found = html_table(["", ""], rows) if rows else f'<p class="soft">{none}</p>'
        parts.append(f'<h3>{title}</h3><div class="wide" tabindex="0">{found}</div>')
    return "\n".join([*parts, "</section>"])


def _model(folder: Path) -> list[list[str]]:
    for name in ("best", "last"):
        file = folder / name / "config.json"
        if file.is_file():
            config = read_json(file)
            if not isinstance(config, dict):
                raise InputError(f"{file}: found a {type(config).__name__}, wanted an object")
            return [[key, _text(config[key])] for key in SIZES if key in config]
    return []


def _checkpoints(folder: Path) -> list[list[str]]:
    rows = []
    for place in sorted(folder.glob("step_*")):
        try:
            found = open_checkpoint(place)
            size = sum(file["bytes"] for file in found.manifest["files"].values())
            ranks = "rank" if found.num_ranks == 1 else "ranks"
            rows.append([place.name, f"{size / 1e6:,.1f} MB, {found.num_ranks} {ranks}, {found.layout}"])
        except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
            rows.append([place.name, f"cannot be read: {error}"])
    return rows


def _commit(record: dict[str, Any]) -> str:
    found = record.get("commit")
    if not isinstance(found, dict):
        return ""
    return f"{found.get('id', '')}{'+changes' * bool(found.get('dirty'))}"


def _leaves(tree: Any, path: str = "") -> list[tuple[str, Any]]:
    """Every value of a tree of settings by its dotted name."""
    if not isinstance(tree, dict):
        return [(path, tree)] if path else []
    return [leaf for key, value in tree.items() for leaf in _leaves(value, f"{path}.{key}" if path else key)]


def _names(of: Any, wanted: Callable[[str], bool]) -> list[str]:
    """Quantities in the order of their first occurrence."""
    return list(dict.fromkeys(name for lines in of for _, values in lines for name in values if wanted(name)))


def _best(lines: Lines, name: str, *, lowest: bool) -> str:
    values = [(values[name], step) for step, values in lines if math.isfinite(values.get(name, math.nan))]
    if not values:
        return ""
    value, step = min(values) if lowest else max(values)
    return f"{_shown(value)} at update {step:,}"


def _median(lines: Lines, name: str) -> str:
    values = sorted(values[name] for _, values in lines if math.isfinite(values.get(name, math.nan)))
    return _shown(values[len(values) // 2]) if values else ""


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return ABSENT if value is None else str(value)
