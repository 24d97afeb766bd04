"""Figures of others, each with where it stands: what a run of ours is compared with. None was measured here.

Percent throughout. Paper: Tan and Bansal 2019, arXiv 1908.07490v3. Repository: the original's public code and
weights, by its README (reference 4, "Results to reach").
"""

from __future__ import annotations

from typing import NamedTuple

PAPER_TASKS = {"vqa": "VQA", "gqa": "GQA", "nlvr2": "NLVR2"}
"""Columns of the paper's tables 3 to 5: minival of VQA, testdev of GQA, dev of NLVR2."""

_ROWS: dict[str, tuple[float | None, ...]] = {
    "table3/lstm-butd": (63.1, 50.0, 52.6),
    "table3/bert-butd": (62.8, 52.1, 51.9),
    "table3/bert-1-cross": (64.6, 55.5, 52.4),
    "table3/bert-2-cross": (65.8, 56.1, 50.9),
    "table3/bert-3-cross": (66.4, 56.6, 50.9),
    "table3/bert-4-cross": (66.4, 56.0, 50.9),
    "table3/bert-5-cross": (66.5, 56.3, 50.9),
    "table3/no-pretraining-bert": (65.5, 56.2, 50.9),
    "table3/no-pretraining-scratch": (65.1, 50.0, 50.9),
    "table3/pretraining-bert": (68.8, 58.3, 70.1),
    "table3/pretraining-scratch": (69.9, 60.0, 74.9),
    "table4/no-qa-augmented": (68.0, 58.1, None),
    "table4/no-qa": (68.9, 58.2, 72.4),
    "table4/two-phase-qa-augmented": (69.1, 59.2, None),
    "table4/two-phase-qa": (69.9, 60.0, 74.9),
    "table5/none": (66.3, 57.1, 50.9),
    "table5/feat": (69.2, 59.5, 72.9),
    "table5/label": (69.5, 59.3, 73.5),
    "table5/both": (69.9, 60.0, 74.9),
}

ABLATIONS = {row: dict(zip(PAPER_TASKS, figures, strict=True)) for row, figures in _ROWS.items()}
"""The paper's ablations: "table3/ROW" to task to accuracy, None where the paper has none."""


class Figure(NamedTuple):
    """One published figure.

    Attributes:
        split: and what of it is scored, where that is not all of it.
        source: who got it, with what.
    """

    split: str
    source: str
    score: float


PAPER, REPOSITORY = "paper", "original repository"

FIGURES: dict[str, tuple[Figure, ...]] = {
    "vqa": (
        Figure("minival", PAPER, 69.9),
        Figure("minival", REPOSITORY, 69.90),
        Figure("test-dev", REPOSITORY, 72.42),
        Figure("test-std", PAPER, 72.5),
        Figure("test-std", REPOSITORY, 72.54),
        Figure("test-std, yes/no", PAPER, 88.2),
        Figure("test-std, number", PAPER, 54.2),
        Figure("test-std, other", PAPER, 63.1),
    ),
    "gqa": (
        Figure("testdev, scored here", PAPER, 60.0),
        Figure("testdev, scored here", REPOSITORY, 59.80),
        Figure("test-dev, by the server", REPOSITORY, 60.00),
        Figure("test-std", PAPER, 60.3),
        Figure("test-std", REPOSITORY, 60.33),
        Figure("test-std, binary", PAPER, 77.8),
        Figure("test-std, open", PAPER, 45.0),
    ),
    "nlvr2": (
        Figure("dev", PAPER, 74.9),
        Figure("dev", REPOSITORY, 74.95),
        Figure("Test-P", PAPER, 74.5),
        Figure("Test-P", REPOSITORY, 74.45),
        Figure("Test-P, consistency", PAPER, 39.7),
        Figure("Test-U", PAPER, 76.2),
        Figure("Test-U", REPOSITORY, 76.18),
        Figure("Test-U, consistency", PAPER, 42.1),
    ),
    "nlvr": (
        Figure("dev", "always true", 55.3),
        Figure("dev", "MaxEnt on structured input", 68.0),
        Figure("dev", "semantic parser (Goldman et al. 2018)", 85.7),
        Figure("Test-P", "always true", 56.2),
        Figure("Test-P", "MaxEnt on structured input", 67.7),
        Figure("Test-P", "semantic parser (Goldman et al. 2018)", 84.0),
        Figure("Test-U", "always true", 55.4),
        Figure("Test-U", "MaxEnt on structured input", 67.8),
        Figure("Test-U", "semantic parser (Goldman et al. 2018)", 82.5),
    ),
    "daquar": (
        Figure("test, single answer", "Ask-Your-Neurons", 21.7),
        Figure("test, single answer", "IMG-CNN", 23.4),
        Figure("test, single answer", "SAN(2)", 29.3),
    ),
}
"""By task, in the order of its splits. Paper, table 2 (test) and tables 3 to 5 (minival, testdev, dev)."""
