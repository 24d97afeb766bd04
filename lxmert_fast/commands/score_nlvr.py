"""`lxmert-fast score nlvr2|nlvr`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lxmert_fast.errors import InputError

Predictions = Annotated[
    Path, typer.Argument(metavar="PREDICTIONS.csv", help="IDENTIFIER,True or IDENTIFIER,False a line.")
]
Truth = Annotated[Path, typer.Argument(metavar="TRUTH.json", help="The split's official file.")]
Subsets = Annotated[
    list[str] | None,
    typer.Option(
        "--subset",
        metavar="NAME=FILE",
        help="An official file of some of its examples, such as balanced=balanced_dev.json; may be repeated.",
    ),
]


def nlvr2(predictions: Predictions, truth: Truth, subsets: Subsets = None) -> None:
    """NLVR2: accuracy and consistency as the official script has them.

    A group is a sentence with its up to four pairs of images; consistency is the share of groups that are
    right altogether.
    """
    from lxmert_fast.data.official.statements import NLVR2
    from lxmert_fast.metrics.nlvr import score_file

    _show(score_file(predictions, truth, NLVR2, _named(subsets or [])))


def nlvr(
    predictions: Predictions,
    truth: Truth,
    train_sentences: Annotated[
        Path | None,
        typer.Option(
            help='JSON {id: {"sentence": ...}}: score sentences that do not occur in it separately.'
        ),
    ] = None,
) -> None:
    """NLVR: accuracy and consistency; a group is a sentence with its images (1572-0, 1572-1, ...)."""
    from lxmert_fast.data.nlvr import read_sentences
    from lxmert_fast.data.official.statements import NLVR
    from lxmert_fast.metrics.nlvr import plain, score_file

    known = None
    if train_sentences is not None:
        known = {plain(sentence) for sentence in read_sentences(train_sentences).values()}
    _show(score_file(predictions, truth, NLVR, known_sentences=known))


def _named(words: list[str]) -> dict[str, str]:
    named: dict[str, str] = {}
    for word in words:
        name, _, file = word.partition("=")
        if not name or not file:
            raise InputError(f"--subset {word!r}: wanted NAME=FILE, such as balanced=balanced_dev.json")
        if name in named or name == "all":
            raise InputError(f"--subset {word!r}: there is a set {name!r} already")
        named[name] = file
    return named


def _show(scores: Any) -> None:
    from rich.console import Console

    from lxmert_fast.metrics.nlvr import score_table

    Console().print(score_table(scores))
