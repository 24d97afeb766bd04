"""From pre-training's answers to a data set's: the rows of the answer head's last layer (reference 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .airsplay import huggingface_names
from .data.answers import normalise
from .errors import InputError
from .loading import load_into
from .models import LxmertForQuestionAnswering

LAST = "answer_head.logit_fc.3"


@dataclass(frozen=True)
class AnswerRows:
    """What `load_answer_rows` did with the last layer of the answer head."""

    copied: int
    zeroed: tuple[str, ...]
    """Answers that the source's table does not hold."""


def load_answer_rows(
    model: LxmertForQuestionAnswering,
    source_state: Mapping[str, Tensor],
    source_table: Sequence[str],
    target_labels: Sequence[str],
    source: str | Path = "state dict",
) -> AnswerRows:
    """Start a question-answering model from a pre-trained one, answers included: `--loadLXMERTQA`.

    Copies the backbone and the first layers of the answer head; in the last layer each answer gets the row
    of its normalised name in the source's table, or zeros where the source never learnt it.

    Args:
        model: with an answer head of `len(target_labels)` rows.
        source_state: a pre-trained model's tensors, under either code base's names; other heads' are left.
        source_table: the answers of its head, in order (`all_ans.json`: 9,500).
        target_labels: the answers of `model`, in order (VQA: 3,129).
        source: for messages.

    Raises:
        InputError: the backbone does not fit as a whole, no answer head, a list of another length.
    """
    given = huggingface_names(source_state)
    weight, bias = given.get(f"{LAST}.weight"), given.get(f"{LAST}.bias")
    if weight is None or bias is None:
        raise InputError(f"{source}: no answer head ({LAST}.weight), nothing to take answers from")
    for names, rows, whose in (
        (source_table, len(weight), "source's"),
        (target_labels, model.config.num_qa_labels, "model's"),
    ):
        if len(names) != rows:
            raise InputError(f"{source}: {len(names)} answers named, the {whose} answer head has {rows} rows")

    ids = {name: row for row, name in enumerate(source_table)}
    # the original looks up the normalised name; the name as it stands serves tables that are not normalised
    rows = torch.tensor([ids.get(normalise(label), ids.get(label, -1)) for label in target_labels])
    known = rows >= 0
    entries = {
        name: tensor
        for name, tensor in given.items()
        if name.startswith(("lxmert.", "answer_head.logit_fc."))
    }
    entries[f"{LAST}.weight"] = weight[rows.clamp(min=0)] * known[:, None]
    entries[f"{LAST}.bias"] = bias[rows.clamp(min=0)] * known
    load_into(model, entries, source=source)
    zeroed = tuple(label for label, found in zip(target_labels, known.tolist(), strict=True) if not found)
    return AnswerRows(len(target_labels) - len(zeroed), zeroed)
