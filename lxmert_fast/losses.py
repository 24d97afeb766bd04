"""The losses of pre-training (section 3.1) and fine-tuning (section 4).

Labels to ignore are -100 everywhere inside; files and checkpoints of the original use -1 and are
translated where they are read. A mean over nothing is an exact zero that is still connected to its
parameters, never NaN. Everything is computed in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from .errors import InputError

IGNORE = -100


def labelled_cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy over the rows that have a label.

    Serves masked language modelling (over masked positions), cross-modality matching and image question
    answering (over labelled pairs).

    Args:
        scores: (..., C).
        labels: (...) int64, -100 = none.
    """
    scores = scores.flatten(0, -2).float()
    labels = labels.flatten()
    total = F.cross_entropy(scores, labels, ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def object_label_loss(scores: Tensor, labels: Tensor, confidence: Tensor) -> Tensor:
    """Detected-label classification: cross entropy times the detector's confidence, mean over *all* objects.

    The paper asks for the masked objects only; the original's code, and so this, trains on every object
    and weighs it by confidence (reference 2.4). The data set option `label_masked_only` gives the paper's.

    Args:
        scores: (B, O, C).
        labels: (B, O) int64.
        confidence: (B, O), in [0, 1].
    """
    each = F.cross_entropy(
        scores.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE, reduction="none"
    )
    return (each * confidence.flatten()).mean()


def feature_regression_loss(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """RoI-feature regression: SmoothL1 (beta 1) on masked objects, mean over *all* objects.

    The paper says L2, the original's code SmoothL1.

    Args:
        predicted, target: (B, O, F).
        mask: (B, O), 1 for a masked object.
    """
    each = F.smooth_l1_loss(predicted.float(), target.float(), reduction="none").mean(-1)
    return (each * mask).mean()


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
        return F.binary_cross_entropy_with_logits(scores.float(), labels.float()) * scores.shape[-1]
    if labels.is_floating_point() or labels.numel() != scores.shape[0]:
        raise InputError(
            f"labels have shape {tuple(labels.shape)} and dtype {labels.dtype}, wanted ({scores.shape[0]},) "
            f"int64 answer indices or {tuple(scores.shape)} floating-point scores"
        )
    return labelled_cross_entropy(scores, labels.view(-1))


def object_losses(
    scores: Mapping[str, Tensor], labels: Mapping[str, tuple[Tensor, Tensor]], normalizer: float
) -> dict[str, Tensor]:
    """Masked object prediction: one loss per head, times `normalizer` (about 1 / mask rate).

    Args:
        scores: "obj" (B, O, 1600), "attr" (B, O, 400), "feat" (B, O, F), or some of them.
        labels: for each of them (ids (B, O), confidence (B, O)), or for "feat" (target (B, O, F), mask).

    Raises:
        InputError: a head without labels.
    """
    losses = {}
    for name, score in scores.items():
        if name not in labels:
            raise InputError(f"obj_labels has keys {sorted(labels)}, the model also predicts {name!r}")
        target, weight = labels[name]
        loss = feature_regression_loss if name == "feat" else object_label_loss
        losses[name] = loss(score, target, weight) * normalizer
    return losses
