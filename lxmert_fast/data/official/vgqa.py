"""VG-QA, the questions of Visual Genome (Krishna et al. 2017), category "visual7w" of pre-training.

[{"id": 4, "qas": [{"image_id": 4, "qa_id": 987278, "question": "What is on ...?", "answer": "Sailboats."}]}]
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lxmert_fast.data.json_list import read_entries, shown, text_of
from lxmert_fast.data.official.vqa import number_of
from lxmert_fast.data.vqa import Question
from lxmert_fast.errors import InputError


def read_vg_questions(path: str | Path) -> Iterator[Question]:
    """The questions of `question_answers.json`, one at a time.

    Answers stay as they are written: the joint table of pre-training looks them up in its own spelling.

    Raises:
        InputError: a file or entry that is not in the format, a question twice, image ids that disagree.
    """
    seen: set[int] = set()
    for place, entry in read_entries(path):
        image = number_of(entry, place, "id")
        questions = entry.get("qas")
        if not isinstance(questions, list):
            raise InputError(f"{place}: qas: found {shown(questions)}, wanted a list")
        for index, row in enumerate(questions):
            where = f"{place}: qas[{index}]"
            if not isinstance(row, dict):
                raise InputError(f"{where}: found {shown(row)}, wanted an object")
            question_id = number_of(row, where, "qa_id")
            where = f"{where} (question {question_id})"
            if question_id in seen:
                raise InputError(f"{where}: qa_id occurs twice")
            seen.add(question_id)
            if number_of(row, where, "image_id") != image:
                raise InputError(f"{where}: image_id is {row['image_id']}, its image's id is {image}")
            answer = text_of(row.get("answer"), where, "answer")
            yield Question(
                question_id,
                str(image),
                text_of(row.get("question"), where, "question"),
                {answer: 1.0},
                "",
                "",
            )
