"""LXMERT with its heads: pre-training, question answering, and sentences about two images.

Calls and outputs are those of transformers' classes of the same names (`outputs.py` says what is added);
`LxmertForImagePairs` (NLVR2) has no counterpart there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import LxmertConfig

from .errors import InputError
from .execution import Plan, Reads
from .heads import LxmertPreTrainingHeads, LxmertVisualAnswerHead, LxmertVisualObjHead
from .losses import (
    Labelled,
    answer_loss,
    at_least_fp32,
    labelled_cross_entropy,
    labels_per_pair,
    object_losses,
)
from .modeling import LxmertModel, LxmertPreTrainedModel
from .outputs import (
    LxmertForImagePairsOutput,
    LxmertForPreTrainingOutput,
    LxmertForQuestionAnsweringOutput,
    LxmertModelOutput,
    huggingface_tuple,
)
from .transfer import to_device


class Prepared(NamedTuple):
    """What of a batch is made on the host: nothing after it depends on the numbers in a tensor."""

    plan: Plan
    labelled: Labelled | None = None


__all__ = ["LxmertConfig", "LxmertForImagePairs", "LxmertForPreTraining", "LxmertForQuestionAnswering"]


def _layers(encoded: LxmertModelOutput) -> dict[str, Any]:
    """Hidden states and attentions by name, as far as they were asked for."""
    return {name: value for name, value in encoded.items() if name.endswith(("_states", "_attentions"))}


class _AnswersQuestions:
    """What the two models with an answer head share."""

    if TYPE_CHECKING:
        config: Any
        answer_head: LxmertVisualAnswerHead

    def get_qa_logit_layer(self) -> nn.Module | None:
        """The last linear layer of the answer head, (A, 2H); None where `task_qa` is off."""
        head = getattr(self, "answer_head", None)
        return None if head is None else head.logit_fc[-1]

    def resize_num_qa_labels(self, num_labels: int | None) -> nn.Module | None:
        """Change the number of answers A; rows that remain keep their weights. None changes nothing."""
        layer = self.get_qa_logit_layer()
        if num_labels is None or layer is None or num_labels == self.config.num_qa_labels:
            return layer
        self.config.num_qa_labels = num_labels
        return self.answer_head.resize(num_labels, self.config.initializer_range)


class LxmertForPreTraining(_AnswersQuestions, LxmertPreTrainedModel):
    """LXMERT and its five pre-training tasks (section 3.1)."""

    _tied_weights_keys = {  # noqa: RUF012 (transformers declares it so)
        "cls.predictions.decoder.weight": "lxmert.embeddings.word_embeddings.weight"
    }

    #: Compute no scores but those that the losses read; `forward` says which.
    loss_only = False

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__(config)
        self.lxmert = LxmertModel(config)
        self.cls = LxmertPreTrainingHeads(config)
        if config.task_obj_predict:
            self.obj_predict_head = LxmertVisualObjHead(config)
        if config.task_qa:
            self.answer_head = LxmertVisualAnswerHead(config, config.num_qa_labels)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """The decoder of masked language modelling, tied to the word embedding."""
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace that decoder."""
        self.cls.predictions.register_module("decoder", new_embeddings)

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Change the vocabulary; embedding, decoder and free bias stay the same length."""
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        self.cls.predictions.fit_bias()
        return embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        visual_feats: Tensor | None = None,
        visual_pos: Tensor | None = None,
        attention_mask: Tensor | None = None,
        visual_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        obj_labels: Mapping[str, tuple[Tensor, Tensor]] | None = None,
        matched_label: Tensor | None = None,
        ans: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        image_index: Tensor | None = None,
        text_index: Tensor | None = None,
        loss_weights: Mapping[str, float] | None = None,
        loss_only: bool | None = None,
        prepared: Prepared | None = None,
    ) -> LxmertForPreTrainingOutput | tuple:
        """Score words, objects, the match and the answer; sum the losses of whatever has labels.

        Args:
            labels: (B, T) int64, the original id at masked positions, -100 elsewhere.
            obj_labels: "obj" and "attr" to (ids (B, O), confidence (B, O)), "feat" to
                (features before masking (B, O, F), mask (B, O)); or all of them for I images, with
                `image_index`.
            matched_label: (B,) int64, 1 = the text is about the image.
            ans: (B,) int64 answer, -100 = none.
            loss_weights: factors by task name (mask_lm, matched, obj, attr, feat, qa), 1 where absent; the
                paper's two-phase schedule sets "qa".
            loss_only: the caller reads the losses and the matching scores and nothing else. Words are then
                scored where they are masked, objects where they have a weight, answers of labelled pairs, and
                the other scores are None; the attribute of this name where None.
            prepared: what `graphs.py` made of this batch beforehand.

        The other arguments are `LxmertModel.forward`'s.

        Returns:
            `LxmertForPreTrainingOutput`, or Hugging Face's tuple. With `task_qa` off the answer scores are
            an empty (B, 0).

        Raises:
            InputError: a batch that does not fit, `obj_labels` without a head's key.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        loss_only = self.loss_only if loss_only is None else loss_only
        has_labels = not (labels is None and obj_labels is None and matched_label is None and ans is None)
        labels = labels if self.config.task_mask_lm else None
        obj_labels = obj_labels if self.config.task_obj_predict else None
        ans = ans if self.config.task_qa else None
        if obj_labels is not None and image_index is not None:
            obj_labels = labels_per_pair(obj_labels, image_index)
        # while a graph is traced it is not known which rows have a label: there everything is scored
        chosen, reads = None, None
        if prepared is not None:
            chosen = prepared.labelled
        elif loss_only and not torch.compiler.is_compiling():
            chosen, reads = Labelled.of(labels, obj_labels, ans)
            chosen = chosen if self.device.type == "cpu" else to_device(chosen, self.device)
        encoded = self.lxmert(
            input_ids,
            visual_feats,
            visual_pos,
            attention_mask,
            visual_attention_mask,
            token_type_ids,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
            True,
            image_index,
            text_index,
            reads=reads,
            plan=prepared and prepared.plan,
        )
        pooled = encoded.pooled_output
        match_scores = self.cls.seq_relationship(pooled)
        if chosen is None:
            word_scores = self.cls.predictions(encoded.language_output)
            object_scores = (
                self.obj_predict_head(encoded.vision_output) if self.config.task_obj_predict else {}
            )
            answer_scores = (
                self.answer_head(pooled) if self.config.task_qa else pooled.new_empty(len(pooled), 0)
            )
        else:
            labels = None if labels is None or chosen.words is None else chosen.words.labels(labels)
            obj_labels = None if obj_labels is None else chosen.object_labels(obj_labels)
            word_scores = None if labels is None else self.cls.predictions(encoded.language_output)
            object_scores = (
                self.obj_predict_head(encoded.vision_output, chosen.rows) if obj_labels is not None else {}
            )
            answer_scores = None
            if ans is not None and chosen.answered is not None:
                ans = chosen.answered.labels(ans)
                answer_scores = self.answer_head(pooled.index_select(0, chosen.answered.places))

        losses: dict[str, Tensor] = {}
        if labels is not None:
            losses["mask_lm"] = labelled_cross_entropy(word_scores, labels)
        if matched_label is not None and self.config.task_matched:
            losses["matched"] = labelled_cross_entropy(match_scores, matched_label)
        if obj_labels is not None:
            objects = None if chosen is None else chosen.num_objects
            losses |= object_losses(object_scores, obj_labels, self.config.visual_loss_normalizer, objects)
        if ans is not None:
            losses["qa"] = labelled_cross_entropy(answer_scores, ans)

        loss = None
        if has_labels:
            weights = loss_weights or {}
            loss = torch.zeros((), device=pooled.device, dtype=at_least_fp32(pooled).dtype)
            for name, value in losses.items():
                loss = loss + weights.get(name, 1.0) * value

        output = LxmertForPreTrainingOutput(
            loss=loss,
            prediction_logits=None if chosen else word_scores,
            cross_relationship_score=match_scores,
            question_answering_score=None if chosen else answer_scores,
            losses={name: value.detach() for name, value in losses.items()},
            object_prediction_scores=None if chosen else object_scores,
            **_layers(encoded),
        )
        return output if return_dict else huggingface_tuple(output)


