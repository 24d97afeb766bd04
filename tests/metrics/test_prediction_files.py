"""Prediction files: the original's bytes, and what a checker refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_data import write_json

from lxmert_fast.errors import InputError
from lxmert_fast.metrics.nlvr import read_predictions as read_lines
from lxmert_fast.metrics.prediction_files import (
    GQA,
    NLVR,
    VQA,
    PredictionFormat,
    check_answers,
    prediction_lines,
    read_predictions,
    write_predictions,
)


@pytest.mark.parametrize("form", [VQA, GQA], ids=lambda form: form.name)
def test_the_bytes_are_those_of_the_original(form: PredictionFormat, tmp_path: Path) -> None:
    """json.dump(rows, indent=4, sort_keys=True), which the original calls (reference 3.7)."""
    rows: list[tuple[Any, str]] = [(form.id_type(number), f'"é\n{number}') for number in (458752000, 1, 7)]
    write_predictions(tmp_path / "out.json", rows, form, "q.json")
    as_dicts = [{form.question_id: question_id, form.answer: answer} for question_id, answer in rows]
    assert (tmp_path / "out.json").read_text() == json.dumps(as_dicts, indent=4, sort_keys=True)
    assert read_predictions(tmp_path / "out.json", form) == dict(rows)


def test_a_number_is_no_gqa_id() -> None:
    with pytest.raises(InputError, match=r"^q\.json: question 7: a number, wanted a string"):
        list(prediction_lines([("1", "a"), (7, "b")], GQA, "q.json"))


def test_nlvr_takes_lines_of_true_and_false(tmp_path: Path) -> None:
    write_predictions(tmp_path / "out.csv", [("1572-0", "true"), ("1572-1", "false")], NLVR, "q.json")
    assert (tmp_path / "out.csv").read_bytes() == b"1572-0,true\n1572-1,false\n"
    assert read_lines(tmp_path / "out.csv") == {"1572-0": True, "1572-1": False}
    check_answers(["false", "true"], NLVR, "model")
    check_answers(["cat"], VQA, "model")
    with pytest.raises(InputError, match=r"^model: can answer 'cat', the NLVR format takes true and false"):
        check_answers(["cat", "true"], NLVR, "model")


def test_nothing_is_left_of_a_file_that_is_not_finished(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_predictions(tmp_path / "out.json", [("1", "a"), (7, "b")], GQA, "q.json")
    assert not list(tmp_path.iterdir())


GOOD = {"answer": "cat", "question_id": 1}
FAULTS: dict[str, tuple[Any, str]] = {
    "no list": (GOOD, "found '{', wanted a list of objects"),
    "empty": ([], "found an empty list"),
    "other keys": ([{"prediction": "cat", "questionId": "1"}], "found the keys 'prediction', 'questionId'"),
    "one key more": ([GOOD | {"score": 1}], "entry 0: found the keys 'answer', 'question_id', 'score'"),
    "id is a string": ([GOOD | {"question_id": "1"}], "entry 0: question_id: found '1'"),
    "id is true": ([GOOD | {"question_id": True}], "entry 0: question_id: found True"),
    "answer is a number": ([GOOD | {"answer": 3}], "entry 0: answer: found 3, wanted a string"),
    "answer is true": ([GOOD | {"answer": True}], "entry 0: answer: found True, wanted a string"),
    "twice": ([GOOD, GOOD], "entry 1: question_id 1 is answered twice"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "words"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named(content: Any, words: str, tmp_path: Path) -> None:
    path = write_json(tmp_path / "p.json", content)
    with pytest.raises(InputError) as error:
        read_predictions(path, VQA)
    assert str(error.value).startswith(f"{path}: ")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "end of the file"),
        (b'[{"answer": "cat", "question', "not JSON"),
        (b'[{"answer": "c\xe9t", "question_id": 1}]', "byte 0xe9 is not UTF-8"),
        (b'[{"answer": NaN, "question_id": 1}]', "NaN is not a JSON number"),
    ],
)
def test_a_broken_file_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_predictions(path, VQA)
