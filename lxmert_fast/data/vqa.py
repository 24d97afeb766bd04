"""Question answering in the original's JSON (reference 3.4), and the folder a data set of one's own lives in.

    [{"question_id": 1, "img_id": "COCO_...", "sent": "what is it?", "label": {"cat": 1, "dog": 0.3}}, ...]

`question_id` is a number or a string and is kept as it is; files to be answered have no "label";
"answer_type" and "question_type" are optional and only group the scores.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.data.batches import Batch, BatchKey
from lxmert_fast.data.json_list import label_of, read_entries, shown, text_of
from lxmert_fast.data.ragged import Ragged
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.sharing import distinct
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.errors import InputError
from lxmert_fast.losses import IGNORE

# Questions tokenised in one call.
_CHUNK = 50_000


@dataclass(frozen=True, slots=True)
class Question:
    """One entry of a file."""

    question_id: int | str
    image_id: str
    sentence: str
    label: dict[str, float] | None
    """Answer to score in [0, 1]; None in a file to be answered."""
    answer_type: str
    question_type: str


def read_questions(path: str | Path) -> list[Question]:
    """A question file whole; raises like `iter_questions`."""
    return list(iter_questions(path))


def iter_questions(path: str | Path) -> Iterator[Question]:
    """The questions of a file, one at a time.

    Raises:
        InputError: a file or entry that is not in the format, a question id that occurs twice, labels on
            some questions and not on others.
    """
    seen = SeenQuestions()
    for place, entry in read_entries(path):
        question = parse_question(place, entry)
        seen.add(place, question)
        yield question


class SeenQuestions:
    """What the questions of one data set must agree on."""

    def __init__(self) -> None:
        self._entries: dict[int | str, str] = {}
        self._labelled: bool | None = None

    def add(self, place: str, question: Question) -> None:
        """Raise `InputError` for an id that was there before, or a label where there was none, or none."""
        first = self._entries.setdefault(question.question_id, place)
        if first != place:
            raise InputError(
                f"{place}: question_id {question.question_id!r:.60} is also that of "
                f"{first.rpartition(': ')[2]}"
            )
        labelled = question.label is not None
        if self._labelled is not None and labelled != self._labelled:
            differs = "a label, others have none" if labelled else "no label, others have one"
            raise InputError(
                f"{place} (question {question.question_id!r:.60}): {differs}; wanted labels on all or on none"
            )
        self._labelled = labelled


def parse_question(place: str, entry: dict[str, Any]) -> Question:
    """One entry, checked. `place` begins the line of the `InputError`."""
    question_id = entry.get("question_id")
    if isinstance(question_id, bool) or not isinstance(question_id, (int, str)):
        raise InputError(f"{place}: question_id: found {shown(question_id)}, wanted a number or string")
    if isinstance(question_id, str):
        text_of(question_id, place, "question_id")
    place = f"{place} (question {question_id!r:.60})"
    return Question(
        question_id,
        text_of(entry.get("img_id"), place, "img_id"),
        text_of(entry.get("sent"), place, "sent"),
        label_of(entry["label"], place, "label") if "label" in entry else None,
        text_of(entry.get("answer_type", ""), place, "answer_type"),
        text_of(entry.get("question_type", ""), place, "question_type"),
    )


class VqaDataset(Dataset):
    """Questions about images; `dataset[BatchKey]` is a `Batch`.

    Args:
        path: the question file.
        store: regions of its images.
        text: the model's vocabulary.
        answers: the model's answers.
        unknown_answers: an answer outside `answers` is an "error" (VQA's way) or left out ("ignore", GQA's).
        blind: zeros for regions, for the question-only model.
        best_answer: labels are the first best answer of each question, for a loss of one right answer.
        trim: cut T to the longest question of the batch; padding is never a key, so answers stay the same.

    Inputs: input_ids, attention_mask (B, T), visual_feats (B, O, F), visual_pos (B, O, 4); where questions
    of the same tokens repeat in the batch, each once, (S, T), with text_index (B,), and where images repeat
    likewise (I, O, F), (I, O, 4) with image_index (B,); visual_attention_mask where box counts differ;
    labels (B, A) float32 where the file has labels, with `best_answer` (B,) int64, -100 = no answer.
    Extras: "rows" (B,) int64 example numbers; "question_ids", "answer_types", "question_types" (B entries).

    Raises:
        InputError: a file that is not in the format, an image without regions, an answer outside the map.
    """

    def __init__(
        self,
        path: str | Path,
        store: RegionStore,
        text: TextEncoder,
        answers: AnswerMap,
        *,
        unknown_answers: Literal["error", "ignore"] = "error",
        blind: bool = False,
        best_answer: bool = False,
        trim: bool = True,
    ) -> None:
        self.store = store
        self.text = text
        self.answers = answers
        self.trim = trim
        self.blind = blind
        self.best_answer = best_answer
        self.labelled = False
        self.question_ids: list[int | str] = []
        self.answer_types: list[str] = []
        self.question_types: list[str] = []
        images, targets, scores, ends = array("q"), array("q"), array("f"), array("q", [0])
        sentences: list[Ragged] = []
        waiting: list[str] = []
        for question in iter_questions(path):
            self.labelled = question.label is not None
            self.question_ids.append(question.question_id)
            # a file has few kinds and many questions: one string object a kind
            self.answer_types.append(sys.intern(question.answer_type))
            self.question_types.append(sys.intern(question.question_type))
            images.append(image_row(store, question, path))
            label = question.label or {}
            if unknown_answers == "ignore":
                selected = answers.select(label)
            else:
                selected = {answers.index(name, path, question.question_id): label[name] for name in label}
            targets.extend(selected)
            scores.extend(selected.values())
            ends.append(len(targets))
            waiting.append(question.sentence)
            if len(waiting) == _CHUNK:
                sentences.append(text.encode_ragged(waiting))
                waiting = []
        sentences.append(text.encode_ragged(waiting))
        self.sentences = Ragged.concatenate(sentences)
        self._first_asked = self.sentences.first_equal()
        self.images = np.array(images, np.int64)
        self.targets = Ragged(np.array(targets, np.int64), np.array(ends, np.int64))
        self.scores = np.array(scores, np.float32)

    def __len__(self) -> int:
        """Questions, not batches."""
        return len(self.images)

    def __getitem__(self, key: BatchKey) -> Batch:
        rows = key.rows
        inputs: dict[str, Any] = self._words(rows)
        inputs |= self._darkness(len(rows)) if self.blind else self._regions(self.images[rows])
        if self.labelled:
            places, offsets = self.targets.positions(rows)
            labels = np.zeros((len(rows), len(self.answers)), np.float32)
            pairs = np.repeat(np.arange(len(rows)), np.diff(offsets))
            labels[pairs, self.targets.values[places]] = self.scores[places]
            if self.best_answer:
                best = np.where(labels.any(axis=1), labels.argmax(axis=1), IGNORE)
                inputs["labels"] = torch.from_numpy(best)
            else:
                inputs["labels"] = torch.from_numpy(labels)
        question_ids = [self.question_ids[row] for row in rows]
        extras = {
            "rows": rows,
            "question_ids": question_ids,
            "answer_types": [self.answer_types[row] for row in rows],
            "question_types": [self.question_types[row] for row in rows],
        }
        return Batch(inputs, [str(question_id) for question_id in question_ids], extras)

    def _words(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        sentences, which = distinct(self._first_asked[rows])
        width = int(self.sentences.lengths(sentences).max()) if self.trim else self.text.max_length
        ids, real = self.sentences.padded(sentences, width, self.text.pad_id)
        inputs = {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(real.astype(np.int64)),
        }
        if which is not None:
            inputs["text_index"] = torch.from_numpy(which)
        return inputs

    def _regions(self, images: np.ndarray) -> dict[str, torch.Tensor]:
        images, which = distinct(images)
        regions = self.store.read(images)
        inputs = {
            "visual_feats": torch.from_numpy(regions.features),
            "visual_pos": torch.from_numpy(regions.boxes),
        }
        if which is not None:
            inputs["image_index"] = torch.from_numpy(which)
        if regions.mask is not None:
            inputs["visual_attention_mask"] = torch.from_numpy(regions.mask)
        return inputs

    def _darkness(self, pairs: int) -> dict[str, torch.Tensor]:
        """One region of zeros for all pairs: attention to many equal regions is attention to one."""
        return {
            "visual_feats": torch.zeros(1, 1, self.store.feature_size),
            "visual_pos": torch.zeros(1, 1, 4),
            "image_index": torch.zeros(pairs, dtype=torch.int64),
        }


@dataclass(frozen=True)
class VqaFolder:
    """A data set of one's own, file by file.

    train.json, test.json    questions with labels (test.json may be called valid.json)
    regions.h5               regions of all their images, or
    images/                  the pictures themselves, named <img_id>.png, .jpg, ...
    vocab.txt                optional, a BERT vocabulary
    label2ans.json, ans2label.json   optional, the answers in order; the original's names
                             trainval_label2ans.json, trainval_ans2label.json do as well
    """

    path: Path

    @cached_property
    def train(self) -> Path:
        """Training questions."""
        return self._first("train.json")

    @cached_property
    def test(self) -> Path:
        """Questions to score on."""
        return self._first("test.json", "valid.json")

    @cached_property
    def valid(self) -> Path | None:
        """Questions to choose the best epoch by, where there are some; never those of the test."""
        return self._any("valid.json") if self._any("test.json") else None

    @property
    def images(self) -> Path:
        """The pictures, where there are any."""
        return self.path / "images"

    @property
    def regions(self) -> Path:
        """The region file, which may still have to be made from `images`."""
        return self.path / "regions.h5"

    @property
    def vocabulary(self) -> Path:
        """The vocabulary, which may still have to be learnt."""
        return self.path / "vocab.txt"

    def answers(self) -> AnswerMap:
        """The answers, from the folder's lists or else from the labels of the training questions."""
        given = self.given_answers()
        if given is not None:
            return given
        labels = (question.label or {} for question in iter_questions(self.train))
        return AnswerMap.from_labels(labels, source=self.train)

    def given_answers(self) -> AnswerMap | None:
        """The answers of the folder's lists, where it has them."""
        files = [self._any(f"{name}.json", f"trainval_{name}.json") for name in ("ans2label", "label2ans")]
        return AnswerMap.from_files(*files) if any(files) else None

    def _any(self, *names: str) -> Path | None:
        return next((self.path / name for name in names if (self.path / name).is_file()), None)

    def _first(self, *names: str) -> Path:
        found = self._any(*names)
        if found is None:
            raise InputError(f"{self.path}: no {' or '.join(names)} in it, wanted a data-set folder")
        return found


def image_row(store: RegionStore, question: Question, path: str | Path) -> int:
    """The row of a question's image. Raises `InputError` naming file, question, image and region files."""
    if question.image_id not in store:
        stores = ", ".join(str(file) for file in store.paths)
        raise InputError(
            f"{path}: question {question.question_id!r:.60}: "
            f"image {question.image_id!r:.60} is not in {stores}"
        )
    return store.row(question.image_id)