class LxmertForQuestionAnswering(_AnswersQuestions, LxmertPreTrainedModel):
    """LXMERT with the answer head: VQA, GQA and every data set of questions with a list of answers."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__(config)
        self.lxmert = LxmertModel(config)
        self.answer_head = LxmertVisualAnswerHead(config, config.num_qa_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        visual_feats: Tensor | None = None,
        visual_pos: Tensor | None = None,
        attention_mask: Tensor | None = None,
        visual_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        image_index: Tensor | None = None,
        text_index: Tensor | None = None,
        prepared: Prepared | None = None,
    ) -> LxmertForQuestionAnsweringOutput | tuple:
        """Score the answers of B questions.

        Args:
            labels: (B,) int64 answer indices (cross entropy, as transformers), or (B, A) soft scores
                (binary cross entropy times A, as the original).
            prepared: what `graphs.py` made of this batch beforehand.

        The other arguments are `LxmertModel.forward`'s.

        Returns:
            `LxmertForQuestionAnsweringOutput`, or Hugging Face's tuple.

        Raises:
            InputError: a batch that does not fit, labels of another shape.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        encoded = self.lxmert(
            input_ids,
            visual_feats,
            visual_pos,
            attention_mask,
            visual_attention_mask,
            token_type_ids,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
            True,
            image_index,
            text_index,
            reads=Reads(),
            plan=prepared and prepared.plan,
        )
        scores = self.answer_head(encoded.pooled_output)
        loss = None if labels is None else answer_loss(scores, labels)
        output = LxmertForQuestionAnsweringOutput(
            loss=loss, question_answering_score=scores, **_layers(encoded)
        )
        return output if return_dict else huggingface_tuple(output)


