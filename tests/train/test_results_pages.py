"""The results pages say what the tables of figures say, and name commands that exist."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer

from lxmert_fast import cli
from lxmert_fast.errors import InputError
from lxmert_fast.pages import parts
from lxmert_fast.train.config_files import shipped_names
from lxmert_fast.train.published import ABLATIONS, FIGURES
from lxmert_fast.train.results_pages import MARK, MEASURED, RESULTS, main, read_measured, scores_table, tables

ROW = {"split": "dev", "score": 61.25, "command": "lxmert-fast evaluate ...", "commit": "abc1234"}


def page(task: str) -> str:
    return (RESULTS / f"{task}.md").read_text(encoding="utf-8")


def test_there_is_a_page_for_each_task() -> None:
    assert {path.stem for path in RESULTS.glob("*.md")} == set(FIGURES)


@pytest.mark.parametrize("task", FIGURES)
def test_pages_and_figures_agree(task: str) -> None:
    _, shown, _ = parts(page(task), MARK)
    assert shown == tables(read_measured(RESULTS / MEASURED))[task]


def test_every_figure_stands_in_its_cell() -> None:
    for task, figures in FIGURES.items():
        titles, _, *rows = (
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in scores_table(task, ()).split("\n")
        )
        cells = {
            (row[0], source): cell for row in rows for source, cell in zip(titles[1:], row[1:], strict=True)
        }
        assert {where: float(cell) for where, cell in cells.items() if cell} == {
            (figure.split, figure.source): figure.score for figure in figures
        }


def test_the_full_model_has_the_same_figures_in_every_table_of_the_paper() -> None:
    full = ABLATIONS["table3/pretraining-scratch"]
    assert full == ABLATIONS["table4/two-phase-qa"] == ABLATIONS["table5/both"]
    first = {task: FIGURES[task][0].score for task in full}
    assert first == full


COMMANDS = [
    (task, line) for task in FIGURES for line in page(task).split("\n") if line.startswith("lxmert-fast ")
]


@pytest.mark.parametrize(("task", "line"), COMMANDS, ids=lambda value: value[:60])
def test_commands_exist(task: str, line: str) -> None:
    """Parsed as the command line parses them; nothing is run."""
    command, words = typer.main.get_command(cli.app), shlex.split(line)[1:]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, list(words))
    if command.name in ("pretrain", "finetune", "ablation"):
        assert words[0] in shipped_names(whole=True)


def test_a_measured_figure_comes_with_its_command(tmp_path: Path) -> None:
    folder = shutil.copytree(RESULTS, tmp_path / "results")
    (folder / MEASURED).write_text(json.dumps({"nlvr": [ROW]}))
    main([str(folder)])
    changed = (folder / "nlvr.md").read_text()
    assert re.search(r"^\| dev \| .* \| 61\.25 \|$", changed, re.M)
    assert "| dev | `lxmert-fast evaluate ...` | abc1234 |" in changed
    assert (folder / "vqa.md").read_text() == page("vqa")


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        ([], "wanted {task: "),
        ({"nlvr": {}}, "wanted {task: "),
        ({"nlvr3": []}, "task 'nlvr3', wanted one of vqa, gqa, nlvr2, nlvr, daquar"),
        ({"nlvr": [1]}, r"nlvr\[0\]: found 1, wanted split, score, command, commit"),
        ({"nlvr": [{"split": "dev", "score": 1}]}, r"nlvr\[0\]: found .*, wanted split"),
        ({"nlvr": [ROW | {"split": "train"}]}, "split 'train', wanted one of dev; Test-P; Test-U"),
        ({"nlvr": [ROW, ROW]}, "split 'dev' is there more than once"),
        *(
            ({"nlvr": [ROW | {"score": bad}]}, r"nlvr\[0\]: score .*, wanted percent")
            for bad in ("61", True, -1, 100.5, None)
        ),
        ({"nlvr": [ROW | {"commit": " "}]}, "commit ' ', wanted a text"),
        ({"nlvr": [ROW | {"command": 3}]}, "command 3, wanted a text"),
    ],
)
def test_what_is_no_figure_is_named(tmp_path: Path, tree: Any, line: str) -> None:
    path = tmp_path / MEASURED
    path.write_text(json.dumps(tree))
    with pytest.raises(InputError, match=line) as caught:
        read_measured(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", '{"nlvr": [NaN]}', "\xff"])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / MEASURED
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=MEASURED):
        read_measured(path)
