"""Questions of other data sets as more training data of one: data augmentation (section 5.1, table 4).

They are the labelled sentences of pre-training's aggregated files (reference 3.3); labels keep the answers
of the data set that they are added to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lxmert_fast.data.answers import AnswerMap, normalise
from lxmert_fast.data.examples import read_sentences
from lxmert_fast.data.vqa import read_questions
from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_file, writing


@dataclass
class Augmentation:
    """What became of the labelled sentences of the aggregated files."""

    added: int = 0
    there: int = 0
    """The data set asks them about the same image already."""
    unanswerable: int = 0
    """Without an answer of the data set."""


def augment(aggregated: Sequence[Path], answers: AnswerMap, known: Sequence[Path], out: Path) -> Augmentation:
    """Write the questions that a data set lacks, in the VQA format, with ids such as "2375429_gqa_003".

    Args:
        aggregated: pre-training files; none of held-out images.
        answers: of the data set. An answer of another spelling counts where its normalised form is one.
        known: the data set's own question files.
        out: the file to train on beside `known`.

    Raises:
        InputError: a file that is missing or wrong, nothing to add, or `out` cannot be written.
    """
    asked = {(question.image_id, question.sentence) for path in known for question in read_questions(path)}
    done = Augmentation()

    def write(beside: Path) -> None:
        with beside.open("w", encoding="utf-8") as file:
            for entry in _entries(aggregated, answers, asked, done):
                file.write(",\n" if done.added else "[\n")
                json.dump(entry, file, ensure_ascii=False)
                done.added += 1
            if not done.added:
                names = ", ".join(map(str, aggregated))
                raise InputError(
                    f"{names}: no question to add: {done.there} are there already, {done.unanswerable} have "
                    f"no answer of {answers.source}"
                )
            file.write("\n]\n")

    with writing(out):
        replace_file(out, write)
    return done


def _entries(
    aggregated: Sequence[Path], answers: AnswerMap, asked: set[tuple[str, str]], done: Augmentation
) -> Iterator[dict[str, Any]]:
    for path in aggregated:
        for image in read_sentences(path):
            for category, labels in image.labels.items():
                for number, label in enumerate(labels):
                    sentence = image.sentences[category][number]
                    kept = _kept(label, answers)
                    if (image.image_id, sentence) in asked:
                        done.there += 1
                    elif not kept:
                        done.unanswerable += 1
                    else:
                        yield {
                            "question_id": f"{image.image_id}_{category}_{number:03d}",
                            "img_id": image.image_id,
                            "sent": sentence,
                            "label": kept,
                        }


def _kept(label: dict[str, float], answers: AnswerMap) -> dict[str, float]:
    found: dict[str, float] = {}
    for answer, score in label.items():
        name = answer if answer in answers else normalise(answer)
        if name in answers and score > 0:
            found[name] = max(score, found.get(name, 0.0))
    return found
