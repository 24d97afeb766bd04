"""The sizes of a batch that its FLOPs follow from, read on the host before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .flops import BatchSizes
from .losses import IGNORE, labels_per_pair


def batch_sizes(inputs: Mapping[str, Any], *, shared: bool = True) -> BatchSizes:
    """What the exact execution plan computes of a batch whose tensors lie on the host.

    Args:
        inputs: keyword arguments of pre-training, or of question answering, whose every pair is answered. A
            sentence about two images (image_index (B, 2)) is two pairs, each with its half of the head.
        shared: texts and images of several pairs are computed once; False for `share_in_training = False`.
    """
    text_index, image_index = inputs.get("text_index"), inputs.get("image_index")
    if image_index is not None and image_index.dim() == 2:
        sentences = torch.arange(len(image_index)) if text_index is None else text_index
        text_index, image_index = sentences.repeat_interleave(2), image_index.flatten()
    lengths = _kept(inputs.get("attention_mask"), inputs["input_ids"])
    regions = _kept(inputs.get("visual_attention_mask"), inputs["visual_feats"])
    text_of_pair = lengths if text_index is None else lengths[text_index]
    regions_of_pair = regions if image_index is None else regions[image_index]
    # pairs see the mean image; with as many images as pairs nothing is a mean
    images, texts = (regions, lengths) if shared else (regions_of_pair, text_of_pair)
    words, answers = inputs.get("labels"), inputs.get("ans")
    if words is not None and (words.is_floating_point() or words.shape[1:] != inputs["input_ids"].shape[1:]):
        words = None  # question answering has its answers under that name
    return BatchSizes(
        len(text_of_pair),
        int(texts.sum()),
        len(images),
        int(images.sum()) / len(images),
        pair_tokens=int(text_of_pair.sum()),
        words=0 if words is None else int((words != IGNORE).sum()),
        regions=_scored(inputs.get("obj_labels"), image_index),
        answered=len(text_of_pair) if answers is None else int((answers != IGNORE).sum()),
    )


def _kept(mask: Tensor | None, rows: Tensor) -> Tensor:
    """Positions of each sequence that are not padding: (S,) or (I,) int64."""
    if mask is None:
        return torch.full((len(rows),), rows.shape[1])
    return (mask != 0).sum(1)


def _scored(labels: Any, image_index: Tensor | None) -> dict[str, int] | None:
    if labels is None:
        return None
    if image_index is not None:
        labels = labels_per_pair(labels, image_index)
    return {head: int((weight != 0).sum()) for head, (_, weight) in labels.items()}
