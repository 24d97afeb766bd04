"""`lxmert-fast score daquar` against scores by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_data import write_json
from small_wordnet import write_wordnet
from typer.testing import CliRunner, Result

from lxmert_fast.cli import app
from lxmert_fast.errors import InputError
from lxmert_fast.metrics.daquar import score_daquar
from lxmert_fast.metrics.wordnet import Nouns

QUESTIONS = [
    ("a", {"chair": 1.0}, "thing"),
    ("b", {"sofa": 1.0}, "thing"),
    ("c", {"2": 1.0}, "number"),
    ("d", {"chair": 1.0, "red": 1.0}, "set"),
    ("e", {"chair": 1.0}, "thing"),
]
ANSWERS = {"a": "chair", "b": "chair", "c": "3", "d": "red, chair", "e": "table"}


def questions() -> list[dict[str, Any]]:
    rows = [("question_id", "label", "answer_type"), *QUESTIONS]
    return [
        dict(zip(rows[0], row, strict=True)) | {"img_id": "i", "sent": "what is it ?"} for row in QUESTIONS
    ]


def predictions(answers: dict[Any, Any]) -> list[dict[str, Any]]:
    return [{"question_id": number, "answer": answer} for number, answer in answers.items()]


@pytest.fixture
def nouns(tmp_path: Path) -> Nouns:
    return Nouns(write_wordnet(tmp_path / "wordnet"))


def test_by_hand(tmp_path: Path, nouns: Nouns) -> None:
    found = score_daquar(
        write_json(tmp_path / "p.json", predictions(ANSWERS)),
        write_json(tmp_path / "q.json", questions()),
        nouns,
    )
    table = 2 * 2 / (2 * 2 + 3)
    assert found.overall.count == 5
    assert found.overall.accuracy == 2 / 5
    assert found.overall.wups[0.9] == pytest.approx((1 + 0.075 + 0 + 1 + 0.1 * table) / 5)
    assert found.overall.wups[0.0] == pytest.approx((1 + 0.75 + 0 + 1 + table) / 5)
    assert {kind: scores.count for kind, scores in found.by_answer_type.items()} == {
        "thing": 3,
        "number": 1,
        "set": 1,
    }
    assert found.by_answer_type["thing"].accuracy == pytest.approx(1 / 3)
    assert (found.majority_answer, found.majority.accuracy) == ("chair", 2 / 5)


def call(*arguments: Path) -> Result:
    return CliRunner().invoke(app, ["score", "daquar", *map(str, arguments)])


def test_command(tmp_path: Path, nouns: Nouns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WNSEARCHDIR", str(nouns.folder))
    done = call(
        write_json(tmp_path / "p.json", predictions(ANSWERS)), write_json(tmp_path / "q.json", questions())
    )
    assert done.exit_code == 0, done.output
    assert "40.00" in done.output
    assert "always 'chair'" in done.output


def test_command_without_wordnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path / "none"))
    done = call(tmp_path / "p.json", tmp_path / "q.json")
    assert isinstance(done.exception, InputError)
    assert "apt-get install wordnet-base" in str(done.exception)


@pytest.mark.parametrize(
    ("given", "asked", "words"),
    [
        (predictions({"a": "chair"}), questions(), "no answer to question 'b'"),
        (predictions(ANSWERS | {"z": "chair"}), questions(), "answers question 'z', which is not in"),
        (predictions(ANSWERS | {"a": None}), questions(), "answer: found nothing, wanted a string"),
        (predictions(ANSWERS) * 2, questions(), "answered twice"),
        ([], questions(), "empty list"),
        (predictions(ANSWERS), [row | {"label": {}} for row in questions()], "'a': no right answer"),
        (
            predictions(ANSWERS),
            [{key: row[key] for key in row if key != "label"} for row in questions()],
            "'a': no right answer",
        ),
    ],
)
def test_bad_files(tmp_path: Path, nouns: Nouns, given: Any, asked: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        score_daquar(write_json(tmp_path / "p.json", given), write_json(tmp_path / "q.json", asked), nouns)
