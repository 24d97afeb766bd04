"""NLVR2 in the original's JSON (reference 3.6): is a sentence true of two images?

    [{"identifier": "dev-850-0-0", "img0": "dev-850-0-img0", "img1": "dev-850-0-img1", "label": 0,
      "sent": "The right image shows ...", "uid": "nlvr2_valid_0"}, ...]

An identifier is split-set-pair-sentence; files to be answered have no "label".
`lxmert-fast data nlvr2` makes such a file of an official one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from lxmert_fast.data.batches import Batch, BatchKey
from lxmert_fast.data.json_list import read_entries, shown, text_of
from lxmert_fast.data.official.statements import NLVR2
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.data.vqa import shared_regions, shared_words
from lxmert_fast.errors import InputError


@dataclass(frozen=True, slots=True)
class ImagePair:
    """One entry of a file: a sentence and the two images it is about."""

    identifier: str
    uid: str
    image_ids: tuple[str, str]
    sentence: str
    label: int | None
    """1 = true, 0 = false; None in a file to be answered."""


def iter_pairs(path: str | Path, seen: SeenPairs | None = None) -> Iterator[tuple[str, ImagePair]]:
    """The entries of a file, each with the words that name its place in an error line.

    Args:
        seen: what was read before, of other files of the same data set.

    Raises:
        InputError: a file or entry that is not in the format, an identifier or uid that occurs twice, labels
            on some entries and not on others.
    """
    seen = seen or SeenPairs()
    for place, entry in read_entries(path):
        pair = parse_pair(place, entry)
        seen.add(place, pair)
        yield place, pair


class SeenPairs:
    """What the entries of one data set must agree on."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], str] = {}
        self._labelled: bool | None = None

    def add(self, place: str, pair: ImagePair) -> None:
        """Raise `InputError` for a name that was there before, or a label where there was none, or none."""
        for key, name in (("identifier", pair.identifier), ("uid", pair.uid)):
            before = self._first.setdefault((key, name), place)
            if before != place:
                raise InputError(f"{place}: {key} {name!r:.60} is also that of {before}")
        labelled = pair.label is not None
        if self._labelled not in (None, labelled):
            raise InputError(
                f"{place}: {'a' if labelled else 'no'} label, wanted labels on all entries or on none"
            )
        self._labelled = labelled


def parse_pair(place: str, entry: dict[str, Any]) -> ImagePair:
    """One entry, checked. `place` begins the line of the `InputError`."""
    identifier = text_of(entry.get("identifier"), place, "identifier")
    NLVR2.check(identifier, place)
    place = f"{place} ({identifier:.60})"
    images = sorted(key for key in entry if re.fullmatch(r"img\d+", key))
    if images != ["img0", "img1"]:
        raise InputError(
            f"{place}: found {', '.join(images) or 'no image'}, wanted two images, img0 and img1"
        )
    label = entry.get("label")
    if "label" in entry and (type(label) is not int or label not in (0, 1)):
        raise InputError(f"{place}: label: found {shown(label)}, wanted the number 0 or 1")
    return ImagePair(
        identifier,
        text_of(entry.get("uid"), place, "uid"),
        (text_of(entry["img0"], place, "img0"), text_of(entry["img1"], place, "img1")),
        text_of(entry.get("sent"), place, "sent"),
        label,
    )


class Nlvr2Dataset(Dataset):
    """Sentences about two images; `dataset[BatchKey]` is a `Batch` for `LxmertForImagePairs`.

    Args:
        paths: one or several of the original's JSON lists.
        store: regions of their images.
        text: the model's vocabulary.
        images_per_file: keep the sentences about the first so many images that a file names; None for all.
        trim: cut T to the longest sentence of the batch; padding is never a key, so answers stay the same.

    Inputs: input_ids, attention_mask (S, T) of the S distinct sentences of the batch, text_index (B,) where
    one repeats;
    visual_feats (I, O, F), visual_pos (I, O, 4) of its I distinct images, image_index (B, 2);
    visual_attention_mask (I, O) where box counts differ; labels (B,) int64 where the files have labels.
    Extras: "rows" (B,) int64 example numbers.

    Raises:
        InputError: a file that is not in the format, an image without regions.
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        store: RegionStore,
        text: TextEncoder,
        *,
        images_per_file: int | None = None,
        trim: bool = True,
    ) -> None:
        self.store = store
        self.text = text
        self.trim = trim
        self.left_out = 0
        """Sentences that `images_per_file` left out."""
        self.identifiers: list[str] = []
        images, labels, sentences = [], [], []
        seen = SeenPairs()
        for path in [paths] if isinstance(paths, (str, Path)) else paths:
            first: set[str] = set()
            for place, pair in iter_pairs(path, seen):
                if images_per_file is not None:
                    named = first.union(pair.image_ids)
                    if len(named) > images_per_file:
                        self.left_out += 1
                        continue
                    first = named
                images.append(_rows(store, place, pair))
                self.identifiers.append(pair.identifier)
                sentences.append(pair.sentence)
                labels.append(pair.label)
        self.labels = None if labels[0] is None else np.array(labels, np.int64)
        self.images = np.array(images, np.int64)
        self.sentences = text.encode_ragged(sentences)
        self.texts = self.sentences.first_equal()
        """(N,) int64, the first example of the same tokens."""
        self.groups = [NLVR2.group(identifier) for identifier in self.identifiers]
        """What consistency counts: a sentence with all its pairs of images."""
        sets = [identifier.rsplit("-", 2)[0] for identifier in self.identifiers]
        self.sets = np.unique(sets, return_inverse=True)[1]
        """(N,) the set of eight images that an example is from: what shares an image is in one."""

    @property
    def labelled(self) -> bool:
        return self.labels is not None

    def __len__(self) -> int:
        """Sentences with their two images, not batches."""
        return len(self.images)

    def __getitem__(self, key: BatchKey) -> Batch:
        rows = key.rows
        width = None if self.trim else self.text.max_length
        inputs = shared_words(self.sentences, self.texts[rows], self.text, width)
        inputs |= shared_regions(self.store, self.images[rows].ravel())
        # where no image repeats they stand in the order of the pairs
        index = inputs.get("image_index", torch.arange(2 * len(rows)))
        inputs["image_index"] = index.view(-1, 2)
        if self.labels is not None:
            inputs["labels"] = torch.from_numpy(self.labels[rows])
        return Batch(inputs, [self.identifiers[row] for row in rows], {"rows": rows})


def _rows(store: RegionStore, place: str, pair: ImagePair) -> list[int]:
    """The rows of its two images."""
    for side, image_id in enumerate(pair.image_ids):
        if image_id not in store:
            stores = ", ".join(str(file) for file in store.paths)
            raise InputError(
                f"{place} ({pair.identifier:.60}): img{side}: image {image_id!r:.60} is not in {stores}"
            )
    return [store.row(image_id) for image_id in pair.image_ids]
