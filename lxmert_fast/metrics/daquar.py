"""DAQUAR's figures (Malinowski and Fritz 2014): accuracy and WUPS of a prediction file.

An answer is a set: one word, or several with commas between them, "table, chair". Accuracy asks for the whole
right set; `lxmert_fast.metrics.wups` gives parts of it, and of what is near, their share.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from lxmert_fast.data.vqa import Question, read_questions
from lxmert_fast.errors import InputError
from lxmert_fast.metrics.prediction_files import VQA, read_predictions, refuse_others, require_answers
from lxmert_fast.metrics.wordnet import Nouns
from lxmert_fast.metrics.wups import THRESHOLDS, Wups


@dataclass(frozen=True)
class DaquarScores:
    """Means over `count` questions, in [0, 1]; `wups` by threshold."""

    count: int
    accuracy: float
    wups: dict[float, float]


@dataclass(frozen=True)
class DaquarReport:
    """Scores of all questions, of each answer type, and of the one answer that is right most often."""

    overall: DaquarScores
    by_answer_type: dict[str, DaquarScores]
    majority_answer: str
    majority: DaquarScores


def score_daquar(predictions: Path, questions: Path, nouns: Nouns) -> DaquarReport:
    """Score a prediction file against labelled questions; the answers of a label are one set.

    Raises:
        InputError: a file that is not in its format, a question without an answer or an answer without its
            question, questions without labels.
    """
    answers = read_predictions(predictions, VQA, any_id=True)
    rows = read_questions(questions)
    if lost := next((row for row in rows if not row.label), None):
        raise InputError(
            f"{questions}: question {lost.question_id!r:.60}: no right answer, wanted a label with one"
        )
    ids = [row.question_id for row in rows]
    require_answers(predictions, answers, questions, ids)
    refuse_others(predictions, answers, questions, set(ids))
    return report(rows, answers, Wups(nouns))


def report(rows: Iterable[Question], answers: Mapping[int | str, str], wups: Wups) -> DaquarReport:
    """The scores of labelled questions, whose answers are {question id: answer}."""
    scored = [(row, scores_of(answers[row.question_id], row.label or {}, wups)) for row in rows]
    kinds: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for row, values in scored:
        if row.answer_type:
            kinds[row.answer_type].append(values)
    majority = Counter(_joined(row.label or {}) for row, _ in scored).most_common(1)[0][0]
    constant = [scores_of(majority, row.label or {}, wups) for row, _ in scored]
    return DaquarReport(
        mean([values for _, values in scored]),
        {kind: mean(values) for kind, values in sorted(kinds.items())},
        majority,
        mean(constant),
    )


def scores_of(answer: str, right: Iterable[str], wups: Wups) -> tuple[float, ...]:
    """Accuracy, then WUPS at each of `THRESHOLDS`, of one answer."""
    given, wanted = {part.strip() for part in answer.split(",")}, set(right)
    return float(given == wanted), *(wups(given, wanted, threshold) for threshold in THRESHOLDS)


def mean(values: list[tuple[float, ...]]) -> DaquarScores:
    """The means of one or more of `scores_of`."""
    accuracy, *wups = (sum(column) / len(values) for column in zip(*values, strict=True))
    return DaquarScores(len(values), accuracy, dict(zip(THRESHOLDS, wups, strict=True)))


def report_table(found: DaquarReport) -> Table:
    """A report for people, in percent."""
    table = Table("questions", "count", "accuracy %", *(f"WUPS@{threshold} %" for threshold in THRESHOLDS))
    rows = {"all": found.overall}
    rows |= {f"answer: {kind}": scores for kind, scores in found.by_answer_type.items()}
    rows |= {f"always {found.majority_answer!r}": found.majority}
    for name, scores in rows.items():
        figures = (scores.accuracy, *scores.wups.values())
        table.add_row(name, f"{scores.count:,}", *(f"{100 * figure:.2f}" for figure in figures))
    return table


def _joined(right: Iterable[str]) -> str:
    return ", ".join(sorted(right))
