"""PyPI's `easy_vqa` as a data-set folder: one coloured shape a picture, 48,248 questions."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lxmert_fast.data.aggregate import aggregate
from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.data.json_writing import write_entries
from lxmert_fast.data.vqa import Question
from lxmert_fast.errors import InputError


def export(folder: str | Path, *, copy_images: bool = False) -> dict[str, Path]:
    """Write train.json (38,575 questions), test.json (9,673) and the map of 13 answers.

    The pictures stay in the installed package, or are copied to `images/` under their ids. The package
    numbers train and test pictures alike, so image ids are "train_<n>" and "test_<n>".

    Returns:
        image id to picture, training pictures first.

    Raises:
        InputError: the package is not installed.
    """
    try:
        import easy_vqa
    except ImportError:
        raise InputError("the package easy-vqa is not installed: pip install 'lxmert-fast[demo]'") from None
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror or error}") from None
    answers = AnswerMap(sorted(easy_vqa.get_answers()), source="easy-vqa")
    splits = {
        "train": (easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths()),
        "test": (easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths()),
    }
    pictures: dict[str, Path] = {}
    for split, (questions, paths) in splits.items():
        pictures |= {f"{split}_{number}": Path(path) for number, path in sorted(paths.items())}
        entries = [
            {
                "question_id": f"{split}_{index}",
                "img_id": f"{split}_{image}",
                "sent": sentence,
                "label": {answer: 1.0},
                "answer_type": answer_type(sentence, answer),
                "question_type": " ".join(sentence.split()[:2]),
            }
            for index, (sentence, answer, image) in enumerate(zip(*questions, strict=True))
        ]
        write_entries(folder / f"{split}.json", entries)
    answers.save(folder)
    if copy_images:
        (folder / "images").mkdir(exist_ok=True)
        for image_id, path in pictures.items():
            shutil.copyfile(path, folder / "images" / f"{image_id}{path.suffix}")
    return pictures


def answer_type(sentence: str, answer: str) -> str:
    """ "yes/no", "color" or "shape": what kind of answer a question of this data set has."""
    if answer in ("yes", "no"):
        return "yes/no"
    return "color" if "color" in sentence else "shape"


def pretraining_entries(questions: Iterable[Question]) -> list[dict[str, Any]]:
    """Labelled questions in the aggregated pre-training format (reference 3.3).

    Category "vqa" holds the questions with their labels. Category "statement", unlabelled, holds each
    question followed by its best answer, "what color is the circle? blue": the stand-in for captions. A
    question alone fits many pictures, a statement does not, and so matching sentences with images and
    guessing hidden words from the image become learnable.

    Raises:
        InputError: a question without label.
    """
    questions = list(questions)
    statements = (
        (question.image_id, f"{question.sentence} {max(question.label, key=question.label.__getitem__)}")
        for question in questions
        if question.label
    )
    return aggregate({"vqa": questions}, {"statement": statements})
