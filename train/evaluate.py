"""Answers to a file of questions: their scores by kind, and the file that a test server takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.table import Table
from transformers import PreTrainedModel

from lxmert_fast.answering import open_model_folder
from lxmert_fast.commands.progress import progress
from lxmert_fast.compiled import compile_model
from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.data.batches import EpochBatches, make_loader
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.sharing import Runs
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.data.vqa import VqaDataset
from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_text
from lxmert_fast.inputs import check_fits
from lxmert_fast.int8 import quantize
from lxmert_fast.models import LxmertForQuestionAnswering

from .engine import pick_device, to_device
from .ranks import Ranks
from .stop import leave_signals_to_the_trainer


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


@dataclass(frozen=True)
class Scores:
    """Mean scores in [0, 1]: of all questions and of each kind, with how many there are."""

    overall: float
    count: int
    by_answer_type: dict[str, tuple[float, int]]
    by_question_type: dict[str, tuple[float, int]]


@torch.no_grad()  # not inference mode: weights that ZeRO 3 gathers in it could not be trained afterwards
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
    model.eval()
    ranks = ranks or Ranks()
    batches = EpochBatches(
        len(dataset),
        max(batch_size, ranks.size),
        seed=0,
        shuffle=False,
        drop_last=False,
        runs=Runs(dataset.images),
        rank=ranks.rank,
        num_ranks=ranks.size,
    )
    seen: list[np.ndarray] = []
    found = np.empty(len(dataset), np.int64)
    scores = np.empty(len(dataset), np.float32) if dataset.labelled else None
    loader = make_loader(dataset, batches, num_workers=workers, start_worker=leave_signals_to_the_trainer)
    for batch in loader:
        inputs = {key: value for key, value in batch.inputs.items() if key != "labels"}
        output = model(**to_device(inputs, model.device))
        best = output.question_answering_score.argmax(-1).cpu()
        rows = batch.extras["rows"]
        found[rows] = best.numpy()
        if scores is not None:
            scores[rows] = batch.inputs["labels"].gather(1, best[:, None]).squeeze(1).numpy()
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
    return Scores(
        float(answers.scores.mean()),
        len(answers.scores),
        _means(answers.scores, answers.answer_types),
        _means(answers.scores, answers.question_types),
    )


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
) -> Scores:
    """Score a fine-tuned model folder on a labelled question file; `blind` zeroes every region.

    `compiled` runs the encoders through `torch.compile`, `int8` with 8-bit products on the CPU.

    Raises:
        InputError: a file is missing or wrong, or the questions have no labels.
    """
    loaded = _load(model_folder, device, compiled, int8)
    return score_answers(_answer_files(loaded, questions, regions, batch_size, blind))


def predict_files(
    model_folder: Path,
    questions: Path,
    out: Path,
    regions: list[Path],
    *,
    batch_size: int = 256,
    device: str = "auto",
    compiled: bool = False,
    int8: bool = False,
) -> int:
    """Answer a question file into `out`, the JSON list of the VQA server (reference 3.7), written whole.

    Returns:
        The number of answers.

    Raises:
        InputError: a file is missing or wrong.
    """
    loaded = _load(model_folder, device, compiled, int8)
    answers = _answer_files(loaded, questions, regions, batch_size, blind=False)
    rows = [
        {"answer": answer, "question_id": question_id}
        for answer, question_id in zip(answers.answers, answers.question_ids, strict=True)
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rows, sort_keys=True, indent=4)
    replace_text(out, text)
    return len(rows)


def score_table(scores: Scores) -> Table:
    """Scores as a table for people, in percent."""
    table = Table("questions", "count", "score %")
    table.add_row("all", f"{scores.count:,}", f"{100 * scores.overall:.2f}")
    for title, kinds in (("answer", scores.by_answer_type), ("question", scores.by_question_type)):
        for kind, (score, count) in sorted(kinds.items()):
            table.add_row(f"{title}: {kind}", f"{count:,}", f"{100 * score:.2f}")
    return table


class _Loaded(NamedTuple):
    """A model folder, ready to answer."""

    folder: Path
    model: LxmertForQuestionAnswering
    text: TextEncoder
    answers: AnswerMap


def _load(folder: Path, device: str, compiled: bool, int8: bool) -> _Loaded:
    model, text, answers = open_model_folder(folder)
    where = pick_device(device)
    if int8:
        if where.type != "cpu":
            raise InputError(f"8-bit products are for the CPU, the device is {where}: use --device cpu")
        model = quantize(model)
    model.to(where)  # type: ignore[arg-type]
    return _Loaded(folder, compile_model(model) if compiled else model, text, answers)


def _answer_files(
    loaded: _Loaded, questions: Path, regions: list[Path], batch_size: int, blind: bool
) -> Answers:
    folder, model, text, answers = loaded
    with RegionStore(*regions) as store:
        check_fits(model.config, text, store, folder)
        # a label outside the map can only be answered wrongly: it scores 0, as on the server
        dataset = VqaDataset(questions, store, text, answers, unknown_answers="ignore", blind=blind)
        with progress(f"{questions.name}", len(dataset), "questions") as advance:
            return answer_questions(model, dataset, batch_size=batch_size, advance=advance)


def _means(scores: np.ndarray, kinds: list[Any]) -> dict[str, tuple[float, int]]:
    names, which = np.unique(np.array(kinds, dtype=str), return_inverse=True)
    counts = np.bincount(which)
    means = np.bincount(which, scores) / counts
    return {
        str(name): (float(mean), int(count))
        for name, mean, count in zip(names, means, counts, strict=True)
        if name
    }
