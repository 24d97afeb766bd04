"""How an ablation's arms compare: a table for people, a page, a plot, and all of it as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from lxmert_fast.files import replace_text, writing
from lxmert_fast.pages import table

from .ablation_settings import AblationSettings, Arm
from .figures import Bars, plot_bars
from .published import ABLATIONS, PAPER_TASKS

NAME = "ablation"


@dataclass(frozen=True)
class Result:
    """Of one fine-tuning of an arm; all None where it was not run.

    Attributes:
        score: accuracy of the best validation, in [0, 1].
        metrics: all of that validation.
        seconds, pretraining_seconds: of training.
        problem: why there is no score.
    """

    score: float | None = None
    metrics: Mapping[str, Any] | None = None
    seconds: float | None = None
    pretraining_seconds: float | None = None
    problem: str | None = None


def comparison(settings: AblationSettings, results: Mapping[str, Result]) -> dict[str, Any]:
    """Everything the pages show, in plain values.

    Args:
        results: by "ARM/FINETUNING".
    """
    return {
        "title": settings.title,
        "finetunings": list(settings.finetune),
        "arms": [
            {
                "name": arm.name,
                "title": arm.title or arm.name,
                "settings": arm.model_dump(mode="json", include={"pretrain", "finetune"}),
                "paper": {"row": arm.paper, **ABLATIONS[arm.paper]} if arm.paper else None,
                "results": _results(arm, results),
            }
            for arm in settings.arms
        ],
    }


def _results(arm: Arm, results: Mapping[str, Result]) -> dict[str, Any]:
    mine = ((name.split("/"), result) for name, result in results.items())
    return {task: vars(result) for (whose, task), result in mine if whose == arm.name}


def rich_table(found: Mapping[str, Any]) -> Table:
    """For the terminal."""
    titles, rows = _cells(found)
    shown = Table(*titles, title=f"{found['title']}: validation accuracy, %")
    for row in rows:
        shown.add_row(*row)
    return shown


def page(found: Mapping[str, Any]) -> str:
    """For `ablation.md`."""
    titles, rows = _cells(found)
    settings = [
        [arm["name"], _in_words(arm["settings"]["pretrain"]), _in_words(arm["settings"]["finetune"])]
        for arm in found["arms"]
    ]
    return "\n\n".join(
        [
            f"# {found['title']}",
            "Accuracy of the best validation, %. An empty cell was not run. The paper's figures are of its "
            "own data, model size and tasks.",
            table(titles, rows),
            f"![scores]({NAME}.png)",
            table(["arm", "pre-training", "fine-tuning"], settings),
        ]
    )


def write_pages(found: Mapping[str, Any], output: Path) -> None:
    """`ablation.json`, `ablation.md` and `ablation.png`.

    Raises:
        InputError: they cannot be written.
    """
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
        replace_text(output / f"{NAME}.json", json.dumps(found, indent=1) + "\n")
        replace_text(output / f"{NAME}.md", page(found) + "\n")
    plot_bars(_bars(found), [arm["title"] for arm in found["arms"]], output / f"{NAME}.png", found["title"])


def _cells(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows: a column a fine-tuning, a column a task of the paper where an arm is one of its."""
    tasks = found["finetunings"]
    papers = list(PAPER_TASKS) if any(arm["paper"] for arm in found["arms"]) else []
    titles = ["arm", *tasks, *(f"paper: {PAPER_TASKS[task]}" for task in papers)]
    rows = [
        [
            arm["title"],
            *(_cell(arm["results"].get(task)) for task in tasks),
            *(_percent((arm["paper"] or {}).get(task), 1) for task in papers),
        ]
        for arm in found["arms"]
    ]
    return titles, rows


def _cell(result: Mapping[str, Any] | None) -> str:
    if result and result["problem"]:
        return "diverged"
    score = result["score"] if result else None
    return _percent(None if score is None else 100 * score, 2)


def _percent(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _in_words(overrides: Any) -> str:
    if overrides is None:
        return "none"
    if isinstance(overrides, dict):
        return "; ".join(f"{task}: {_in_words(mine)}" for task, mine in overrides.items())
    return ", ".join(f"`{one}`" for one in overrides) or "as configured"


def _bars(found: Mapping[str, Any]) -> list[Bars]:
    """A panel a fine-tuning; the paper's figures in those that the paper has."""

    def ours(arm: Mapping[str, Any], task: str) -> float | None:
        score = arm["results"].get(task, {}).get("score")
        return None if score is None else 100 * score

    return [
        Bars(
            PAPER_TASKS.get(task, task),
            [ours(arm, task) for arm in found["arms"]],
            [(arm["paper"] or {}).get(task) for arm in found["arms"]],
        )
        for task in found["finetunings"]
    ]
