"""`lxmert-fast score daquar`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def daquar(
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS", help="As `lxmert-fast predict` writes it.")
    ],
    questions: Annotated[
        Path,
        typer.Argument(metavar="QUESTIONS", help="test.json or test_all.json of `lxmert-fast data daquar`."),
    ],
) -> None:
    """Accuracy, WUPS@0.9 and WUPS@0.0, by answer type; those of the most frequent right answer beside them.

    WUPS wants WordNet 3.0: apt-get install wordnet-base, or a WordNet folder in WNSEARCHDIR.
    """
    from rich.console import Console

    from lxmert_fast.metrics.daquar import report_table, score_daquar
    from lxmert_fast.metrics.wordnet import Nouns

    Console().print(report_table(score_daquar(predictions, questions, Nouns())))
