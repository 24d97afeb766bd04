"""The whole job on one small data set, from pictures to answers, in minutes on two cores.

    pictures -> regions -> pre-training (five tasks) -> fine-tuning -> test questions
                                           without it -> the same fine-tuning
                                          every region zeroed -> question-only

Everything it prints is also in `summary.json`. The data is PyPI's `easy-vqa`, or any folder in the generic
format (`lxmert_fast.data.vqa.VqaFolder`).
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from lxmert_fast.answering import LABEL2ANS, Answerer
from lxmert_fast.commands.progress import progress
from lxmert_fast.data import easyvqa
from lxmert_fast.data.grid import grid_regions, pictures_in
from lxmert_fast.data.text import learn_vocabulary
from lxmert_fast.data.vqa import Question, VqaFolder, read_questions
from lxmert_fast.errors import Diverged, InputError
from lxmert_fast.metrics.scores import Scores

from .config_files import CONFIGS, quoted
from .evaluate import Answers, evaluate_files, score_answers
from .figures import Look, plot_attention, plot_losses
from .predict import predict_files
from .pretraining import pretrain
from .settings import FinetuneSettings, PretrainSettings, load_settings
from .side_by_side import train_all

VOCABULARY_SIZE = 2000
GRID = 4
LOOKS = 4
PRETRAINING = "pretrain.json"
TASKS = {
    "mask_lm": "masked language modelling",
    "feat": "masked objects: feature regression",
    "obj": "masked objects: object label",
    "attr": "masked objects: attribute label",
    "matched": "cross-modality matching",
    "qa": "image question answering",
}


def run_demo(output: Path, data: Path | None = None) -> dict[str, Any]:
    """Run every stage and write `summary.json`, predictions and two pictures under `output`.

    Args:
        output: folder of the run; stages that an earlier run finished are taken up where they stopped.
        data: a data-set folder in the generic format; None exports easy-vqa to `output/data`.

    Returns:
        The summary: test_accuracy, accuracy_without_pretraining, question_only_accuracy, majority_accuracy
        (shares in [0, 1]), losses (first and last by task), seconds (by stage).

    Raises:
        InputError: the folder or a file in it is not as it should be.
    """
    console = Console()
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        console.rule(name)
        began = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - began, 1)

    output.mkdir(parents=True, exist_ok=True)
    with stage("regions"):
        folder, pictures = _prepare(output, data)
    with stage("pre-training"):
        pretrained = pretrain(_pretrain_settings(output, folder))
    with stage("three fine-tunings, two at a time"):
        start = output / "pretrained/best"
        _finetune_all(
            {
                "fine-tuning": _finetune_settings(output / "finetuned", folder, start),
                "without pre-training": _finetune_settings(output / "scratch", folder, None),
                "question only": _finetune_settings(
                    output / "blind", folder, None, "data.blind=true", "optimisation.epochs=1"
                ),
            },
            seconds,
        )
    with stage("test"):
        test, regions = folder.test, [folder.regions]
        columns = {
            "lxmert": evaluate_files(output / "finetuned/best", test, regions).scores,
            "no pre-training": evaluate_files(output / "scratch/best", test, regions).scores,
            "question only": evaluate_files(output / "blind/best", test, regions, blind=True).scores,
            "majority answer": _majority(folder),
        }
        predict_files(output / "finetuned/best", test, output / "predictions.json", regions)
    with stage("pictures"):
        runs = {"Pre-training": output / "pretrained", "Fine-tuning": output / "finetuned"}
        plot_losses(runs, output / "losses.png")
        looks = _looks(output / "finetuned/best", folder, pictures)
        if looks:
            plot_attention(looks, output / "attention.png")

    losses = {
        name: {"first": pretrained["first_losses"][name], "last": pretrained["last_losses"][name]}
        for name in pretrained["first_losses"]
    }
    summary = {
        "test_accuracy": columns["lxmert"].overall,
        "accuracy_without_pretraining": columns["no pre-training"].overall,
        "question_only_accuracy": columns["question only"].overall,
        "majority_accuracy": columns["majority answer"].overall,
        "losses": losses,
        "seconds": seconds,
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    console.print(_accuracy_table(columns))
    console.print(_loss_table(losses))
    console.print("seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()))
    written = ", ".join(sorted(path.name for path in output.glob("*.*") if path.is_file()))
    console.print(f"written under {output}: {written}")
    return summary


def _prepare(output: Path, data: Path | None) -> tuple[VqaFolder, dict[str, Path]]:
    """Make whatever the data-set folder lacks: regions, vocabulary, pre-training file."""
    if data is None:
        folder = VqaFolder(output / "data")
        pictures = easyvqa.export(folder.path)
        made = folder.path
    else:
        folder = VqaFolder(data)
        pictures = pictures_in(folder.images) if folder.images.is_dir() else {}
        made = output / "data"
        made.mkdir(parents=True, exist_ok=True)
    questions = read_questions(folder.train)
    read_questions(folder.test)
    if not folder.regions.is_file():
        if not pictures:
            raise InputError(f"{folder.path}: neither regions.h5 nor images/ in it, wanted one of them")
        with progress("Regions", len(pictures)) as advance:
            grid_regions(pictures, folder.regions, GRID, GRID, progress=advance)
    if not folder.vocabulary.is_file():
        sentences = (f"{question.sentence} {' '.join(question.label or {})}" for question in questions)
        learn_vocabulary(sentences, folder.vocabulary, VOCABULARY_SIZE)
    entries = easyvqa.pretraining_entries(questions)
    (made / PRETRAINING).write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    folder.answers().save(made)
    return folder, pictures


def _pretrain_settings(output: Path, folder: VqaFolder) -> PretrainSettings:
    made = output / "data"
    return load_settings(
        PretrainSettings,
        CONFIGS / "easyvqa_pretrain.yaml",
        [
            f"data.train=[{quoted(made / PRETRAINING)}]",
            f"data.regions=[{quoted(folder.regions)}]",
            f"data.vocabulary={quoted(folder.vocabulary)}",
            f"data.answers={quoted(made / LABEL2ANS)}",
            f"run.output={quoted(output / 'pretrained')}",
        ],
    )


def _finetune_settings(run: Path, folder: VqaFolder, start_from: Path | None, *more: str) -> FinetuneSettings:
    start = [f"model.start_from={quoted(start_from)}"] if start_from else []
    overrides = [f"data.folder={quoted(folder.path)}", f"run.output={quoted(run)}", *start, *more]
    return load_settings(FinetuneSettings, CONFIGS / "easyvqa.yaml", overrides)


def _finetune_all(jobs: dict[str, FinetuneSettings], seconds: dict[str, float]) -> None:
    """Two at a time; their seconds go into `seconds`."""

    def done(name: str, summary: dict[str, Any]) -> None:
        if "problem" in summary:
            raise Diverged(summary["problem"])
        seconds[name] = round(summary["seconds"], 1)

    if signal := train_all(jobs, 2, done):
        raise InputError(f"stopped by {signal}; the same command goes on")


def _majority(folder: VqaFolder) -> Scores:
    """What always giving the commonest training answer scores, the commonest overall."""
    counts: Counter[str] = Counter()
    for question in read_questions(folder.train):
        counts.update(question.label or {})
    best = max(counts, key=lambda answer: counts[answer])
    test = read_questions(folder.test)
    return score_answers(
        Answers(
            [question.question_id for question in test],
            [best] * len(test),
            np.array([(question.label or {}).get(best, 0.0) for question in test], np.float32),
            [question.answer_type for question in test],
            [question.question_type for question in test],
        )
    )


def _looks(model: Path, folder: VqaFolder, pictures: dict[str, Path]) -> list[Look]:
    """The first test question of each answer type, on different pictures that can be shown."""
    answerer = Answerer.from_pretrained(model, folder.regions)
    chosen: dict[str, Question] = {}
    for question in read_questions(folder.test):
        shown = {other.image_id for other in chosen.values()}
        if question.image_id in pictures and question.image_id not in shown:
            chosen.setdefault(question.answer_type + question.question_type, question)
        if len(chosen) == LOOKS:
            break
    looks = []
    for question in chosen.values():
        words, attention = answerer.attention(question.sentence, question.image_id)
        label = question.label or {}
        with Image.open(pictures[question.image_id]) as picture:
            looks.append(
                Look(
                    np.asarray(picture.convert("RGB")),
                    question.sentence,
                    answerer(question.sentence, question.image_id)[0].text,
                    max(label, key=lambda answer: label[answer], default=""),
                    words,
                    attention,
                    answerer.regions[question.image_id].boxes[0],
                )
            )
    return looks


def _accuracy_table(columns: dict[str, Scores]) -> Table:
    """Percent right by kind of question, a column a model."""
    table = Table("test questions", "count", *columns, title="Test accuracy, %")
    scores = list(columns.values())
    table.add_row("all", f"{scores[0].count:,}", *(f"{100 * score.overall:.2f}" for score in scores))
    for kind in ("by_answer_type", "by_question_type"):
        for name, (_, count) in sorted(getattr(scores[0], kind).items()):
            cells = (f"{100 * getattr(score, kind)[name][0]:.2f}" for score in scores)
            table.add_row(name, f"{count:,}", *cells)
    return table


def _loss_table(losses: dict[str, dict[str, float]]) -> Table:
    table = Table("pre-training loss", "first", "last")
    for name, value in losses.items():
        table.add_row(TASKS.get(name, name), f"{value['first']:.4f}", f"{value['last']:.4f}")
    return table
