"""What the models return: Hugging Face's classes, each with what it leaves out at the end.

Every class here *is* the Hugging Face class of the same call, so code written for that one reads these;
the added fields come last, and a tuple (`return_dict=False`) holds exactly Hugging Face's entries.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor
from transformers.models.lxmert import modeling_lxmert as huggingface
from transformers.utils import ModelOutput


@dataclass
class LxmertModelOutput(huggingface.LxmertModelOutput):
    """Hidden states of the three encoders.

    language_output (B, T, H), vision_output (B, O, H), pooled_output (B, H). With
    `output_hidden_states`: one (B, T, H) per language and cross layer and one (B, O, H) per relationship
    and cross layer; embeddings are not among them. With `output_attentions`: language_attentions
    (B, heads, T, T), vision_attentions (B, heads, O, O), cross_encoder_attentions (B, heads, T, O), and,
    beyond Hugging Face, `cross_encoder_vision_attentions`.
    """

    cross_encoder_vision_attentions: tuple[Tensor, ...] | None = None
    """One (B, heads, O, T) per cross layer: from objects to text."""


@dataclass
class LxmertForPreTrainingOutput(huggingface.LxmertForPreTrainingOutput):
    """Scores of the pre-training heads and the summed loss; beyond Hugging Face the losses one by one."""

    cross_encoder_vision_attentions: tuple[Tensor, ...] | None = None
    losses: dict[str, Tensor] | None = None
    """Each task's loss, detached, unweighted: mask_lm, matched, obj, attr, feat, qa."""
    object_prediction_scores: dict[str, Tensor] | None = None
    """obj (B, O, 1600), attr (B, O, 400), feat (B, O, F): what the object heads predict."""


@dataclass
class LxmertForQuestionAnsweringOutput(huggingface.LxmertForQuestionAnsweringOutput):
    """Answer scores (B, A) and loss."""

    cross_encoder_vision_attentions: tuple[Tensor, ...] | None = None


@dataclass
class LxmertForImagePairsOutput(ModelOutput):
    """NLVR2: scores of "false" and "true" for a sentence about two images."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    """(B, 2), class 1 = the sentence is true of the two images."""


def huggingface_tuple(output: ModelOutput) -> tuple:
    """What transformers' class of the same name gives with `return_dict=False`: the entries it knows."""
    parent = type(output).__mro__[1]
    known: Any = type(output) if parent is ModelOutput else parent
    return tuple(output[field.name] for field in fields(known) if field.name in output)
