"""GQA (Hudson and Manning 2019) from its official files to the original's questions (reference 3.5).

    {"202218649": {"imageId": "n578564", "question": "What is ...?", "answer": "picture", "isBalanced": true,
                   "types": {"structural": "query", ...}, ...}, ...}

`train_all_questions/` is a folder of such files. Test questions have no answer and no types.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lxmert_fast.data.json_list import read_members, shown, text_of
from lxmert_fast.data.vqa import Question
from lxmert_fast.errors import InputError


def read_gqa_questions(path: str | Path) -> Iterator[Question]:
    """The questions of a file or of all files of a folder, one at a time, with eight bytes kept of each.

    The answer type is the official evaluation's: "open" where types.structural is "query", "binary" else
    (verify, logical, choose, compare). The question type is types.structural.

    Raises:
        InputError: a file or entry that is not in the format, a question twice, answers to some questions
            and not to others.
    """
    files = _files(Path(path))
    digests = array("q")
    first: bool | None = None
    for file in files:
        for place, question_id, entry in read_members(file):
            question = _question(place, question_id, entry)
            labelled = question.label is not None
            first = labelled if first is None else first
            if labelled != first:
                raise InputError(
                    f"{place}: {'an' if labelled else 'no'} answer, unlike the questions before; "
                    "wanted answers to all or to none"
                )
            digests.append(hash(question_id))
            yield question
    _refuse_repeats(files, digests)


def _question(place: str, question_id: str, entry: dict[str, Any]) -> Question:
    types = entry.get("types", {})
    if not isinstance(types, dict):
        raise InputError(f"{place}: types: found {shown(types)}, wanted an object")
    structural = text_of(types.get("structural", ""), place, "types.structural")
    return Question(
        question_id,
        text_of(entry.get("imageId"), place, "imageId"),
        text_of(entry.get("question"), place, "question"),
        {text_of(entry["answer"], place, "answer"): 1.0} if "answer" in entry else None,
        structural and ("open" if structural == "query" else "binary"),
        structural,
    )


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = [file for file in path.iterdir() if file.suffix == ".json"]
    if not files:
        raise InputError(f"{path}: no .json file in it, wanted the shards of a split")
    # ..._2.json before ..._10.json
    return sorted(files, key=lambda file: ([int(number) for number in re.findall(r"\d+", file.stem)], file))


def _refuse_repeats(files: list[Path], digests: array[int]) -> None:
    """Two passes: equal digests are rare, and only then the ids themselves are looked at."""
    values, counts = np.unique(np.frombuffer(digests, np.int64), return_counts=True)
    suspects = set(values[counts > 1].tolist())
    if not suspects:
        return
    seen: dict[str, Path] = {}
    for file in files:
        for place, question_id, _ in read_members(file):
            if hash(question_id) not in suspects:
                continue
            if question_id in seen:
                raise InputError(f"{place}: the question is in {seen[question_id]} already")
            seen[question_id] = file
