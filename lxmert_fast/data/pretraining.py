"""Pre-training batches with the original's exact semantics (paper section 3.1, reference 2.1 to 2.4)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from lxmert_fast.data.batches import Batch, BatchKey, on_arrival
from lxmert_fast.data.draws import Purpose, below, uniforms
from lxmert_fast.data.elsewhere import Elsewhere
from lxmert_fast.data.examples import Examples
from lxmert_fast.data.masking import (
    IGNORE,
    OBJECT_DRAWS,
    WORD_DRAWS,
    HiddenObjects,
    mask_objects,
    mask_words,
)
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.sharing import stretches
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.errors import InputError
from lxmert_fast.pretraining_tasks import OBJECT_TASKS, TASKS

MISMATCH_RATE = 0.5
# one whether it is matched, one whose sentence replaces its own, one for its answer
_PAIR_DRAWS = 3


class PretrainingDataset(Dataset):
    """Batches of the five tasks; `dataset[BatchKey]` is a `Batch`.

    For each example: with probability 1/2 its sentence is replaced by a random example's of another image
    (uniform over sentences); words and objects are hidden (`masking`); one of its answers is drawn in
    proportion to its score. A replaced sentence has no answer, but its words and the image's objects are
    predicted all the same. All of this follows from the seed, the epoch and the example's place in the
    epoch's order (`draws`), so not from the batch it stands in.

    Args:
        examples: of one or several files.
        store: their regions.
        text: the vocabulary they were read with.
        seed: every draw comes from (seed, epoch, place).
        word_mask_rate, object_mask_rate: the paper's 0.15.
        tasks: labels are given for these (`lxmert_fast.pretraining_tasks`), and sentences replaced only where
            "matched" is one of them. Words and objects are hidden all the same, by their rates.
        label_masked_only: object and attribute labels count on masked objects only (the paper) and not on
            all objects (the original's code).
        answer_from_epoch: epochs before this one have no answers (the paper's first phase).
        random_from: random object features come from these examples; the training set's, in validation.
        trim: cut T to the longest sentence of the batch; padding is never a key, so losses stay the same.
        share_images: pairs of an image that are neighbours in the epoch's order share it: in a batch it
            stands once for them, with the same of its objects hidden, which follow from the place where
            they begin. Neighbours that a batch's end separates have the same hidden too, where the keys
            are those of `EpochBatches` with the images as its runs. An object is hidden as often as
            without; two neighbours are not independent. Sentences, words and answers are drawn for each
            pair all the same.

    Inputs: input_ids, attention_mask, labels (B, T), absent without "mask_lm"; visual_feats (B, O, F) in the
    store's dtype, visual_pos (B, O, 4), visual_attention_mask (B, O) only where box counts differ, obj_labels
    of the object heads that are tasks, absent without any; matched_label (B,), 1 for a matched pair, absent
    without "matched"; ans (B,), which nobody has without "qa". Ignored labels are -100.
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
        tasks: Collection[str] = TASKS,
        label_masked_only: bool = False,
        answer_from_epoch: int = 0,
        random_from: Examples | None = None,
        trim: bool = True,
        share_images: bool = False,
    ) -> None:
        match = "matched" in tasks
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
        self.tasks = frozenset(tasks)
        self.label_masked_only = label_masked_only
        self.answer_from_epoch = answer_from_epoch
        self.random_from = random_from or examples
        self.trim = trim
        self.share_images = share_images
        self._elsewhere = Elsewhere(examples.images) if match else None
        # not of the batch, or a draw would depend on who stands beside it
        self._max_objects = store.max_objects

    def __len__(self) -> int:
        """Examples, not batches."""
        return len(self.examples)

    def __getitem__(self, key: BatchKey) -> Batch:
        rows = key.rows
        draws = self._draws(Purpose.PAIRS, key, key.first, _PAIR_DRAWS)
        sentence_rows, matched = self._match(rows, draws)
        ids, mask, labels = self._words(sentence_rows, key)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if "mask_lm" in self.tasks:
            inputs["labels"] = labels
        inputs |= self._objects(key)
        answer, flat_answers = self._answers(rows, matched, key.epoch, draws[:, 2])
        inputs["ans"] = answer
        if "matched" in self.tasks:
            inputs["matched_label"] = torch.from_numpy(matched.astype(np.int64))
        image_ids = self.store.image_ids
        names = self.examples.category_names
        extras = {
            "matched": matched,
            "categories": [names[c] for c in self.examples.categories[rows]],
            "answers": flat_answers,
        }
        return Batch(inputs, [self.examples.name(row, image_ids) for row in rows], extras)

    def _draws(self, purpose: Purpose, key: BatchKey, first: int, *a_place: int) -> np.ndarray:
        """The rows of a table from place `first` to the batch's end."""
        places = key.first + len(key.rows) - first
        return uniforms(self.seed, key.epoch, purpose, first, (places, *a_place))

    def _match(self, rows: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whose sentence each pair reads, and whether it is its own."""
        if self._elsewhere is None:
            return rows, np.ones(len(rows), bool)
        matched = draws[:, 0] >= MISMATCH_RATE
        return np.where(matched, rows, self._elsewhere.draw(rows, draws[:, 1])), matched

    def _words(self, rows: np.ndarray, key: BatchKey) -> Sequence[torch.Tensor]:
        sentences = self.examples.sentences
        lengths = sentences.lengths(rows)
        ids, real = sentences.padded(rows, self.text.max_length, self.text.pad_id)
        position = np.arange(self.text.max_length)
        inner = (position > 0) & (position < lengths[:, None] - 1)
        masked, labels = mask_words(
            ids,
            inner,
            self._draws(Purpose.WORDS, key, key.first, self.text.max_length, WORD_DRAWS),
            rate=self.word_mask_rate,
            mask_id=self.text.mask_id,
            vocab_size=self.text.vocab_size,
        )
        # cut after the draws, so that they are the same with and without
        width = int(lengths.max()) if self.trim else self.text.max_length
        parts = (masked, real.astype(np.int64), labels)
        return [torch.from_numpy(np.ascontiguousarray(part[:, :width])) for part in parts]

    def _objects(self, key: BatchKey) -> dict[str, Any]:
        images, which = self.examples.images[key.rows], None
        starts = key.first + np.arange(len(key.rows))
        if self.share_images:
            run_start = key.first if key.run_start is None else key.run_start
            starts, which = stretches(images, key.first, run_start)
            images = images[np.maximum(starts - key.first, 0)]
        regions = self.store.read(images)
        draws = self._draws(Purpose.OBJECTS, key, int(starts[0]), self._max_objects, OBJECT_DRAWS)
        hidden = mask_objects(
            regions.counts,
            draws[starts - starts[0], : regions.features.shape[1]],
            rate=self.object_mask_rate,
            random_features=self._random_features,
        )
        features, chosen = torch.from_numpy(regions.features), hidden.chosen.astype(np.float32)
        weight = chosen if self.label_masked_only else np.float32(1)
        labels = {
            "obj": _pair(regions.object_ids, regions.object_confidences * weight),
            "attr": _pair(regions.attribute_ids, regions.attribute_confidences * weight),
            "feat": (features, torch.from_numpy(chosen)),
        }
        inputs: dict[str, Any] = {
            "visual_feats": on_arrival(_hide, hidden, features),
            "visual_pos": torch.from_numpy(regions.boxes),
        }
        if wanted := {name: labels[name] for name in OBJECT_TASKS if name in self.tasks}:
            inputs["obj_labels"] = wanted
        if which is not None:
            inputs["image_index"] = torch.from_numpy(which)
        if regions.mask is not None:
            inputs["visual_attention_mask"] = torch.from_numpy(regions.mask)
        return inputs

    def _random_features(self, uniform: np.ndarray) -> np.ndarray:
        """Features of random boxes of random examples' images, by (n, 2) uniforms: (n, F)."""
        images = self.random_from.images[below(uniform[:, 0], len(self.random_from))]
        return self.store.features_at(images, below(uniform[:, 1], self.store.counts[images]))

    def _answers(
        self, rows: np.ndarray, matched: np.ndarray, epoch: int, uniform: np.ndarray
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """One drawn answer a pair, -100 for none, and all answers of the matched pairs."""
        answers = self.examples.answers
        if "qa" not in self.tasks or epoch < self.answer_from_epoch:
            matched = np.zeros_like(matched)
        pairs = np.flatnonzero(matched & (answers.lengths(rows) > 0))
        places, offsets = answers.positions(rows[pairs])
        counts = np.diff(offsets)
        # a row a pair: sums over the batch would round by who stands before
        table = np.zeros((len(pairs), int(counts.max(initial=0))))
        table[np.arange(table.shape[1]) < counts[:, None]] = self.examples.scores[places]
        sums = table.cumsum(1)
        which = (sums <= uniform[pairs, None] * sums[:, -1:]).sum(1)
        classes, scores = answers.values[places].astype(np.int64), self.examples.scores[places]
        drawn = np.full(len(rows), IGNORE, np.int64)
        drawn[pairs] = classes[offsets[:-1] + which]
        flat = (
            torch.from_numpy(np.repeat(pairs, counts)),
            torch.from_numpy(classes),
            torch.from_numpy(scores),
        )
        return torch.from_numpy(drawn), flat


def _hide(hidden: HiddenObjects, features: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(hidden.hide(features.numpy()))


def _pair(target: np.ndarray, confidence: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(target), torch.from_numpy(confidence)
