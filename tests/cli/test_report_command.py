"""`lxmert-fast report`: pages about whole, short and damaged runs."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lxmert_fast.cli import app
from lxmert_fast.errors import InputError


def report(*words: object) -> Result:
    """Runs the command; what is not an exit is raised."""
    result = CliRunner().invoke(app, ["report", *map(str, words)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def write_run(folder: Path, updates: int = 5, **record: Any) -> Path:
    """A run's metrics, and its record if there is something for it."""
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = [
        {
            "split": "train",
            "step": step,
            "epoch": 0,
            "losses": {"total": 3.0 / step, "mask_lm": 2.0 / step},
            "lr": 1e-4,
            "grad_norm": None if step == 2 else 1.5,
            "pairs_per_second": 100.0 + step,
            "memory_gib": {"host": 1.25},
        }
        for step in range(1, updates + 1)
    ]
    lines.append(
        {"split": "valid", "step": updates, "epoch": 0, "accuracy": 0.625, "by_answer_type": {"number": 0.5}}
    )
    lines.append({"split": "bad", "step": 3, "epoch": 0, "problem": "loss is <nan>"})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if record:
        (folder / "run.json").write_text(json.dumps(record))
    return folder


class Page(HTMLParser):
    """Tags, and the cells of every row."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = tag not in ("td", "th") and self.inside

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data

    def row(self, name: str) -> list[str]:
        return next(row[1:] for row in self.rows if row and row[0] == name)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def test_a_page_holds_curves_and_numbers(tmp_path: Path):
    settings = {"optimisation": {"lr": 1e-4}, "data": {"train": ["a.json", "b.json"]}}
    run = write_run(
        tmp_path / "mine", commit={"id": "abc1234", "dirty": True}, settings=settings, versions={"torch": "2"}
    )
    result = report(run)
    assert result.output == f"{run / 'report.html'}: 1 run\n"
    page = Page(run / "report.html")
    assert page.count("svg") == 8  # 2 losses, 2 of the optimizer, speed, memory, 2 of validation
    assert page.row("updates") == ["5"]
    assert page.row("last losses/mask_lm") == ["0.4"]
    assert page.row("best validation accuracy") == ["0.625 at update 5"]
    assert page.row("pairs a second, median") == ["103"]
    assert page.row("commit") == ["abc1234+changes"]
    assert page.row("data.train") == ["a.json, b.json"]
    assert page.row("3") == ["1", "0.66667"]
    assert ["3", "loss is <nan>"] in page.rows


def test_it_needs_nothing_else_and_runs_nothing(tmp_path: Path):
    run = write_run(
        tmp_path / "<img src=x onerror=alert(1)>", settings={"run": {"note": "<script>alert(1)</script>"}}
    )
    report(run, "--out", tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert page.count("script") == page.count("img") == 0
    outside = [
        value
        for _, found in page.tags
        for key, value in found.items()
        if key in ("src", "href", "xlink:href")
    ]
    assert [value for value in outside if value and not value.startswith(("#", "data:"))] == []


def test_several_runs_are_compared(tmp_path: Path):
    runs = [
        write_run(tmp_path / "a" / "run", 3),
        write_run(tmp_path / "b" / "run", 4),
        write_run(tmp_path / "c", 60),
    ]
    report(*runs, "--out", tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert page.rows[0] == ["", str(runs[0]), str(runs[1]), "c"]
    assert page.row("updates") == ["3", "4", "60"]
    text = (tmp_path / "page.html").read_text()
    assert "31 of 60 lines" in text


def test_a_run_that_is_being_written(tmp_path: Path):
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"split": "train", "step": 6, "los')
    report(run)
    assert Page(run / "report.html").row("updates") == ["5"]


def test_what_was_not_recorded_is_said(tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("")
    (run / "checkpoints" / "step_00000002").mkdir(parents=True)
    report(run)
    page, text = Page(run / "report.html"), (run / "report.html").read_text()
    assert page.row("updates") == page.row("commit") == page.row("started") == ["not recorded"]
    assert page.count("svg") == 0
    assert page.row("step_00000002")[0].startswith("cannot be read: ")
    assert text.count('<p class="soft">not recorded</p>') == 8


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metrics.jsonl", b'{"split": "train"\n{}\n', "line 1 is not JSON"),
        ("metrics.jsonl", b"\xff\xfe\n", "line 1 is not JSON"),
        ("metrics.jsonl", b"[1]\n", "line 1 has no split and step"),
        ("metrics.jsonl", b'{"split": "train", "step": true}\n', "line 1 has no split and step"),
        ("run.json", b'{"settings": ', "run.json: line 1"),
        ("run.json", b"[]", "found a list, wanted an object"),
        ("run.json", b"", "run.json: empty"),
        ("best/config.json", b"3", "found a int, wanted an object"),
    ],
)
def test_damaged_files_are_one_line(tmp_path: Path, name: str, content: bytes, words: str):
    run = write_run(tmp_path / "run")
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(words)):
        report(run)
    assert not (run / "report.html").exists()


def test_numbers_of_any_kind_are_shown(tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    lines = [
        '{"split": "train", "step": 1, "losses": {"total": NaN}, "lr": "words", "mfu": Infinity}',
        '{"split": "train", "step": 2, "losses": {"total": -1e300}, "lr": true}',
        '{"split": "valid", "step": 2, "accuracy": NaN}',
    ]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    report(run)
    page = Page(run / "report.html")
    assert page.row("1") == ["nan"]
    assert page.row("best validation accuracy") == ["not recorded"]


def test_folders_that_are_no_runs(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    run = write_run(tmp_path / "run")
    for folders, words in {
        (tmp_path / "none",): "none: no such folder",
        (tmp_path / "file",): "file: is not a folder",
        (tmp_path / "empty",): r"empty: no metrics\.jsonl in it",
        (run, tmp_path / "run/."): "named twice",
    }.items():
        with pytest.raises(InputError, match=words):
            report(*folders)
    with pytest.raises(InputError, match="cannot be written"):
        report(run, "--out", tmp_path / "file" / "page.html")
