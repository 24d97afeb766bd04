"""`lxmert-fast data augment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def augment(
    out: Annotated[Path, typer.Argument(metavar="OUT.json", help="The question file to write.")],
    aggregated: Annotated[
        list[Path], typer.Argument(metavar="PRETRAINING.json...", help="Aggregated pre-training files.")
    ],
    answers: Annotated[Path, typer.Option(help="label2ans.json of the data set that is to have more.")],
    known: Annotated[
        list[Path] | None,
        typer.Option("--known", help="Its own training questions, which are left out; may be repeated."),
    ] = None,
) -> None:
    """Collect the questions of pre-training that a data set lacks, to fine-tune on beside its own.

    Ids of images are as the pre-training files have them: train with the region files of all of them.
    """
    from lxmert_fast.data.answers import AnswerMap
    from lxmert_fast.data.augmentation import augment as write

    done = write(aggregated, AnswerMap.from_files(None, answers), known or [], out)
    typer.echo(
        f"{out}: {done.added:,} questions; {done.there:,} were there already, {done.unanswerable:,} have no "
        "answer in the list"
    )
