"""The official VQA accuracy (Antol et al. 2015; the evaluation code of VQA v2).

For each question the mean, over the ten choices of nine of its ten annotators, of min(matches / 3, 1).
Answers are compared in the official spelling (`vqa_answers`), but only where the ten do not all agree to the
letter: where they do, the model's answer must be theirs as it stands, but for line feeds, tabs and blanks
around it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lxmert_fast.data.json_list import read_list_in, shown, text_of
from lxmert_fast.data.vqa import iter_questions
from lxmert_fast.errors import InputError
from lxmert_fast.metrics.prediction_files import VQA, read_predictions, refuse_others, require_answers
from lxmert_fast.metrics.scores import Scores
from lxmert_fast.metrics.vqa_answers import normalise_vqa

ANNOTATORS = 10


def vqa_accuracy(answer: str, truths: Sequence[str]) -> float:
    """The accuracy of one answer against those of the annotators, in [0, 1]."""
    answer, truths = _stripped(answer), [_stripped(truth) for truth in truths]
    if len(set(truths)) > 1:
        answer, truths = normalise_vqa(answer), [normalise_vqa(truth) for truth in truths]
    matches = truths.count(answer)
    # left out in turn: one of those that match, or one of the others
    with_one_less, with_all = min((matches - 1) / 3, 1.0), min(matches / 3, 1.0)
    return (matches * with_one_less + (len(truths) - matches) * with_all) / len(truths)


def score_vqa(predictions: Path, questions: Path, annotations: Path) -> Scores:
    """Score a prediction file against the official files of its split.

    Args:
        predictions: [{"answer", "question_id"}, ...], exactly the questions of the split, each once.
        questions: {"questions": [{"question_id", ...}, ...]}.
        annotations: {"annotations": [{"question_id", "answers": [{"answer"}, ten of them], ...}, ...]}, with
            "answer_type" and "question_type" where the official file has them.

    Raises:
        InputError: a file that is not in its format, questions and annotations that differ, missing or
            other answers.
    """
    wanted = {question_id for _, question_id, _ in _entries(questions, "questions")}
    answers = read_predictions(predictions, VQA)
    require_answers(predictions, answers, questions, sorted(wanted))
    refuse_others(predictions, answers, questions, wanted)
    scores, answer_types, question_types = [], [], []
    for place, question_id, entry in _entries(annotations, "annotations"):
        if question_id not in wanted:
            raise InputError(f"{place}: is not in {questions}, wanted annotations of exactly its questions")
        wanted.remove(question_id)
        scores.append(vqa_accuracy(answers[question_id], _truths(place, entry)))
        # a file has few kinds and many questions: one string object a kind
        answer_types.append(sys.intern(text_of(entry.get("answer_type", ""), place, "answer_type")))
        question_types.append(sys.intern(text_of(entry.get("question_type", ""), place, "question_type")))
    require_answers(annotations, (), questions, sorted(wanted))
    return Scores.of(scores, answer_types, question_types)


def soft_scores(answers: Mapping[int | str, str], predictions: Path, questions: Path) -> Scores:
    """The figure that the original reports (reference 4): the mean of the label's score of each answer.

    Args:
        answers: {question id: answer}, of the file `predictions`.
        questions: in the original's JSON, with labels (reference 3.4 and 3.5).

    Raises:
        InputError: a file that is not in its format, questions without labels, missing or other answers.
    """
    scores, answer_types, question_types = [], [], []
    wanted: dict[int | str, None] = {}
    for question in iter_questions(questions):
        if question.label is None:
            raise InputError(f"{questions}: its questions have no labels, nothing can be scored")
        wanted[question.question_id] = None
        scores.append(question.label.get(answers.get(question.question_id, ""), 0.0))
        answer_types.append(question.answer_type)
        question_types.append(question.question_type)
    require_answers(predictions, answers, questions, wanted)
    refuse_others(predictions, answers, questions, wanted)
    return Scores.of(scores, answer_types, question_types)


def _stripped(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _entries(path: Path, key: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The entries of an official file, each with words for an error line and its question id."""
    seen: set[int] = set()
    for place, entry in read_list_in(path, key):
        question_id = entry.get("question_id")
        if type(question_id) is not int:
            raise InputError(f"{place}: question_id: found {shown(question_id)}, wanted a number")
        if question_id in seen:
            raise InputError(f"{place}: question_id {question_id} occurs twice, wanted once")
        seen.add(question_id)
        yield f"{place} (question {question_id})", question_id, entry


def _truths(place: str, entry: dict[str, Any]) -> list[str]:
    answers = entry.get("answers")
    if not isinstance(answers, list) or len(answers) != ANNOTATORS:
        found = f"{len(answers)}" if isinstance(answers, list) else shown(answers)
        raise InputError(f"{place}: answers: found {found}, wanted a list of {ANNOTATORS}")
    texts = [item.get("answer") if isinstance(item, dict) else None for item in answers]
    return [text_of(text, place, "answers: answer") for text in texts]
