"""A question-answering model over a data set, batch by batch, and its scores on labelled questions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from transformers import PreTrainedModel

from lxmert_fast.answering import open_model_folder
from lxmert_fast.commands.progress import progress
from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.sharing import Runs
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.data.vqa import VqaDataset
from lxmert_fast.errors import InputError
from lxmert_fast.inputs import check_fits
from lxmert_fast.metrics.prediction_files import (
    FORMATS,
    check_answers,
    check_id,
    prepare_output,
    write_predictions,
)
from lxmert_fast.metrics.scores import Scores
from lxmert_fast.models import LxmertForQuestionAnswering

from .engine import pick_device
from .ranks import Ranks
from .ready import ready
from .streaming import best_answers, grouped_batches


@dataclass(frozen=True)
class Answers:
    """What a model answered to Q questions.

    `scores` (Q,) float32 in [0, 1] is the label's soft score of each answer, None for unlabelled
    questions: its mean is the VQA accuracy that the original reports (reference 4).
    """

    question_ids: list[int | str]
    answers: list[str]
    scores: np.ndarray | None
    answer_types: list[str]
    question_types: list[str]


def answer_questions(
    model: PreTrainedModel,
    dataset: VqaDataset,
    *,
    batch_size: int = 256,
    workers: int = 0,
    advance: Callable[[int], None] = lambda _: None,
    ranks: Ranks | None = None,
) -> Answers:
    """Run a question-answering model over a data set, without dropout; answers are in the data set's order.

    Questions of an image are answered together, so that it is read and encoded once. Several `ranks` share
    the questions, `batch_size` of them at a time, and all return all answers.
    """
    ranks = ranks or Ranks()
    batches = grouped_batches(Runs(dataset.images), batch_size, ranks)
    seen: list[np.ndarray] = []
    found = np.empty(len(dataset), np.int64)
    scores = np.empty(len(dataset), np.float32) if dataset.labelled else None
    for batch, best in best_answers(model, dataset, batches, workers=workers):
        rows = batch.extras["rows"]
        found[rows] = best
        if scores is not None:
            scores[rows] = batch.inputs["labels"].numpy()[np.arange(len(rows)), best]
        seen.append(rows)
        advance(len(best))
    mine = np.concatenate(seen)
    for rows, of_rank, score in ranks.gather((mine, found[mine], None if scores is None else scores[mine])):
        found[rows] = of_rank
        if scores is not None:
            scores[rows] = score
    answers = [dataset.answers.names[index] for index in found]
    return Answers(dataset.question_ids, answers, scores, dataset.answer_types, dataset.question_types)


def score_answers(answers: Answers) -> Scores:
    """Mean scores by kind.

    Raises:
        InputError: the questions have no labels.
    """
    if answers.scores is None:
        raise InputError("the questions have no labels, nothing can be scored; use `lxmert-fast predict`")
    return Scores.of(answers.scores, answers.answer_types, answers.question_types)


@dataclass(frozen=True)
class Evaluation:
    """Scores, and how many answers of the labels are not among the model's, which it cannot give."""

    scores: Scores
    unknown: int


def evaluate_files(
    model_folder: Path,
    questions: Path,
    regions: list[Path],
    *,
    batch_size: int = 256,
    device: str = "auto",
    blind: bool = False,
    compiled: bool = False,
    int8: bool = False,
    workers: int = 1,
    predictions: Path | None = None,
    form: Literal["vqa", "gqa", "nlvr"] = "vqa",
) -> Evaluation:
    """Score a fine-tuned model folder on a labelled question file; `blind` zeroes every region.

    `compiled` runs the encoders through `torch.compile`, `int8` with 8-bit products on the CPU, `workers`
    processes read ahead of the model; `predictions` gets the answers in the format `form` (reference 3.7).

    Raises:
        InputError: a file is missing or wrong, the questions have no labels, an image has no regions.
    """
    folder, model, text, names = load(model_folder, device, compiled, int8)
    with RegionStore(*regions) as store:
        check_fits(model.config, text, store, folder)
        # a label outside the map can only be answered wrongly: it scores 0, as on the server
        dataset = VqaDataset(questions, store, text, names, unknown_answers="ignore", blind=blind)
        if not dataset.labelled:
            raise InputError(
                f"{questions}: its questions have no labels, nothing can be scored; use `lxmert-fast predict`"
            )
        if predictions is not None:
            check_answers(names.names, FORMATS[form], folder)
            for question_id in dataset.question_ids:
                check_id(question_id, FORMATS[form], questions)
            prepare_output(predictions)
        with progress(questions.name, len(dataset), "questions") as advance:
            answers = answer_questions(
                model, dataset, batch_size=batch_size, workers=workers, advance=advance
            )
    if predictions is not None:
        rows = zip(answers.question_ids, answers.answers, strict=True)
        write_predictions(predictions, rows, FORMATS[form], questions)
    return Evaluation(score_answers(answers), dataset.unknown)


class Loaded(NamedTuple):
    """A model folder, ready to answer."""

    folder: Path
    model: LxmertForQuestionAnswering
    text: TextEncoder
    answers: AnswerMap


def load(folder: Path, device: str, compiled: bool, int8: bool) -> Loaded:
    """Open a model folder on a device ("auto", "cpu", "cuda:N"), compiled, or with 8-bit products.

    Raises:
        InputError: it is missing or wrong; 8-bit products on a GPU.
    """
    model, text, answers = open_model_folder(folder)
    return Loaded(folder, ready(model, pick_device(device), compiled=compiled, int8=int8), text, answers)
