"""The official GQA evaluation (Hudson and Manning 2019), over the balanced questions.

accuracy      share of answers that are the annotated one to the letter; "binary" and "open" (structural type
              "query") apart, and by type, reasoning steps and words.
validity      the answer is one that the question can have at all, plausibility: one that makes sense; both
              from the official choices file. For questions of a "Common" type the choices are color, material
              and shape.
consistency   of each question that is answered right and entails others: the share of those answered right;
              the mean of the shares.
distribution  chi-square of the predicted against the annotated counts, sum over answers of (o - e)^2 / e in
              each global group, mean over the groups weighed by their questions, divided by 100. Lower is
              better.
grounding     is not computed: it wants a model's attention over the image, and prediction files have none.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from lxmert_fast.data.json_list import read_members, shown, text_of
from lxmert_fast.errors import InputError
from lxmert_fast.metrics.prediction_files import GQA, read_predictions, require_answers
from lxmert_fast.metrics.scores import add_kinds, mean_by_kind, percent

_LAST_STEPS = ("exist", "query: name", "choose name")
_COMMON = ("color", "material", "shape")
KINDS = ("structural", "semantic", "detailed", "steps", "words")


@dataclass(frozen=True)
class GqaScores:
    """Shares in [0, 1] with the number of questions behind each; None where a file was not given.

    `others` counts predictions of questions that are not scored: unbalanced ones, or of another file.
    """

    accuracy: tuple[float, int]
    binary: tuple[float, int] | None
    open: tuple[float, int] | None
    by_kind: dict[str, dict[str, tuple[float, int]]]
    distribution: float | None
    """Chi-square / 100, not a share."""
    consistency: tuple[float, int] | None
    validity: tuple[float, int] | None
    plausibility: tuple[float, int] | None
    others: int
    missing: dict[str, str]
    """Of each metric that is None, why."""


def score_gqa(
    predictions: Path, questions: Path, all_questions: Path | None = None, choices: Path | None = None
) -> GqaScores:
    """Score a prediction file.

    Args:
        predictions: [{"prediction", "questionId"}, ...]. Answers to other questions are counted, not scored.
        questions: the official file, {id: {"question", "answer", "isBalanced", "types", ...}, ...}, or a
            folder of its parts.
        all_questions: likewise, of all questions of the split, balanced or not; for consistency.
        choices: the official {id: {"valid": [...], "plausible": [...]}, ...}, or a folder of its parts.

    Raises:
        InputError: a file that is not in its format, questions without answers (a test split), a question
            whose answer, entailed question or choices are missing.
    """
    answers = read_predictions(predictions, GQA)
    asked = _Asked(answers)
    for place, question_id, entry in members(questions):
        asked.add(place, question_id, entry, entails=all_questions is not None)
    if not asked.right:
        raise InputError(f"{questions}: no balanced question in it, wanted those that the accuracy is of")
    require_answers(predictions, answers, questions, asked.right)
    scores = np.fromiter(asked.right.values(), np.float64, len(asked.right))
    by_kind = {kind: mean_by_kind(scores, asked.kinds[kind]) for kind in KINDS}
    both = mean_by_kind(
        scores, ["open" if kind == "query" else "binary" for kind in asked.kinds["structural"]]
    )
    missing = {"grounding": "wants attention over the image, a prediction file has none"}
    consistency = validity = plausibility = None
    if all_questions is None:
        missing["consistency"] = "wants --all-questions"
    else:
        consistency = _consistency(predictions, all_questions, asked)
        if consistency is None:
            missing["consistency"] = "no question that is answered right entails another"
    if choices is None:
        missing["validity"] = missing["plausibility"] = "wants --choices"
    else:
        validity, plausibility = _choices(choices, questions, asked)
    distribution = chi_square(asked.gold, asked.predicted)
    if distribution is None:
        missing["distribution"] = "no question has a global group"
    for name in ("binary", "open"):
        if name not in both:
            missing[name] = "there are no such questions"
    return GqaScores(
        (float(scores.mean()), len(scores)),
        both.get("binary"),
        both.get("open"),
        by_kind,
        distribution,
        consistency,
        validity,
        plausibility,
        len(answers) - len(asked.right),
        missing,
    )


def members(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """`read_members` of a file, or of the .json files of a folder in the order of their names.

    Raises `InputError` like it, for a folder without such files and for a key that occurs twice.
    """
    parts = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not parts:
        raise InputError(f"{path}: no .json file in it, wanted the parts of a GQA file")
    seen: set[str] = set()
    for part in parts:
        for place, key, entry in read_members(part):
            if key in seen:
                raise InputError(f"{place}: occurs twice in {path}, wanted once")
            seen.add(key)
            yield place, key, entry


def chi_square(
    gold: Mapping[str, Mapping[str, int]], predicted: Mapping[str, Mapping[str, int]]
) -> float | None:
    """The distribution score of counts {group: {answer: questions}}; None where there is no group."""
    total, questions = 0.0, 0
    for group, counts in gold.items():
        size = sum(counts.values())
        found = predicted.get(group, {})
        total += size * sum((found.get(answer, 0) - e) ** 2 / e for answer, e in counts.items())
        questions += size
    return total / questions / 100 if questions else None


def gqa_table(scores: GqaScores) -> Table:
    """For people, with two decimals as the official evaluation prints; where there is none "-" and why."""
    table = Table("GQA", "count", "score %", "note")
    for name in ("accuracy", "binary", "open", "consistency", "validity", "plausibility", "grounding"):
        found = getattr(scores, name, None)
        if found is None:
            table.add_row(name, "", "-", scores.missing[name])
        else:
            table.add_row(name, f"{found[1]:,}", percent(found[0]))
    distribution = "-" if scores.distribution is None else f"{scores.distribution:.2f}"
    note = scores.missing.get("distribution", "chi-square, not per cent; lower is better")
    table.add_row("distribution", "", distribution, note)
    for kind in KINDS:
        add_kinds(table, kind, scores.by_kind[kind])
    return table


@dataclass
class _Asked:
    """What is kept of the balanced questions while their file goes by."""

    answers: Mapping[int | str, str]
    right: dict[str, bool] = field(default_factory=dict)
    kinds: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    common: set[str] = field(default_factory=set)
    """Questions whose choices are `_COMMON`."""
    entailed: list[list[str]] = field(default_factory=list)
    """Of each question that is answered right and entails others: those."""
    gold: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    predicted: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, place: str, question_id: str, entry: dict[str, Any], *, entails: bool) -> None:
        if not isinstance(entry.get("isBalanced"), bool):
            raise InputError(
                f"{place}: isBalanced: found {shown(entry.get('isBalanced'))}, wanted true or false"
            )
        if not entry["isBalanced"]:
            return
        if "answer" not in entry:
            raise InputError(
                f"{place}: no answer, as in a test split: only the evaluation server can score it"
            )
        gold = text_of(entry["answer"], place, "answer")
        answer = self.answers.get(question_id)
        right = self.right[question_id] = answer == gold
        types = _object(entry, "types", place)
        for kind in ("structural", "semantic", "detailed"):
            self.kinds[kind].append(text_of(types.get(kind), place, f"types: {kind}"))
        if "Common" in types["detailed"]:
            self.common.add(question_id)
        self.kinds["steps"].append(f"{_steps(entry, place):2d}")
        self.kinds["words"].append(f"{len(text_of(entry.get('question'), place, 'question').split()):2d}")
        group = _object(entry, "groups", place).get("global")
        if group is not None:
            self.gold[text_of(group, place, "groups: global")][gold] += 1
            self.predicted[group][answer or ""] += 1
        if entails and right:
            others = entry.get("entailed")
            if not isinstance(others, list) or not all(isinstance(other, str) for other in others):
                raise InputError(f"{place}: entailed: found {shown(others)}, wanted a list of question ids")
            others = [other for other in others if other != question_id]
            if others:
                self.entailed.append(others)


def _steps(entry: dict[str, Any], place: str) -> int:
    """Reasoning steps, without the last one, which only asks."""
    steps = entry.get("semantic")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise InputError(f"{place}: semantic: found {shown(steps)}, wanted a list of steps")
    names = [f"{step.get('operation')}: {step.get('argument')}" for step in steps]
    return sum(not any(last in name for last in _LAST_STEPS) for name in names)


def _object(entry: dict[str, Any], key: str, place: str) -> dict[str, Any]:
    if not isinstance(entry.get(key), dict):
        raise InputError(f"{place}: {key}: found {shown(entry.get(key))}, wanted an object")
    return entry[key]


def _consistency(predictions: Path, all_questions: Path, asked: _Asked) -> tuple[float, int] | None:
    wanted = {question_id for others in asked.entailed for question_id in others}
    right: dict[int | str, bool] = {}
    for place, question_id, entry in members(all_questions):
        if question_id in wanted:
            gold = text_of(entry.get("answer"), place, "answer")
            right[question_id] = asked.answers.get(question_id) == gold
    require_answers(all_questions, right, "the entailed ones", sorted(wanted))
    require_answers(predictions, asked.answers, all_questions, sorted(wanted))
    shares = [sum(right[other] for other in others) / len(others) for others in asked.entailed]
    return (sum(shares) / len(shares), len(shares)) if shares else None


def _choices(choices: Path, questions: Path, asked: _Asked) -> tuple[tuple[float, int], ...]:
    """Validity and plausibility."""
    found = {"valid": 0, "plausible": 0}
    seen: set[int | str] = set()
    for place, question_id, entry in members(choices):
        if question_id not in asked.right:
            continue
        seen.add(question_id)
        for kind in found:
            group = entry.get(kind)
            if not isinstance(group, list):
                raise InputError(f"{place}: {kind}: found {shown(group)}, wanted a list of answers")
            found[kind] += asked.answers[question_id] in (_COMMON if question_id in asked.common else group)
    without = [question_id for question_id in asked.right if question_id not in seen]
    if without:
        raise InputError(
            f"{choices}: no choices of question {without[0]!r:.60} of {questions} ({len(without):,} without)"
        )
    return tuple((count / len(seen), len(seen)) for count in found.values())
