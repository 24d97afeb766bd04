"""The paper's ablations (section 5.1, tables 3 to 5) as grids of runs on any task.

Each run is a folder with a record of its settings and, once it has ended, its summary:

    OUTPUT/ARM/pretrain/ablation.json     {"settings": {...}, "summary": null | {...}}

So a grid goes on where it stopped, ended runs are not run again, and one whose settings have changed since is
refused. `OUTPUT/ablation.json`, `.md` and `.png` hold the comparison.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from lxmert_fast.data.json_list import read_json
from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_text, writing

from .ablation_page import Result, comparison, rich_table, write_pages
from .ablation_settings import Grid, Run, load_grid
from .side_by_side import train_all

RECORD = "ablation.json"


def run_ablation(
    source: str,
    overrides: list[str] | None = None,
    *,
    jobs: int = 1,
    report_only: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train whatever of a grid has not been, then write and print the comparison.

    Args:
        source, overrides: as for `load_grid`.
        jobs: runs at a time.
        report_only: train nothing, show what there is.

    Returns:
        What `ablation.json` holds, and "stopped": the signal that ended it before its time, or None.

    Raises:
        InputError: a wrong configuration or data file, a record that is damaged or of other settings.
    """
    console = console or Console()
    grid = load_grid(source, overrides)
    output = grid.settings.run.output
    summaries = {name: read_record(output, run) for name, run in grid.runs.items()}
    stopped = None if report_only else _train(grid, summaries, jobs, console)
    found = comparison(grid.settings, {name: _result(grid, name, summaries) for name in grid.finetunings})
    write_pages(found, output)
    console.print(rich_table(found))
    written = ", ".join(path.name for path in sorted(output.glob("ablation.*")))
    console.print(f"written under {output}: {written}", soft_wrap=True)
    if stopped:
        console.print(f"stopped by {stopped}; the same command goes on")
    return found | {"stopped": stopped}


def read_record(output: Path, run: Run) -> dict[str, Any] | None:
    """The summary of a run that has ended; None of one that has not, or was not begun.

    Raises:
        InputError: a damaged record, or one of other settings.
    """
    path = output / run.name / RECORD
    if not path.is_file():
        return None
    record = read_json(path)
    match record:
        case {"settings": dict(before), "summary": dict() | None as summary}:
            pass
        case _:
            raise InputError(
                f'{path}: wanted {{"settings": {{...}}, "summary": ...}}; remove {path.parent} to run it anew'
            )
    now = run.facts()
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise InputError(
                f"{path}: {key} was {before.get(key)!r} there and is {now.get(key)!r} here; wanted the same, "
                f"another run.output, or {path.parent} removed to run it anew"
            )
    return summary


def _train(grid: Grid, summaries: dict[str, Any], jobs: int, console: Console) -> str | None:
    """All pre-trainings, then all fine-tunings whose pre-training has ended; the signal that ended it."""
    output = grid.settings.run.output

    def done(name: str, summary: dict[str, Any]) -> None:
        summaries[name] = summary
        # what diverged is tried again by the next command
        if "problem" not in summary:
            _write_record(output, grid.runs[name], summary)

    for runs in (grid.pretrainings, grid.finetunings):
        due = {name: run for name, run in runs.items() if summaries[name] is None}
        due = {name: run for name, run in due.items() if _ready(run, summaries)}
        if due:
            console.print(f"{len(due)} of {len(runs)} to train: {', '.join(due)}", soft_wrap=True)
        for run in due.values():
            _write_record(output, run, None)
        if stopped := train_all({name: run.settings for name, run in due.items()}, jobs, done):
            return stopped
    return None


def _ready(run: Run, summaries: dict[str, Any]) -> bool:
    before = summaries.get(run.after) if run.after else {}
    return before is not None and "problem" not in before


def _write_record(output: Path, run: Run, summary: dict[str, Any] | None) -> None:
    path = output / run.name / RECORD
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps({"settings": run.facts(), "summary": summary}, indent=1) + "\n")


def _result(grid: Grid, name: str, summaries: dict[str, Any]) -> Result:
    run, summary = grid.finetunings[name], summaries[name]
    first = summaries.get(run.after) if run.after else None
    for one in (first, summary):
        if one and "problem" in one:
            return Result(problem=one["problem"])
    if not summary:
        return Result()
    best = summary["best"]
    if "accuracy" not in best:
        raise InputError(f"{run.settings.run.output}: no accuracy on validation questions, wanted data.valid")
    return Result(best["accuracy"], best, summary["seconds"], first["seconds"] if first else None)
