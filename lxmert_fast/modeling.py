"""LXMERT's three encoders (Tan and Bansal 2019, section 2).

    text  --embedding--> language encoder  (N_L layers) --\\
                                                           cross-modality encoder (N_X layers) --> pooler
    boxes --embedding--> relationship encoder (N_R layers) --/

The module tree and parameter names are Hugging Face's; the operations between the matrix products come
from `lxmert_fast.kernels`. Shape letters: B pairs, S texts, I images, T text positions, O objects,
H hidden. With `text_index` or `image_index` S and I may be smaller than B; the single-modality encoders
then run once a text and once an image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import LxmertConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .errors import InputError
from .inputs import check_inputs
from .kernels.bias_gelu import bias_gelu
from .kernels.cross_attention import Projected, cross_attention
from .kernels.dropout_add_layer_norm import dropout_add_layer_norm
from .kernels.self_attention import additive_mask, self_attention
from .kernels.text_embedding import text_embedding
from .kernels.visual_embedding import visual_embedding
from .outputs import LxmertModelOutput, huggingface_tuple

LAYER_NORM_EPS = 1e-12


def activation_of(config: LxmertConfig) -> Callable[[Tensor], Tensor]:
    """The element-wise function of `config.hidden_act`; the paper's is exact GELU."""
    return bias_gelu if config.hidden_act == "gelu" else ACT2FN[config.hidden_act]


class LxmertEmbeddings(nn.Module):
    """Word-level sentence embedding (section 2.1.1)."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        size = config.hidden_size
        # padding_idx=0 on all three tables is the original's: row 0 (for positions: the [CLS] slot) gets
        # no gradient from the lookup
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size, padding_idx=0)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size, padding_idx=0)
        self.LayerNorm = nn.LayerNorm(size, eps=LAYER_NORM_EPS)
        self.dropout_p = config.hidden_dropout_prob

    def forward(
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Ids (S, T), or word vectors (S, T, H) in their place, to hidden states (S, T, H)."""
        if inputs_embeds is None:
            inputs_embeds = self.word_embeddings(input_ids)
        positions = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(positions)
        return text_embedding(
            inputs_embeds,
            self.position_embeddings(positions),
            self.token_type_embeddings(token_type_ids),
            (self.LayerNorm.weight, self.LayerNorm.bias),
            dropout_p=self.dropout_p if self.training else 0.0,
            eps=LAYER_NORM_EPS,
        )


class LxmertVisualFeatureEncoder(nn.Module):
    """Object-level image embedding (section 2.1.1): feature and box, projected, normalised, averaged."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.visn_fc = nn.Linear(config.visual_feat_dim, config.hidden_size)
        self.visn_layer_norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.box_fc = nn.Linear(config.visual_pos_dim, config.hidden_size)
        self.box_layer_norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.dropout_p = config.hidden_dropout_prob

    def forward(self, visual_feats: Tensor, visual_pos: Tensor) -> Tensor:
        """Features (I, O, F) and boxes (I, O, 4) to hidden states (I, O, H)."""
        return visual_embedding(
            self.visn_fc(visual_feats),
            self.box_fc(visual_pos),
            (self.visn_layer_norm.weight, self.visn_layer_norm.bias),
            (self.box_layer_norm.weight, self.box_layer_norm.bias),
            dropout_p=self.dropout_p if self.training else 0.0,
            eps=LAYER_NORM_EPS,
        )


class LxmertAttention(nn.Module):
    """Query, key and value projections of one attention; the heads meet in `kernels`."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        size = config.hidden_size
        if size % config.num_attention_heads != 0:
            raise InputError(
                f"hidden_size {size} is not a multiple of num_attention_heads {config.num_attention_heads}"
            )
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.num_heads = config.num_attention_heads
        self.dropout_p = config.attention_probs_dropout_prob
        self.config = config

    def project(self, x: Tensor) -> Projected:
        """(B, T, H) to its query, key and value."""
        return Projected(self.query(x), self.key(x), self.value(x))

    def settings(self, want_probabilities: bool) -> dict[str, Any]:
        """What the attention operations need beside tensors."""
        return {
            "num_heads": self.num_heads,
            "dropout_p": self.dropout_p if self.training else 0.0,
            "want_probabilities": want_probabilities,
            "implementation": self.config._attn_implementation or "eager",
        }


