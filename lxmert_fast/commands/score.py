"""`lxmert-fast score`: a prediction file as its task's official checker reads and scores it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(help="Score a prediction file as the task's official checker does.", no_args_is_help=True)

Predictions = Annotated[
    Path, typer.Argument(metavar="PREDICTIONS", help="As `lxmert-fast predict` writes it.")
]


@app.command()
def vqa(
    predictions: Predictions,
    questions: Annotated[Path, typer.Argument(metavar="QUESTIONS", help="v2_..._questions.json, official.")],
    annotations: Annotated[
        Path, typer.Argument(metavar="ANNOTATIONS", help="v2_..._annotations.json, official.")
    ],
) -> None:
    """VQA accuracy: against nine of the ten annotators in turn, by answer type and question type.

    PREDICTIONS answers exactly the questions of QUESTIONS, each once.
    """
    from rich.console import Console

    from lxmert_fast.metrics.scores import score_table
    from lxmert_fast.metrics.vqa import score_vqa

    scores = score_vqa(predictions, questions, annotations)
    Console().print(score_table(scores))
    if not scores.by_answer_type:
        typer.echo(f"{annotations}: has no answer types")
    if not scores.by_question_type:
        typer.echo(f"{annotations}: has no question types")


@app.command()
def gqa(
    predictions: Predictions,
    questions: Annotated[
        Path,
        typer.Argument(
            metavar="QUESTIONS",
            help="<split>_balanced_questions.json, official, or a folder of its parts.",
        ),
    ],
    all_questions: Annotated[
        Path | None,
        typer.Option(help="<split>_all_questions.json, or a folder of its parts: for consistency."),
    ] = None,
    choices: Annotated[
        Path | None, typer.Option(help="<split>_choices.json: for validity and plausibility.")
    ] = None,
) -> None:
    """Accuracy, by type and length, consistency, validity, plausibility and distribution.

    What wants a file that was not given is "-", and so is grounding, which wants a model's attention.
    """
    from rich.console import Console

    from lxmert_fast.metrics.gqa import gqa_table, score_gqa

    scores = score_gqa(predictions, questions, all_questions, choices)
    Console().print(gqa_table(scores))
    if scores.others:
        typer.echo(f"{predictions}: {scores.others:,} answers to other questions, not scored")


@app.command()
def labels(
    predictions: Predictions,
    questions: Annotated[
        Path, typer.Argument(metavar="QUESTIONS", help="Labelled questions in the VQA JSON format.")
    ],
    form: Annotated[Literal["vqa", "gqa"], typer.Option("--format", help="Of PREDICTIONS.")] = "vqa",
) -> None:
    """The figure that the original reports: the mean of the label's score of each answer."""
    from rich.console import Console

    from lxmert_fast.metrics.prediction_files import FORMATS, read_predictions
    from lxmert_fast.metrics.scores import score_table
    from lxmert_fast.metrics.vqa import soft_scores

    answers = read_predictions(predictions, FORMATS[form], any_id=form == "vqa")
    Console().print(score_table(soft_scores(answers, predictions, questions)))