class LxmertForImagePairs(LxmertPreTrainedModel):
    """NLVR2: is a sentence true of two images? (section 4)

    The sentence is read with each image; the two cross-modality outputs stand side by side before the
    head, whose first layer is therefore (2H, 2H).
    """

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__(config)
        self.lxmert = LxmertModel(config)
        self.answer_head = LxmertVisualAnswerHead(config, num_answers=2, images=2)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        visual_feats: Tensor | None = None,
        visual_pos: Tensor | None = None,
        attention_mask: Tensor | None = None,
        visual_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        image_index: Tensor | None = None,
        text_index: Tensor | None = None,
        prepared: Prepared | None = None,
    ) -> LxmertForImagePairsOutput | tuple:
        """Score B sentences, each about two images.

        Args:
            input_ids: (B, T), or (S, T) with `text_index` (B,) saying which sentence each row reads.
            visual_feats: (B, 2, O, F), or (I, O, F) with `image_index` (B, 2).
            visual_pos: (B, 2, O, 4), or (I, O, 4).
            visual_attention_mask: (B, 2, O), or (I, O).
            labels: (B,) int64, 1 = true.
            prepared: what `graphs.py` made of this batch beforehand.

        The other arguments are `LxmertModel.forward`'s.

        Returns:
            `LxmertForImagePairsOutput` with logits (B, 2), or (loss, logits).

        Raises:
            InputError: not two images a sentence, or a batch that does not fit.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        words = input_ids if input_ids is not None else inputs_embeds
        if words is None or visual_feats is None or visual_pos is None:
            raise InputError("pass input_ids (or inputs_embeds), visual_feats and visual_pos")
        if image_index is None:
            if visual_feats.dim() != 4 or visual_feats.shape[1] != 2:
                raise InputError(
                    f"visual_feats has shape {tuple(visual_feats.shape)}, wanted (B, 2, O, "
                    f"{self.config.visual_feat_dim}): two images a sentence"
                )
            visual_feats = visual_feats.flatten(0, 1)
            visual_pos = visual_pos.flatten(0, 1)
            visual_attention_mask = (
                None if visual_attention_mask is None else visual_attention_mask.flatten(0, 1)
            )
        elif image_index.dim() != 2 or image_index.shape[1] != 2:
            raise InputError(f"image_index has shape {tuple(image_index.shape)}, wanted (B, 2)")
        else:
            image_index = image_index.flatten()
        if text_index is None:
            text_index = torch.arange(len(words), device=words.device)
        encoded = self.lxmert(
            input_ids,
            visual_feats,
            visual_pos,
            attention_mask,
            visual_attention_mask,
            token_type_ids,
            inputs_embeds,
            return_dict=True,
            image_index=image_index,
            text_index=text_index.repeat_interleave(2),
            reads=Reads(),
            plan=prepared and prepared.plan,
        )
        logits = self.answer_head(encoded.pooled_output.view(-1, 2 * self.config.hidden_size))
        loss = None if labels is None else labelled_cross_entropy(logits, labels)
        output = LxmertForImagePairsOutput(loss=loss, logits=logits)
        return output if return_dict else huggingface_tuple(output)
