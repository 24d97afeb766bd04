"""Pre-training batches with the original's exact semantics (paper section 3.1, reference 2.1 to 2.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from lxmert_fast.data.batches import Batch, BatchKey, on_arrival
from lxmert_fast.data.examples import Examples
from lxmert_fast.data.masking import IGNORE, HiddenObjects, mask_objects, mask_words
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.sharing import distinct
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.errors import InputError

MISMATCH_RATE = 0.5


class PretrainingDataset(Dataset):
    """Batches of the five tasks; `dataset[BatchKey]` is a `Batch`.

    For each example, in this order: with probability 1/2 its sentence is replaced by a random example's of
    another image (uniform over sentences); words and objects are hidden (`masking`); one of its answers is
    drawn in proportion to its score. A replaced sentence has no answer, but its words and the image's
    objects are predicted all the same.

    Args:
        examples: of one or several files.
        store: their regions.
        text: the vocabulary they were read with.
        seed: every draw comes from (seed, epoch, step).
        word_mask_rate, object_mask_rate: the paper's 0.15.
        match: replace sentences; off only where the matching task is off.
        label_masked_only: object and attribute labels count on masked objects only (the paper) and not on
            all objects (the original's code).
        answer_from_epoch: epochs before this one have no answers (the paper's first phase).
        random_from: random object features come from these examples; the training set's, in validation.
        trim: cut T to the longest sentence of the batch; padding is never a key, so losses stay the same.
        share_images: where images repeat in a batch, each stands in it once, and all its pairs see the same
            of its objects hidden. An object is hidden as often as without; two pairs of an image are not
            independent. Sentences, words and answers are drawn for each pair all the same.

    Inputs: input_ids, attention_mask, labels (B, T), visual_feats (B, O, F) in the store's dtype,
    visual_pos (B, O, 4), visual_attention_mask (B, O) only where box counts differ, obj_labels,
    matched_label (B,), 1 for a matched pair, absent without `match`; ans (B,). Ignored labels are -100.
    With shared images I stands for B in whatever is about objects, obj_labels too, beside image_index (B,).
    Extras: "matched" (B,) bool, "categories" (B names) and "answers", the labels of matched pairs as three
    flat tensors (pair, class, score), from which accuracy is counted on pairs that have an answer: the
    original's log counts replaced ones too, which halves it.

    Raises:
        InputError: all examples are of one image, so no sentence can be replaced.
    """

    def __init__(
        self,
        examples: Examples,
        store: RegionStore,
        text: TextEncoder,
        *,
        seed: int,
        word_mask_rate: float = 0.15,
        object_mask_rate: float = 0.15,
        match: bool = True,
        label_masked_only: bool = False,
        answer_from_epoch: int = 0,
        random_from: Examples | None = None,
        trim: bool = True,
        share_images: bool = False,
    ) -> None:
        if match and (examples.images == examples.images[0]).all():
            raise InputError(
                f"all {len(examples)} examples are of image {store.image_ids[examples.images[0]]!r}: "
                "a sentence can't be replaced by that of another image"
            )
        self.examples = examples
        self.store = store
        self.text = text
        self.seed = seed
        self.word_mask_rate = word_mask_rate
        self.object_mask_rate = object_mask_rate
        self.match = match
        self.label_masked_only = label_masked_only
        self.answer_from_epoch = answer_from_epoch
        self.random_from = random_from or examples
        self.trim = trim
        self.share_images = share_images

    def __len__(self) -> int:
        """Examples, not batches."""
        return len(self.examples)

    def __getitem__(self, key: BatchKey) -> Batch:
        rng = np.random.default_rng([self.seed, key.epoch, key.step])
        rows = key.rows
        sentence_rows, matched = self._match(rows, rng)
        ids, mask, labels = self._words(sentence_rows, rng)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        inputs |= self._objects(rows, rng)
        answer, flat_answers = self._answers(rows, matched, key.epoch, rng)
        inputs["ans"] = answer
        if self.match:
            inputs["matched_label"] = torch.from_numpy(matched.astype(np.int64))
        image_ids = self.store.image_ids
        names = self.examples.category_names
        extras = {
            "matched": matched,
            "categories": [names[c] for c in self.examples.categories[rows]],
            "answers": flat_answers,
        }
        return Batch(inputs, [self.examples.name(row, image_ids) for row in rows], extras)

    def _match(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Whose sentence each pair reads, and whether it is its own."""
        if not self.match:
            return rows, np.ones(len(rows), bool)
        matched = rng.random(len(rows)) >= MISMATCH_RATE
        sentence_rows = rows.copy()
        images = self.examples.images
        again = np.flatnonzero(~matched)
        while len(again):
            sentence_rows[again] = rng.integers(len(self.examples), size=len(again))
            again = again[images[sentence_rows[again]] == images[rows[again]]]
        return sentence_rows, matched

    def _words(self, rows: np.ndarray, rng: np.random.Generator) -> Sequence[torch.Tensor]:
        sentences = self.examples.sentences
        lengths = sentences.lengths(rows)
        ids, real = sentences.padded(rows, self.text.max_length, self.text.pad_id)
        position = np.arange(self.text.max_length)
        inner = (position > 0) & (position < lengths[:, None] - 1)
        masked, labels = mask_words(
            ids,
            inner,
            rng,
            rate=self.word_mask_rate,
            mask_id=self.text.mask_id,
            vocab_size=self.text.vocab_size,
        )
        # cut after the draws, so that they are the same with and without
        width = int(lengths.max()) if self.trim else self.text.max_length
        parts = (masked, real.astype(np.int64), labels)
        return [torch.from_numpy(np.ascontiguousarray(part[:, :width])) for part in parts]

    def _objects(self, rows: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
        images, which = self.examples.images[rows], None
        if self.share_images:
            images, which = distinct(images)
        regions = self.store.read(images)
        hidden = mask_objects(
            regions.counts,
            regions.features.shape[1],
            rng,
            rate=self.object_mask_rate,
            random_features=self._random_features,
        )
        features, chosen = torch.from_numpy(regions.features), hidden.chosen.astype(np.float32)
        weight = chosen if self.label_masked_only else np.float32(1)
        inputs: dict[str, Any] = {
            "visual_feats": on_arrival(_hide, hidden, features),
            "visual_pos": torch.from_numpy(regions.boxes),
            "obj_labels": {
                "obj": _pair(regions.object_ids, regions.object_confidences * weight),
                "attr": _pair(regions.attribute_ids, regions.attribute_confidences * weight),
                "feat": (features, torch.from_numpy(chosen)),
            },
        }
        if which is not None:
            inputs["image_index"] = torch.from_numpy(which)
        if regions.mask is not None:
            inputs["visual_attention_mask"] = torch.from_numpy(regions.mask)
        return inputs

    def _random_features(self, rng: np.random.Generator, number: int) -> np.ndarray:
        """Features of random boxes of random examples' images: (number, F)."""
        images = self.random_from.images[rng.integers(len(self.random_from), size=number)]
        boxes = (rng.random(number) * self.store.counts[images]).astype(np.int64)
        return self.store.features_at(images, boxes)

    def _answers(
        self, rows: np.ndarray, matched: np.ndarray, epoch: int, rng: np.random.Generator
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """One drawn answer a pair, -100 for none, and all answers of the matched pairs."""
        answers = self.examples.answers
        places, offsets = answers.positions(rows)
        pairs = np.repeat(np.arange(len(rows)), np.diff(offsets))
        if epoch < self.answer_from_epoch:
            matched = np.zeros_like(matched)
        kept = matched[pairs]
        pairs, places = pairs[kept], places[kept]
        classes, scores = answers.values[places].astype(np.int64), self.examples.scores[places]
        # the largest of log score + Gumbel noise falls on an answer with probability score / sum of scores
        noisy = np.log(scores) + rng.gumbel(size=len(scores))
        order = np.lexsort((noisy, pairs))
        drawn = np.full(len(rows), IGNORE, np.int64)
        drawn[pairs[order]] = classes[order]
        flat = (torch.from_numpy(pairs), torch.from_numpy(classes), torch.from_numpy(scores))
        return torch.from_numpy(drawn), flat


def _hide(hidden: HiddenObjects, features: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(hidden.hide(features.numpy()))


def _pair(target: np.ndarray, confidence: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(target), torch.from_numpy(confidence)
