"""The tables of train/results/: published figures, and beside them what this code has reached.

    python -m lxmert_fast.train.results_pages [train/results]    prints them, or puts them into their pages

Published figures are `published.py`'s. Ours are of `train/results/measured.json`, written by hand from what a
command printed, and nothing else is filled in:

    {"nlvr": [{"split": "dev", "score": 65.3, "command": "lxmert-fast evaluate ...", "commit": "abc1234"}]}
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lxmert_fast.data.json_list import read_json
from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_text, writing
from lxmert_fast.pages import put, table

from .published import FIGURES, REPOSITORY

RESULTS = Path(__file__).parent / "results"
MEASURED = "measured.json"
MARK = "scores"
KEYS = ("split", "score", "command", "commit")


class Measured(NamedTuple):
    """One figure of this code: percent on a split, the command that printed it, the commit it was run at."""

    split: str
    score: float
    command: str
    commit: str


def read_measured(path: Path) -> dict[str, list[Measured]]:
    """What was measured, by task.

    Raises:
        InputError: a damaged file, an unknown task or split, no score in percent, a split twice.
    """
    tree = read_json(path)
    if not isinstance(tree, dict) or not all(isinstance(rows, list) for rows in tree.values()):
        raise InputError(f"{path}: wanted {{task: [{{{', '.join(KEYS)}}}, ...]}}")
    found = {}
    for task, rows in tree.items():
        if task not in FIGURES:
            raise InputError(f"{path}: task {task!r}, wanted one of {', '.join(FIGURES)}")
        found[task] = [_measured(f"{path}: {task}[{number}]", task, row) for number, row in enumerate(rows)]
        splits = [row.split for row in found[task]]
        for split in splits:
            if splits.count(split) > 1:
                raise InputError(f"{path}: {task}: split {split!r} is there more than once")
    return found


def _measured(place: str, task: str, row: Any) -> Measured:
    if not isinstance(row, dict) or set(row) != set(KEYS):
        raise InputError(f"{place}: found {str(row)[:80]}, wanted {', '.join(KEYS)}")
    splits = list(dict.fromkeys(figure.split for figure in FIGURES[task]))
    if row["split"] not in splits:
        raise InputError(f"{place}: split {row['split']!r}, wanted one of {'; '.join(splits)}")
    score = row["score"]
    if type(score) not in (int, float) or not math.isfinite(score) or not 0 <= score <= 100:
        raise InputError(f"{place}: score {score!r}, wanted percent")
    for key in ("command", "commit"):
        if not isinstance(row[key], str) or not row[key].strip():
            raise InputError(f"{place}: {key} {row[key]!r}, wanted a text")
    return Measured(row["split"], float(score), row["command"], row["commit"])


def scores_table(task: str, measured: Sequence[Measured]) -> str:
    """A row a split, a column a source, ours last; then the commands of ours."""
    figures = FIGURES[task]
    sources = list(dict.fromkeys(figure.source for figure in figures))
    ours = "this code, published weights" if REPOSITORY in sources else "this code"
    published = {(figure.split, figure.source): _percent(figure.score) for figure in figures}
    reached = {one.split: f"{one.score:.2f}" for one in measured}
    rows = [
        [split, *(published.get((split, source), "") for source in sources), reached.get(split, "")]
        for split in dict.fromkeys(figure.split for figure in figures)
    ]
    shown = table(["accuracy, %", *sources, ours], rows)
    commands = table(
        ["this code", "command", "at commit"],
        [[one.split, f"`{one.command}`", one.commit] for one in measured],
    )
    return f"{shown}\n\n{commands}" if commands else shown


def _percent(score: float) -> str:
    """With a second decimal where there is one."""
    return f"{score:.1f}" if round(score, 1) == score else f"{score:.2f}"


def tables(measured: Mapping[str, Sequence[Measured]]) -> dict[str, str]:
    """Every task's."""
    return {task: scores_table(task, measured.get(task, ())) for task in FIGURES}


def main(arguments: Sequence[str]) -> None:
    """Print the tables, or put each into its page in a folder."""
    folder = Path(arguments[0]) if arguments else RESULTS
    for task, text in tables(read_measured(folder / MEASURED)).items():
        if not arguments:
            print(f"{task}\n\n{text}\n")
            continue
        path = folder / f"{task}.md"
        with writing(path):
            replace_text(path, put(path.read_text(encoding="utf-8"), MARK, text))


if __name__ == "__main__":
    main(sys.argv[1:])