class LxmertResidual(nn.Module):
    """LayerNorm(dropout(W x + b) + residual): the end of every sub-layer."""

    def __init__(self, config: LxmertConfig, in_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.dropout_p = config.hidden_dropout_prob

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """(B, T, in_size) and (B, T, H) to (B, T, H)."""
        return dropout_add_layer_norm(
            self.dense(x),
            residual,
            self.LayerNorm.weight,
            self.LayerNorm.bias,
            dropout_p=self.dropout_p if self.training else 0.0,
            eps=LAYER_NORM_EPS,
        )


class LxmertSelfAttentionLayer(nn.Module):
    """Self-attention sub-layer of one stream."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.self = LxmertAttention(config)
        self.output = LxmertResidual(config, config.hidden_size)

    def forward(self, x: Tensor, mask: Tensor | None, want: bool = False) -> tuple[Tensor, Tensor | None]:
        """(B, T, H) to (B, T, H) and, when wanted, probabilities (B, heads, T, T)."""
        context, probabilities = self_attention(*self.self.project(x), mask, **self.self.settings(want))
        return self.output(context, x), probabilities


class LxmertCrossAttentionLayer(nn.Module):
    """Cross-attention sub-layer: one set of weights, LayerNorm included, serves both directions."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.att = LxmertAttention(config)
        self.output = LxmertResidual(config, config.hidden_size)

    def forward(
        self, text: Tensor, text_mask: Tensor | None, objects: Tensor, object_mask: Tensor | None, want: bool
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Both streams through the sub-layer, each reading the other's *input*.

        Returns text (B, T, H), objects (B, O, H), and probabilities of both directions when wanted.
        """
        met = cross_attention(
            self.att.project(text),
            self.att.project(objects),
            text_mask,
            object_mask,
            **self.att.settings(want),
        )
        return (
            self.output(met.text, text),
            self.output(met.objects, objects),
            met.text_probabilities,
            met.object_probabilities,
        )


class LxmertIntermediate(nn.Module):
    """First half of the feed-forward sub-layer: gelu(W x + b)."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = activation_of(config)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H) to (B, T, intermediate)."""
        return self.activation(self.dense(x))


class LxmertLayer(GradientCheckpointingLayer):
    """Layer of a single-modality encoder (section 2.1.2): self-attention, then feed-forward."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.attention = LxmertSelfAttentionLayer(config)
        self.intermediate = LxmertIntermediate(config)
        self.output = LxmertResidual(config, config.intermediate_size)

    def forward(self, x: Tensor, mask: Tensor | None, want: bool = False) -> tuple[Tensor, Tensor | None]:
        """(B, T, H) to (B, T, H) and, when wanted, probabilities."""
        attended, probabilities = self.attention(x, mask, want)
        return self.output(self.intermediate(attended), attended), probabilities


class LxmertXLayer(GradientCheckpointingLayer):
    """Layer of the cross-modality encoder (section 2.1.2): cross attention, self-attention, feed-forward."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.visual_attention = LxmertCrossAttentionLayer(config)
        self.lang_self_att = LxmertSelfAttentionLayer(config)
        self.visn_self_att = LxmertSelfAttentionLayer(config)
        self.lang_inter = LxmertIntermediate(config)
        self.lang_output = LxmertResidual(config, config.intermediate_size)
        self.visn_inter = LxmertIntermediate(config)
        self.visn_output = LxmertResidual(config, config.intermediate_size)

    def forward(
        self,
        text: Tensor,
        text_mask: Tensor | None,
        objects: Tensor,
        object_mask: Tensor | None,
        want: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Text (B, T, H) and objects (B, O, H) to the same, with both directions' probabilities if wanted."""
        text, objects, text_to_objects, objects_to_text = self.visual_attention(
            text, text_mask, objects, object_mask, want
        )
        text, _ = self.lang_self_att(text, text_mask)
        objects, _ = self.visn_self_att(objects, object_mask)
        text = self.lang_output(self.lang_inter(text), text)
        objects = self.visn_output(self.visn_inter(objects), objects)
        return text, objects, text_to_objects, objects_to_text

    def read_first(
        self, text: Tensor, text_mask: Tensor | None, objects: Tensor, object_mask: Tensor | None
    ) -> Tensor:
        """The layer as far as the pooler reads it: text position 0, (B, 1, H).

        That row needs every text row after cross attention (its keys), but no object row beyond the input
        and no other text row further on. What is skipped gets no gradient, as in the reference.
        """
        cross, own = self.visual_attention, self.lang_self_att
        context, _ = self_attention(
            cross.att.query(text),
            cross.att.key(objects),
            cross.att.value(objects),
            object_mask,
            **cross.att.settings(False),
        )
        text = cross.output(context, text)
        first = text[:, :1]
        context, _ = self_attention(
            own.self.query(first),
            own.self.key(text),
            own.self.value(text),
            text_mask,
            **own.self.settings(False),
        )
        first = own.output(context, first)
        return self.lang_output(self.lang_inter(first), first)


@dataclass
class Trace:
    """Hidden states and attention probabilities, one entry a layer, always per pair."""

    text_states: list[Tensor] = field(default_factory=list)
    object_states: list[Tensor] = field(default_factory=list)
    text_attentions: list[Tensor] = field(default_factory=list)
    object_attentions: list[Tensor] = field(default_factory=list)
    text_to_objects: list[Tensor] = field(default_factory=list)
    objects_to_text: list[Tensor] = field(default_factory=list)


def per_pair(x: Tensor, index: Tensor | None) -> Tensor:
    """Rows of a text or an image repeated for its pairs: (S, ...) to (B, ...)."""
    return x if index is None else x.index_select(0, index)


class LxmertEncoder(nn.Module):
    """The visual embedding and the three encoders."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.visn_fc = LxmertVisualFeatureEncoder(config)
        # named `layer`, not `l_layers`, so that BERT's weights load by name
        self.layer = nn.ModuleList(LxmertLayer(config) for _ in range(config.l_layers))
        self.x_layers = nn.ModuleList(LxmertXLayer(config) for _ in range(config.x_layers))
        self.r_layers = nn.ModuleList(LxmertLayer(config) for _ in range(config.r_layers))

    def forward(
        self,
        text: Tensor,
        text_mask: Tensor | None,
        visual_feats: Tensor,
        visual_pos: Tensor,
        object_mask: Tensor | None,
        text_index: Tensor | None = None,
        image_index: Tensor | None = None,
        want_states: bool = False,
        want_attentions: bool = False,
        pooled_only: bool = False,
    ) -> tuple[Tensor, Tensor | None, Trace]:
        """Text embeddings (S, T, H) and regions (I, O, F), (I, O, 4) to (B, T, H) and (B, O, H).

        With `pooled_only` the last cross layer gives what the pooler reads: (B, 1, H) and None.
        """
        trace = Trace()
        objects = self.visn_fc(visual_feats, visual_pos)

        for layer in self.layer:
            text, probabilities = layer(text, text_mask, want_attentions)
            if want_states:
                trace.text_states.append(per_pair(text, text_index))
            if want_attentions:
                trace.text_attentions.append(per_pair(probabilities, text_index))
        for layer in self.r_layers:
            objects, probabilities = layer(objects, object_mask, want_attentions)
            if want_states:
                trace.object_states.append(per_pair(objects, image_index))
            if want_attentions:
                trace.object_attentions.append(per_pair(probabilities, image_index))

        text, objects = per_pair(text, text_index), per_pair(objects, image_index)
        text_mask = None if text_mask is None else per_pair(text_mask, text_index)
        object_mask = None if object_mask is None else per_pair(object_mask, image_index)
        whole_layers = self.x_layers[:-1] if pooled_only else self.x_layers
        for layer in whole_layers:
            text, objects, text_to_objects, objects_to_text = layer(
                text, text_mask, objects, object_mask, want_attentions
            )
            if want_states:
                trace.text_states.append(text)
                trace.object_states.append(objects)
            if want_attentions:
                trace.text_to_objects.append(text_to_objects)
                trace.objects_to_text.append(objects_to_text)
        if pooled_only and len(self.x_layers):
            last = cast(LxmertXLayer, self.x_layers[-1])
            return last.read_first(text, text_mask, objects, object_mask), None, trace
        return text, objects, trace


class LxmertPooler(nn.Module):
    """tanh(W h_[CLS] + b): the cross-modality output (section 2.2), read at text position 0."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, text: Tensor) -> Tensor:
        """(B, T, H) to (B, H)."""
        return torch.tanh(self.dense(text[:, 0]))


class LxmertPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation shared by all models.

    `config.random_padding_rows` (default False, Hugging Face's): True starts row 0 of the three embedding
    tables from the same normal noise as the other rows, as the original does (reference 1.4).
    """

    config_class = LxmertConfig
    config: LxmertConfig
    base_model_prefix = "lxmert"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Embedding) and getattr(self.config, "random_padding_rows", False):
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)


class LxmertModel(LxmertPreTrainedModel):
    """The backbone: three encoders and the pooler, without any head."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__(config)
        self.embeddings = LxmertEmbeddings(config)
        self.encoder = LxmertEncoder(config)
        self.pooler = LxmertPooler(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The word embedding."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embedding."""
        self.embeddings.register_module("word_embeddings", value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        visual_feats: Tensor | None = None,
        visual_pos: Tensor | None = None,
        attention_mask: Tensor | None = None,
        visual_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        image_index: Tensor | None = None,
        text_index: Tensor | None = None,
        pooled_only: bool = False,
    ) -> LxmertModelOutput | tuple:
        """Encode B pairs of a text and an image's regions.

        Args:
            input_ids: (S, T) int64 token ids, or `inputs_embeds` (S, T, H) in their place.
            visual_feats: (I, O, F) region features, any float dtype.
            visual_pos: (I, O, 4) boxes (x1/W, y1/H, x2/W, y2/H) in [0, 1].
            attention_mask: (S, T), 1 for a token, 0 for padding; None for no padding.
            visual_attention_mask: (I, O), likewise; the original's tasks never pass one.
            token_type_ids: (S, T) segments; None for 0.
            image_index: (B,) int64, the image of each pair; None when pair b looks at image b.
            text_index: (B,) int64, the text of each pair; None when pair b reads text b.
            output_attentions, output_hidden_states, return_dict: as in transformers, from the config
                when None.
            pooled_only: the caller reads `pooled_output` and nothing else, as classification heads do. The
                last cross layer is then computed for text position 0 alone: `language_output` is (B, 1, H),
                `vision_output` None, and the parameters that are skipped get no gradient (the reference
                leaves the same ones without). Asking for hidden states or attentions turns it off.

        Returns:
            `LxmertModelOutput`, always one row per pair, or Hugging Face's tuple.

        Raises:
            InputError: a shape that does not fit, an id out of range.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("pass either input_ids or inputs_embeds, and only one of them")
        words = input_ids if input_ids is not None else inputs_embeds
        assert words is not None
        check_inputs(
            self.config,
            words,
            visual_feats,
            visual_pos,
            attention_mask,
            visual_attention_mask,
            token_type_ids,
            text_index,
            image_index,
        )
        assert visual_feats is not None
        assert visual_pos is not None
        want_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        want_states = (
            self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict

        text, objects, trace = self.encoder(
            self.embeddings(input_ids, token_type_ids, inputs_embeds),
            None if attention_mask is None else additive_mask(attention_mask, self.dtype),
            visual_feats.to(self.dtype),
            visual_pos.to(self.dtype),
            None if visual_attention_mask is None else additive_mask(visual_attention_mask, self.dtype),
            text_index,
            image_index,
            want_states,
            want_attentions,
            pooled_only and not (want_states or want_attentions),
        )
        pooled = self.pooler(text)

        output = LxmertModelOutput(
            language_output=text,
            vision_output=objects,
            pooled_output=pooled,
            language_hidden_states=tuple(trace.text_states) if want_states else None,
            vision_hidden_states=tuple(trace.object_states) if want_states else None,
            language_attentions=tuple(trace.text_attentions) if want_attentions else None,
            vision_attentions=tuple(trace.object_attentions) if want_attentions else None,
            cross_encoder_attentions=tuple(trace.text_to_objects) if want_attentions else None,
            cross_encoder_vision_attentions=tuple(trace.objects_to_text) if want_attentions else None,
        )
        return output if return_dict else huggingface_tuple(output)
