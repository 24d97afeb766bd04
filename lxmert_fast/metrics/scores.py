"""Mean scores of many questions: of all, and of each kind of question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table


@dataclass(frozen=True)
class Scores:
    """Mean scores in [0, 1]: of all questions and of each kind, with how many there are."""

    overall: float
    count: int
    by_answer_type: dict[str, tuple[float, int]]
    by_question_type: dict[str, tuple[float, int]]

    @classmethod
    def of(
        cls,
        scores: np.ndarray | Sequence[float],
        answer_types: Sequence[str],
        question_types: Sequence[str],
    ) -> Scores:
        """Of Q questions, at least one: their scores and types, where "" is no type."""
        # in fp64: a mean of fp32 scores would move the official second decimal
        values = np.asarray(scores, np.float64)
        return cls(
            float(values.mean()),
            len(values),
            mean_by_kind(values, answer_types),
            mean_by_kind(values, question_types),
        )


def mean_by_kind(scores: np.ndarray, kinds: Sequence[str]) -> dict[str, tuple[float, int]]:
    """Mean and number of the scores (Q,) of each kind but ""."""
    names, which = np.unique(np.array(kinds, dtype=str), return_inverse=True)
    counts = np.bincount(which)
    means = np.bincount(which, scores) / counts
    return {
        str(name): (float(mean), int(count))
        for name, mean, count in zip(names, means, counts, strict=True)
        if name
    }


def score_table(scores: Scores) -> Table:
    """Scores as a table for people, in percent with two decimals, as the official evaluations print them."""
    table = Table("questions", "count", "score %")
    table.add_row("all", f"{scores.count:,}", percent(scores.overall))
    add_kinds(table, "answer", scores.by_answer_type)
    add_kinds(table, "question", scores.by_question_type)
    return table


def add_kinds(table: Table, title: str, kinds: Mapping[str, tuple[float, int]]) -> None:
    """A row for each kind."""
    for kind, (score, count) in sorted(kinds.items()):
        table.add_row(f"{title}: {kind}", f"{count:,}", percent(score))


def percent(share: float) -> str:
    """0.69904 as "69.90"."""
    return f"{100 * share:.2f}"
