"""A question file of any length, answered image by image: an index in memory, the questions on the disk.

A first pass checks the file and keeps 12 bytes a question: where it begins (8) and the row of its image (4),
50 MB for the 4.2 million questions of GQA's submission, and 8 more while ids are compared. Batches then read
their questions where they stand, so the memory does not grow with the texts, the ids or the answers.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from lxmert_fast.data.batches import Batch, BatchKey
from lxmert_fast.data.json_list import decode_entry, read_entries, read_entries_at
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.data.vqa import ImageRows, Question, parse_question, shared_regions, shared_words
from lxmert_fast.errors import InputError


class QuestionIndex(Dataset):
    """N questions about images; `dataset[BatchKey]` is a `Batch` without labels, inputs as `VqaDataset`'s.

    Args:
        path: a question file in the VQA JSON format; labels are not looked at.
        store: regions of its images.
        text: the model's vocabulary.

    `images` is (N,) int32, rows of the store; `number` the first question id that is a number, or None.

    Raises:
        InputError: a file that is not in the format, an id that occurs twice, an image without regions; while
            batches are made, a file that changes.
    """

    def __init__(self, path: str | Path, store: RegionStore, text: TextEncoder) -> None:
        self.path = Path(path)
        self.store = store
        self.text = text
        self.number: int | None = None
        images, starts, hashes = ImageRows(store), array("q"), array("q")
        for place, entry, start in read_entries_at(path):
            question = parse_question(place, entry)
            images.add(question, path)
            if self.number is None and isinstance(question.question_id, int):
                self.number = question.question_id
            starts.append(start)
            hashes.append(hash(question.question_id))
        starts.append(self.path.stat().st_size)
        self._starts = np.array(starts, np.int64)
        self._require_distinct(np.array(hashes, np.int64))
        self.images = images.rows()

    def __len__(self) -> int:
        """Questions, not batches."""
        return len(self._starts) - 1

    def __getitem__(self, key: BatchKey) -> Batch:
        asked = self.questions(key.rows)
        sentences = self.text.encode_ragged([question.sentence for question in asked])
        inputs = shared_words(sentences, sentences.first_equal(), self.text)
        inputs |= shared_regions(self.store, self.images[key.rows])
        return Batch(inputs, [str(question.question_id) for question in asked], {"rows": key.rows})

    def questions(self, rows: np.ndarray) -> list[Question]:
        """The questions of `rows` (B,), read from the disk."""
        found = []
        with self.path.open("rb") as file:
            for row in rows:
                start, end = self._starts[row], self._starts[row + 1]
                place = f"{self.path}: entry {row}"
                content = os.pread(file.fileno(), end - start, start)
                found.append(parse_question(place, decode_entry(content, place)))
        return found

    def ids(self) -> Iterator[int | str]:
        """N question ids in file order, read again."""
        return (entry["question_id"] for _, entry in read_entries(self.path))

    def _require_distinct(self, hashes: np.ndarray) -> None:
        """Ids of equal hash are read and compared, so that two different ones are never taken for one."""
        order = np.argsort(hashes, kind="stable")
        seen: dict[int | str, int] = {}
        same = hashes[order[1:]] == hashes[order[:-1]]
        rows = np.union1d(order[1:][same], order[:-1][same])
        for row, question in zip(rows, self.questions(rows), strict=True):
            first = seen.setdefault(question.question_id, row)
            if first != row:
                raise InputError(
                    f"{self.path}: entry {row}: question_id {question.question_id!r:.60} "
                    f"is also that of entry {first}"
                )
