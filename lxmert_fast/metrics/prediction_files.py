"""Prediction files, as the original writes them and the evaluation servers take them (reference 3.7): a JSON
list, four blanks a level, keys sorted; for NLVR a line an example.

    VQA   [{"answer": "cat", "question_id": 458752000}, ...]
    GQA   [{"prediction": "cat", "questionId": "202218649"}, ...]
    NLVR  1572-0,true
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lxmert_fast.data.json_list import read_entries, shown, text_of
from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_file, writing


@dataclass(frozen=True)
class PredictionFormat:
    """The names of its keys, in the order in which they are written, and what an id is."""

    name: str
    answer: str
    question_id: str
    id_type: type[int] | type[str]

    @property
    def wanted(self) -> str:
        """An entry, for an error line."""
        kind = "number" if self.id_type is int else "string"
        return f'{{"{self.answer}": string, "{self.question_id}": {kind}}}'


VQA = PredictionFormat("VQA", "answer", "question_id", int)
GQA = PredictionFormat("GQA", "prediction", "questionId", str)
NLVR = PredictionFormat("NLVR", "label", "identifier", str)
FORMATS = {"vqa": VQA, "gqa": GQA, "nlvr": NLVR}


def prediction_lines(
    rows: Iterable[tuple[int | str, str]], form: PredictionFormat, source: str | Path
) -> Iterator[str]:
    """The text of a prediction file, piece by piece: at any number of rows the bytes of
    `json.dumps(..., indent=4, sort_keys=True)`.

    A VQA id is written as it is, for data sets of one's own whose ids are strings; others are strings.

    Args:
        rows: question id and answer. source: where the ids come from, for the error line.

    Raises:
        InputError: an id that is a number, in another format than VQA's.
    """
    if form is NLVR:
        yield from (f"{question_id},{answer}\n" for question_id, answer in rows)
        return
    mark = "["
    for question_id, answer in rows:
        check_id(question_id, form, source)
        fields = {form.answer: answer, form.question_id: question_id}
        lines = ",\n".join(f'        "{key}": {json.dumps(value)}' for key, value in fields.items())
        yield f"{mark}\n    {{\n{lines}\n    }}"
        mark = ","
    yield "\n]"


def check_id(question_id: int | str, form: PredictionFormat, source: str | Path) -> None:
    """Raise `InputError` for an id that the format does not take."""
    if form is not VQA and not isinstance(question_id, str):
        raise InputError(
            f"{source}: question {question_id}: a number, wanted a string as {form.name}'s ids are"
        )


def check_answers(answers: Iterable[str], form: PredictionFormat, source: str | Path) -> None:
    """Raise `InputError` for answers of a model that the format does not take."""
    others = sorted(set(answers) - {"true", "false"})
    if form is NLVR and others:
        raise InputError(f"{source}: can answer {others[0]!r:.60}, the NLVR format takes true and false")


def write_predictions(
    path: Path, rows: Iterable[tuple[int | str, str]], form: PredictionFormat, source: str | Path
) -> None:
    """Write a prediction file whole or not at all; arguments and errors are `prediction_lines`'.

    Raises:
        InputError: also where it cannot be written.
    """

    def write(beside: Path) -> None:
        with beside.open("w", encoding="utf-8") as file:
            file.writelines(prediction_lines(rows, form, source))

    with writing(path):
        replace_file(path, write)


def prepare_output(path: Path) -> None:
    """Before hours of work: make the folder of a file that will be written.

    Raises:
        InputError: it cannot be, or the path is a folder.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder, wanted the name of a file")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)


def read_predictions(
    path: str | Path, form: PredictionFormat, *, any_id: bool = False
) -> dict[int | str, str]:
    """A prediction file as {question id: answer}.

    `any_id` takes numbers and strings, for data sets of one's own.

    Raises:
        InputError: a file or entry that is not in the format, other keys, a question answered twice.
    """
    answers: dict[int | str, str] = {}
    for place, entry in read_entries(path):
        if set(entry) != {form.answer, form.question_id}:
            keys = ", ".join(sorted(map(repr, entry)))
            raise InputError(f"{place}: found the keys {keys:.100}, wanted {form.wanted}")
        question_id = entry[form.question_id]
        if type(question_id) is not form.id_type and not (any_id and type(question_id) in (int, str)):
            raise InputError(f"{place}: {form.question_id}: found {shown(question_id)}, wanted {form.wanted}")
        if question_id in answers:
            raise InputError(
                f"{place}: {form.question_id} {question_id!r:.60} is answered twice, wanted once"
            )
        answers[question_id] = text_of(entry[form.answer], place, form.answer)
    return answers


def require_answers(
    path: str | Path, answers: Container[int | str], questions: str | Path, wanted: Iterable[int | str]
) -> None:
    """Raise `InputError` where one of the `wanted` ids has no answer, with the first and the number."""
    missing = [question_id for question_id in wanted if question_id not in answers]
    if missing:
        raise InputError(
            f"{path}: no answer to question {missing[0]!r:.60} of {questions} "
            f"({len(missing):,} without one), wanted one to each"
        )


def refuse_others(
    path: str | Path, answers: Iterable[int | str], questions: str | Path, known: Container[int | str]
) -> None:
    """Raise `InputError` where an answer is to a question that is not `known`."""
    extra = [question_id for question_id in answers if question_id not in known]
    if extra:
        raise InputError(
            f"{path}: answers question {extra[0]!r:.60}, which is not in {questions} "
            f"({len(extra):,} of them), wanted exactly its questions"
        )
