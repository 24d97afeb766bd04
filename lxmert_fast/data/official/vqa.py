"""VQA v2 (Goyal et al. 2017) from its official files to the original's questions (reference 3.4).

    v2_OpenEnded_mscoco_train2014_questions.json
        {"data_subtype": "train2014",
         "questions": [{"image_id": 9, "question": "...", "question_id": 9000}, ...]}
    v2_mscoco_train2014_annotations.json
        {"annotations": [{"question_id": 9000, "image_id": 9, "answers": [{"answer": "net"}, ... ten of them],
                          "multiple_choice_answer": "net", "answer_type": "other", "question_type": "what"}]}

The three last and an annotation's image_id may be absent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.data.json_list import read_json, read_list_in, shown, text_of
from lxmert_fast.data.vqa import Question
from lxmert_fast.errors import InputError
from lxmert_fast.metrics.vqa_answers import normalise_vqa, soft_score

VOTES = 10
"""Annotators of a question."""

# test-dev is a part of test: the same images
SUBSETS = {name: name for name in ("train2014", "val2014", "test2015")} | {"test-dev2015": "test2015"}

_spelling = cache(normalise_vqa)


@dataclass(frozen=True, slots=True)
class Annotation:
    """What ten people answered to a question."""

    question_id: int
    image_id: int | None
    votes: dict[str, int]
    """Answer, in the official evaluation's spelling, to how many gave it; the first given is first."""
    best: str
    """`multiple_choice_answer`, likewise; the first of the most given where the file has none."""
    answer_type: str
    question_type: str


@dataclass
class Counts:
    """What became of a file of questions."""

    questions: int = 0
    empty: int = 0
    """Annotated questions without an answer in the map."""
    votes: int = 0
    outside: int = 0
    """Votes for answers outside the map, which no label holds."""
    seen: set[int] = field(default_factory=set, repr=False)


def read_annotations(path: str | Path) -> Iterator[Annotation]:
    """The annotations of a file, one at a time.

    Raises:
        InputError: a file or entry that is not in the format, other than ten answers, a question twice.
    """
    seen: set[int] = set()
    for place, entry in read_list_in(path, "annotations"):
        question_id = number_of(entry, place, "question_id")
        place = f"{place} (question {question_id})"
        if question_id in seen:
            raise InputError(f"{place}: question_id occurs twice, wanted one annotation a question")
        seen.add(question_id)
        answers = entry.get("answers")
        if not isinstance(answers, list) or len(answers) != VOTES:
            found = f"{len(answers)} of them" if isinstance(answers, list) else shown(answers)
            raise InputError(f"{place}: answers: found {found}, wanted a list of {VOTES}")
        votes: Counter[str] = Counter()
        for number, answer in enumerate(answers):
            key = f"answers[{number}]"
            if not isinstance(answer, dict):
                raise InputError(f"{place}: {key}: found {shown(answer)}, wanted an object")
            votes[_spelling(text_of(answer.get("answer"), place, f"{key}.answer"))] += 1
        best = entry.get("multiple_choice_answer", max(votes, key=votes.__getitem__))
        yield Annotation(
            question_id,
            number_of(entry, place, "image_id") if "image_id" in entry else None,
            dict(votes),
            _spelling(text_of(best, place, "multiple_choice_answer")),
            text_of(entry.get("answer_type", ""), place, "answer_type"),
            text_of(entry.get("question_type", ""), place, "question_type"),
        )


def read_official_questions(
    questions: str | Path, annotations: str | Path | None, answers: AnswerMap | None, counts: Counts
) -> Iterator[Question]:
    """The questions of a file with soft scores for labels; without annotations unlabelled.

    Args:
        questions, annotations: official files of the same split.
        answers: what labels may hold (the original's way); a question may be left with an empty label.
        counts: filled in.

    Raises:
        InputError: a file or entry that is not in the format, a subset other than `SUBSETS`, a question
            twice, a question without annotation or the other way round, image ids that disagree.
    """
    content = read_json(questions)
    if not isinstance(content, dict) or not isinstance(content.get("questions"), list):
        raise InputError(f"{questions}: wanted an object with a list of questions")
    subset = content.get("data_subtype")
    if not isinstance(subset, str) or subset not in SUBSETS:
        raise InputError(
            f"{questions}: data_subtype: found {shown(subset)}, wanted one of {', '.join(SUBSETS)}"
        )
    known = (
        {} if annotations is None else {found.question_id: found for found in read_annotations(annotations)}
    )
    for index, entry in enumerate(content["questions"]):
        place = f"{questions}: questions: entry {index}"
        if not isinstance(entry, dict):
            raise InputError(f"{place}: found {shown(entry)}, wanted an object")
        question_id = number_of(entry, place, "question_id")
        place = f"{place} (question {question_id})"
        if question_id in counts.seen:
            raise InputError(f"{place}: question_id occurs twice")
        counts.seen.add(question_id)
        counts.questions += 1
        image = number_of(entry, place, "image_id")
        annotation = known.pop(question_id, None)
        if annotations is not None:
            if annotation is None:
                raise InputError(f"{place}: has no annotation in {annotations}")
            if annotation.image_id not in (None, image):
                raise InputError(
                    f"{place}: image_id is {image}, its annotation in {annotations} has {annotation.image_id}"
                )
        yield Question(
            question_id,
            coco_image(SUBSETS[subset], image),
            text_of(entry.get("question"), place, "question"),
            None if annotation is None else _label(annotation, answers, counts),
            annotation.answer_type if annotation else "",
            annotation.question_type if annotation else "",
        )
    if known:
        raise InputError(
            f"{annotations}: {len(known):,} annotations of questions that are not in {questions}, "
            f"such as {next(iter(known))}"
        )


def coco_image(subset: str, image: int) -> str:
    """The name of a COCO image, such as COCO_val2014_000000000042."""
    return f"COCO_{subset}_{image:012d}"


def _label(annotation: Annotation, answers: AnswerMap | None, counts: Counts) -> dict[str, float]:
    label = {}
    for answer, votes in annotation.votes.items():
        counts.votes += votes
        if answers is None or answer in answers:
            label[answer] = soft_score(votes)
        else:
            counts.outside += votes
    counts.empty += not label
    return label


def number_of(entry: dict[str, Any], place: str, key: str) -> int:
    """An id; anything else is an `InputError` that names the key."""
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{place}: {key}: found {shown(value)}, wanted a number")
    return value
