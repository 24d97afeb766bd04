"""The losses of pre-training (section 3.1) and fine-tuning (section 4).

Labels to ignore are -100 everywhere inside; files and checkpoints of the original use -1 and are
translated where they are read. A mean over nothing is an exact zero that is still connected to its
parameters, never NaN. Half precision is computed in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import InputError
from .execution import Reads

IGNORE = -100

ObjectLabels: TypeAlias = Mapping[str, tuple[Tensor, Tensor]]
"""By object head: what is wanted of each object, and its weight."""


def at_least_fp32(x: Tensor) -> Tensor:
    """Half precision in fp32, anything else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def labelled_cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy over the rows that have a label.

    Serves masked language modelling (over masked positions), cross-modality matching and image question
    answering (over labelled pairs).

    Args:
        scores: (..., C).
        labels: (...) int64, -100 = none.
    """
    scores = at_least_fp32(scores.flatten(0, -2))
    labels = labels.flatten()
    total = F.cross_entropy(scores, labels, ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def object_label_loss(
    scores: Tensor, labels: Tensor, confidence: Tensor, objects: int | None = None
) -> Tensor:
    """Detected-label classification: cross entropy times the detector's confidence, mean over *all* objects.

    The paper asks for the masked objects only; the original's code, and so this, trains on every object
    and weighs it by confidence (reference 2.4). The data set option `label_masked_only` gives the paper's.

    Args:
        scores: (..., C).
        labels: (...) int64.
        confidence: (...), in [0, 1].
        objects: how many there are, where those of weight 0 have been left out.
    """
    each = F.cross_entropy(
        at_least_fp32(scores.flatten(0, -2)), labels.flatten(), ignore_index=IGNORE, reduction="none"
    )
    return (each * confidence.flatten()).sum() / (objects or each.numel())


def feature_regression_loss(
    predicted: Tensor, target: Tensor, mask: Tensor, objects: int | None = None
) -> Tensor:
    """RoI-feature regression: SmoothL1 (beta 1) on masked objects, mean over *all* objects.

    The paper says L2, the original's code SmoothL1.

    Args:
        predicted, target: (..., F).
        mask: (...), 1 for a masked object.
        objects: how many there are, where those of weight 0 have been left out.
    """
    predicted = at_least_fp32(predicted)
    each = F.smooth_l1_loss(predicted, target.to(predicted.dtype), reduction="none").mean(-1)
    return (each * mask).sum() / (objects or each.numel())


def answer_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """The fine-tuning loss of question answering.

    Args:
        scores: (B, A).
        labels: (B,) int64 answer indices (cross entropy, Hugging Face's loss), or (B, A) soft scores in
            [0, 1] (binary cross entropy times A: the sum over answers, the original's loss; the factor
            matters because gradients are clipped).

    Raises:
        InputError: labels of another shape.
    """
    if labels.is_floating_point() and labels.shape == scores.shape:
        scores = at_least_fp32(scores)
        return F.binary_cross_entropy_with_logits(scores, labels.to(scores.dtype)) * scores.shape[-1]
    if labels.is_floating_point() or labels.numel() != scores.shape[0]:
        raise InputError(
            f"labels have shape {tuple(labels.shape)} and dtype {labels.dtype}, wanted ({scores.shape[0]},) "
            f"int64 answer indices or {tuple(scores.shape)} floating-point scores"
        )
    return labelled_cross_entropy(scores, labels.view(-1))


def object_losses(
    scores: Mapping[str, Tensor], labels: ObjectLabels, normalizer: float, objects: int | None = None
) -> dict[str, Tensor]:
    """Masked object prediction: one loss per head, times `normalizer` (about 1 / mask rate).

    Args:
        scores: "obj" (..., 1600), "attr" (..., 400), "feat" (..., F), or some of them.
        labels: for each of them (ids, confidence), or for "feat" (target (..., F), mask).
        objects: how many there are, where those of weight 0 have been left out.

    Raises:
        InputError: a head without labels.
    """
    losses = {}
    for name, score in scores.items():
        target, weight = labels_of(name, labels)
        loss = feature_regression_loss if name == "feat" else object_label_loss
        losses[name] = loss(score, target, weight, objects) * normalizer
    return losses


def labels_of(head: str, labels: ObjectLabels) -> tuple[Tensor, Tensor]:
    """The labels of an object head. Raises `InputError` where there are none."""
    if head not in labels:
        raise InputError(f"obj_labels has keys {sorted(labels)}, the model also predicts {head!r}")
    return labels[head]


def labels_per_pair(labels: ObjectLabels, image_index: Tensor) -> ObjectLabels:
    """Labels of I images (I, O, ...) repeated for their pairs; B of them are the pairs' own."""
    pairs = len(image_index)
    return {
        name: (target, weight)
        if len(target) == pairs
        else (target.index_select(0, image_index), weight.index_select(0, image_index))
        for name, (target, weight) in labels.items()
    }


class Labelled(NamedTuple):
    """What of a batch has labels: all that a loss reads. Indices, made on the host like a plan."""

    words: Picked | None
    """Positions b * T + t of the texts."""
    heads: dict[str, Picked] | None
    """By object head, regions b * O + o."""
    rows: dict[str, Tensor]
    """By object head, where its regions are among those that any head reads, (M,) int64."""
    num_objects: int | None
    """B * O, what the losses are means over."""
    answered: Picked | None
    """Pairs."""

    @classmethod
    def of(
        cls, words: Tensor | None, objects: ObjectLabels | None, answers: Tensor | None
    ) -> tuple[Labelled, Reads]:
        """Select from labels of all positions, objects and pairs; and what heads read for it."""
        has_word = None if words is None else words.cpu() != IGNORE
        has_answer = None if answers is None else answers.cpu() != IGNORE
        regions, rows, heads = None, {}, None
        if objects is not None:
            weighted = {name: weight.cpu() != 0 for name, (_, weight) in objects.items()}
            regions = torch.stack(list(weighted.values())).any(0)
            rows = {name: _where(chosen[regions]) for name, chosen in weighted.items()}
            heads = {name: Picked(_where(chosen)) for name, chosen in weighted.items()}
        labelled = cls(
            None if has_word is None else Picked(_where(has_word)),
            heads,
            rows,
            None if regions is None else regions.numel(),
            None if has_answer is None else Picked(_where(has_answer)),
        )
        return labelled, Reads(has_word, regions)

    def padded(self, size: Callable[[str, int], int]) -> Labelled:
        """Every index as long as `size` makes it, by its name and its length."""

        def longer(name: str, picked: Picked) -> Picked:
            return picked.padded(size(name, len(picked.places)))

        heads = self.heads and {name: longer(name, picked) for name, picked in self.heads.items()}
        return self._replace(
            words=self.words and longer("words", self.words),
            heads=heads,
            rows={name: _longer(index, size(name, len(index))) for name, index in self.rows.items()},
            answered=self.answered and longer("answered", self.answered),
        )

    def object_labels(self, labels: ObjectLabels) -> ObjectLabels:
        """By object head, (target, weight) of the regions that it reads."""
        assert self.heads is not None
        chosen = {}
        for name, picked in self.heads.items():
            target, weight = (x.flatten(0, 1).index_select(0, picked.places) for x in labels[name])
            chosen[name] = target, weight if picked.there is None else weight * picked.there
        return chosen


class Picked(NamedTuple):
    """An index into a batch."""

    places: Tensor
    """(M,) int64."""
    there: Tensor | None = None
    """(M,) bool, False at padding for a graph; None: there is none."""

    def padded(self, size: int) -> Picked:
        """As long as that."""
        there = torch.arange(size, device=self.places.device) < len(self.places)
        return Picked(_longer(self.places, size), there)

    def labels(self, labels: Tensor) -> Tensor:
        """(M,) of the labels, -100 at padding."""
        picked = labels.flatten().index_select(0, self.places)
        return picked if self.there is None else torch.where(self.there, picked, IGNORE)


def _where(mask: Tensor) -> Tensor:
    return mask.flatten().nonzero()[:, 0]


def _longer(index: Tensor, size: int) -> Tensor:
    return F.pad(index, (0, size - len(index)))
