"""What the workloads' training steps predict: masked words, masked objects, matches and answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LxmertConfig

from lxmert_fast.data.draws import below
from lxmert_fast.data.masking import OBJECT_DRAWS, WORD_DRAWS, mask_objects, mask_words
from lxmert_fast.losses import IGNORE

MASK_RATE = 0.15
#: Share of pre-training pairs with an answer: questions whose answer is in the table, where the text is kept.
ANSWERED = 0.155


def hide_words(
    ids: np.ndarray, eligible: np.ndarray, mask_id: int, config: LxmertConfig, rng: np.random.Generator
) -> tuple[np.ndarray, Tensor]:
    """Ids (S, T) with 15 % of the eligible ones hidden, and their labels (S, T)."""
    uniform = rng.random((*ids.shape, WORD_DRAWS))
    hidden, labels = mask_words(
        ids, eligible, uniform, rate=MASK_RATE, mask_id=mask_id, vocab_size=config.vocab_size
    )
    return hidden, torch.from_numpy(labels)


def hide_objects(
    features: np.ndarray, config: LxmertConfig, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, tuple[Tensor, Tensor]]]:
    """Features (I, O, F) with 15 % of the objects hidden, and `obj_labels` an image."""
    images, objects, size = features.shape
    hidden = mask_objects(
        np.full(images, objects),
        rng.random((images, objects, OBJECT_DRAWS)),
        rate=MASK_RATE,
        random_features=lambda uniform: features.reshape(-1, size)[below(uniform[:, 0], images * objects)],
    )

    def classes(limit: int) -> tuple[Tensor, Tensor]:
        ids = torch.from_numpy(rng.integers(limit, size=(images, objects)))
        return ids, torch.from_numpy(rng.random((images, objects), np.float32))

    labels = {
        "obj": classes(config.num_object_labels),
        "attr": classes(config.num_attr_labels),
        "feat": (torch.from_numpy(features), torch.from_numpy(hidden.chosen.astype(np.float32))),
    }
    return hidden.hide(features), labels


def match_and_answer(pairs: int, config: LxmertConfig, rng: np.random.Generator) -> dict[str, Any]:
    """`matched_label` and `ans`, both (B,); at least one pair has an answer, or its loss would be nothing."""
    answers = rng.integers(config.num_qa_labels, size=pairs)
    answers[1:][rng.random(pairs - 1) >= ANSWERED] = IGNORE
    return {
        "matched_label": torch.from_numpy(rng.integers(2, size=pairs)),
        "ans": torch.from_numpy(answers),
    }
