"""Sizes of a batch by hand, where texts, images and padding differ; FLOPs are compared in `test_flops`."""

from __future__ import annotations

from typing import Any

import torch

from lxmert_fast.batch_sizes import batch_sizes


def batch(**more: Any) -> dict[str, Any]:
    """Four pairs of three texts (4, 2 and 3 tokens) and two images (5 and 3 regions)."""
    texts, images = torch.tensor([4, 2, 3]), torch.tensor([5, 3])
    return {
        "input_ids": torch.zeros(3, 4, dtype=torch.int64),
        "attention_mask": (torch.arange(4) < texts[:, None]).long(),
        "text_index": torch.tensor([0, 1, 1, 2]),
        "visual_feats": torch.zeros(2, 5, 7),
        "visual_attention_mask": (torch.arange(5) < images[:, None]).long(),
        "image_index": torch.tensor([0, 0, 0, 1]),
    } | more


def test_question_answering() -> None:
    found = batch_sizes(batch(labels=torch.zeros(4, 9)))
    assert (found.pairs, found.tokens, found.pair_tokens) == (4, 9, 4 + 2 + 2 + 3)
    assert (found.images, found.objects, found.image_rows) == (2, 4, 8)
    assert (found.words, found.regions, found.answered) == (0, None, 4)


def test_nothing_is_shared_where_dropout_is_drawn_for_every_pair() -> None:
    found = batch_sizes(batch(), shared=False)
    assert (found.pairs, found.images, found.tokens) == (4, 4, 11)
    assert found.image_rows == found.object_rows == 3 * 5 + 3


def test_pre_training_labels_of_images_count_for_each_pair() -> None:
    weight = torch.tensor([[1.0, 0.5, 0, 0, 0], [0, 0, 1.0, 0, 0]])
    words = torch.full((4, 4), -100)
    words[1, 2] = words[3, 1] = 8
    more = {"labels": words, "ans": torch.tensor([-100, 3, -100, 2]), "obj_labels": {"obj": (weight, weight)}}
    found = batch_sizes(batch(**more))
    assert (found.words, found.answered) == (2, 2)
    assert found.regions == {"obj": 3 * 2 + 1}


def test_without_masks_everything_counts() -> None:
    inputs = {"input_ids": torch.zeros(2, 4, dtype=torch.int64), "visual_feats": torch.zeros(2, 5, 7)}
    found = batch_sizes(inputs)
    assert (found.pairs, found.tokens, found.images, found.objects) == (2, 8, 2, 5)
