"""The aggregated pre-training files as compact arrays (format: reference 3.3; paper table 1).

    [{"img_id": "COCO_...",
      "sentf": {"mscoco": ["a cat.", ...], "vqa": ["is it a dog?", ...]},
      "labelf": {"vqa": [{"no": 1}, ...]}}, ...]

Every sentence of every category is an example. An example costs 2 bytes a token, 8 an answer and 25 beside:
about 53 for a caption, half a gigabyte for the paper's 9.18 million, shared by all forked workers.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lxmert_fast.data.first_images import of_first_images
from lxmert_fast.data.json_list import label_of, read_entries, shown, text_of
from lxmert_fast.data.ragged import Ragged
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.errors import InputError

# Sentences tokenised in one call: enough to keep every core busy, little enough to stay small in memory.
_CHUNK = 50_000

# A smaller score would be zero in float32, and an answer of score zero can't be drawn.
_NO_SCORE = float(np.finfo(np.float32).tiny)


class SelectsAnswers(Protocol):
    """An `AnswerTable` or an `AnswerMap`."""

    names: list[str]

    def select(self, label: dict[str, float]) -> dict[int, float]:
        """{class: score} of a label {answer: score}; unknown answers are dropped."""
        ...


@dataclass(frozen=True)
class Examples:
    """N sentence-image pairs."""

    sentences: Ragged
    """Token ids with [CLS] and [SEP], unpadded."""
    images: np.ndarray
    """(N,) int32 rows of the region store."""
    categories: np.ndarray
    """(N,) uint8 indices into `category_names`."""
    numbers: np.ndarray
    """(N,) int32, which sentence of its image and category."""
    answers: Ragged
    """int32 answer classes; none for an unlabelled sentence."""
    scores: np.ndarray
    """float32, one per entry of `answers.values`."""
    category_names: list[str]
    dropped_images: int
    """Images of the files that the region store does not hold."""

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        ragged = (part for rows in (self.sentences, self.answers) for part in (rows.values, rows.offsets))
        return sum(part.nbytes for part in (self.images, self.categories, self.numbers, self.scores, *ragged))

    def __len__(self) -> int:
        return len(self.images)

    def name(self, row: int, image_ids: Sequence[str]) -> str:
        """The original's name of an example: image, category and number."""
        category = self.category_names[self.categories[row]]
        return f"{image_ids[self.images[row]]}_{category}_{self.numbers[row]:03d}"


def read_examples(
    paths: Sequence[str | Path],
    store: RegionStore,
    text: TextEncoder,
    answers: SelectsAnswers,
    images_per_file: int | None = None,
) -> Examples:
    """Read aggregated JSON files against a region store, a vocabulary and an answer table.

    As in the original, images without regions are left out (their number is kept), nothing is deduplicated,
    and answers outside the table are dropped. `images_per_file` keeps the first so many images of each file.

    Raises:
        InputError: a file or an entry that is not in the format, or no example left.
    """
    categories: dict[str, int] = {}
    known_labels: dict[tuple, dict[int, float]] = {}
    sentences: list[Ragged] = []
    waiting: list[str] = []
    images, category_of, numbers = array("i"), array("i"), array("i")
    label_ids, label_scores, label_ends = array("i"), array("f"), array("q", [0])
    dropped = 0
    for path in paths:
        for entry in of_first_images(read_sentences(path), images_per_file):
            if entry.image_id not in store:
                dropped += 1
                continue
            row = store.row(entry.image_id)
            for name, texts in entry.sentences.items():
                category = categories.setdefault(name, len(categories))
                waiting.extend(texts)
                images.extend([row] * len(texts))
                category_of.extend([category] * len(texts))
                numbers.extend(range(len(texts)))
                for label in entry.labels.get(name, [{}] * len(texts)):
                    key = tuple(label.items())
                    if key not in known_labels:
                        selected = answers.select(label)
                        known_labels[key] = {a: score for a, score in selected.items() if score > _NO_SCORE}
                    label_ids.extend(known_labels[key])
                    label_scores.extend(known_labels[key].values())
                    label_ends.append(len(label_ids))
            if len(waiting) >= _CHUNK:
                sentences.append(text.encode_ragged(waiting))
                waiting = []
    if waiting:
        sentences.append(text.encode_ragged(waiting))
    if not images:
        names = ", ".join(str(path) for path in paths)
        stores = ", ".join(str(path) for path in store.paths)
        raise InputError(f"{names}: no example left: {dropped} of its images are not in {stores}")
    if len(categories) > 256:
        raise InputError(f"{len(categories)} categories of sentences, wanted at most 256")
    return Examples(
        sentences=Ragged.concatenate(sentences),
        images=np.array(images, np.int32),
        categories=np.array(category_of, np.uint8),
        numbers=np.array(numbers, np.int32),
        answers=Ragged(np.array(label_ids, np.int32), np.array(label_ends, np.int64)),
        scores=np.array(label_scores, np.float32),
        category_names=list(categories),
        dropped_images=dropped,
    )


def labels_of(paths: Sequence[str | Path]) -> Iterator[dict[str, float]]:
    """Every label of the files, to build an answer map where there is no table."""
    for path in paths:
        for entry in read_sentences(path):
            for labels in entry.labels.values():
                yield from labels


@dataclass(frozen=True)
class ImageSentences:
    """One entry of an aggregated file: an image, its sentences by category, and labels parallel to them."""

    image_id: str
    sentences: dict[str, list[str]]
    labels: dict[str, list[dict[str, float]]]


def read_sentences(path: str | Path) -> Iterator[ImageSentences]:
    """The entries of an aggregated file, one at a time.

    Raises:
        InputError: a file or an entry that is not in the format, naming the entry and its image.
    """
    for place, entry in read_entries(path):
        yield parse_sentences(place, entry)


def parse_sentences(place: str, entry: dict[str, Any]) -> ImageSentences:
    """One entry, checked. `place` begins the line of the `InputError`."""
    image_id = text_of(entry.get("img_id"), place, "img_id")
    place = f"{place} (img_id {image_id!r:.60})"
    for key in ("sentf", "labelf"):
        value = entry.get(key)
        if not isinstance(value, dict) or not all(isinstance(item, list) for item in value.values()):
            raise InputError(f"{place}: {key}: found {shown(value)}, wanted {{category: [...]}}")
    sentf, labelf = entry["sentf"], entry["labelf"]
    for name, texts in sentf.items():
        text_of(name, place, "sentf")
        for number, sentence in enumerate(texts):
            text_of(sentence, place, f"sentf.{name}[{number}]")
    for name, labels in labelf.items():
        text_of(name, place, "labelf")
        sentences = len(sentf.get(name, ()))
        if len(labels) != sentences:
            raise InputError(
                f"{place}: labelf.{name}: found {len(labels)} labels, wanted {sentences}, "
                f"one a sentence of sentf.{name}"
            )
        for number, label in enumerate(labels):
            label_of(label, place, f"labelf.{name}[{number}]")
    return ImageSentences(image_id, sentf, labelf)
