"""LXMERT's three encoders (Tan and Bansal 2019, section 2).

    text  --embedding--> language encoder  (N_L layers) --\\
                                                           cross-modality encoder (N_X layers) --> pooler
    boxes --embedding--> relationship encoder (N_R layers) --/

Hidden states are rows (N, H), one a token or a region; a `Layout` says which belong together, and the plan
of a batch (`execution.py`) which rows there are. The module tree and all names in it are Hugging Face's, so
that these methods also run on transformers' own modules (`swap.py`); the operations between the matrix
products come from `lxmert_fast.kernels`. Shape letters: B pairs, S texts, I images, T text positions, O
objects, N rows, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn
from transformers import LxmertConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN, GELUActivation
from transformers.modeling_layers import GradientCheckpointingLayer

from .both_streams import both_streams, can_go_together
from .dense import dense, dense_gelu, gelu_dense, has_hooks, leaves_bias, product
from .errors import InputError
from .execution import Inputs, Plan, Reads, Stream, make_plan
from .inputs import check_inputs
from .kernels import text_embedding as text_kernels
from .kernels import visual_embedding as visual_kernels
from .kernels.bias_gelu import bias_gelu_linear
from .kernels.cross_attention import cross_attention
from .kernels.dispatch import autocasts, use_operators
from .kernels.dropout_add_layer_norm import dropout_add_layer_norm, invertible
from .kernels.layout import Layout
from .kernels.meetings import Meetings
from .kernels.philox import Seed, draw_seed, part
from .kernels.rows import repeat_rows
from .kernels.self_attention import attention, self_attention
from .outputs import LxmertModelOutput, huggingface_tuple
from .repeats import share_repeats
from .tables import Sizes, bucketed_room, with_tables
from .transfer import to_device

LAYER_NORM_EPS = 1e-12

#: What a cross-modality layer gives: the streams in one buffer, one by one, or the rows that heads read.
Gives: TypeAlias = Literal["together", "apart", "read"]


def dropout_rate(module: nn.Module) -> float:
    """The rate of a module's own `dropout`, 0 outside training."""
    return cast(nn.Dropout, module.dropout).p if module.training else 0.0


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
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        text: Stream,
        seed: Seed | None = None,
    ) -> Tensor:
        """Ids (S, T), or word vectors (S, T, H) in their place, to the rows of the stream (N, H)."""
        if input_ids is not None and text.positions is not None and self._by_operator():
            return text_kernels.embed_text(
                (
                    self.word_embeddings.weight,
                    self.position_embeddings.weight,
                    self.token_type_embeddings.weight,
                ),
                (
                    text.select(input_ids),
                    text.positions,
                    None if token_type_ids is None else text.select(token_type_ids),
                ),
                (self.LayerNorm.weight, self.LayerNorm.bias),
                padding=0,
                dropout_p=dropout_rate(self),
                eps=LAYER_NORM_EPS,
                seed=seed,
            )
        if inputs_embeds is None:
            assert input_ids is not None
            words, length = self.word_embeddings(text.select(input_ids)), input_ids.shape[1]
        else:
            words, length = text.select(inputs_embeds), inputs_embeds.shape[1]
        positions = torch.arange(length, device=words.device)
        if text.kept is None:
            # every text has every position: one row a position serves all of them
            vectors = self.position_embeddings(positions).repeat(text.single.batch, 1)
        else:
            vectors = self.position_embeddings(text.kept % length)
        # segment 0 is one row for all
        segments = positions.new_zeros(1) if token_type_ids is None else text.select(token_type_ids)
        return text_kernels.text_embedding(
            words,
            vectors,
            self.token_type_embeddings(segments),
            (self.LayerNorm.weight, self.LayerNorm.bias),
            dropout_p=dropout_rate(self),
            eps=LAYER_NORM_EPS,
        )

    def _by_operator(self) -> bool:
        """Whether one launch may look everything up: tables as the reference has them, without hooks."""
        tables = self.word_embeddings, self.position_embeddings, self.token_type_embeddings
        # a weight is read last: ZeRO-3 would gather it for that
        return (
            all(
                type(table) is nn.Embedding
                and table.padding_idx == 0
                and table.max_norm is None
                and not has_hooks(table)
                for table in tables
            )
            and use_operators(self.word_embeddings.weight)
            and text_kernels.fits(self.word_embeddings.weight.shape[1])
        )


class LxmertVisualFeatureEncoder(nn.Module):
    """Object-level image embedding (section 2.1.1): feature and box, projected, normalised, averaged."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.visn_fc = nn.Linear(config.visual_feat_dim, config.hidden_size)
        self.visn_layer_norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.box_fc = nn.Linear(config.visual_pos_dim, config.hidden_size)
        self.box_layer_norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, visual_feats: Tensor, visual_pos: Tensor, seed: Seed | None = None) -> Tensor:
        """Features (N, F) and boxes (N, 4) to rows (N, H)."""
        if self._by_operator(visual_feats):
            return visual_kernels.embed_regions(
                *product(visual_feats, self.visn_fc),
                visual_pos,
                (self.box_fc.weight, self.box_fc.bias),
                (self.visn_layer_norm.weight, self.visn_layer_norm.bias),
                (self.box_layer_norm.weight, self.box_layer_norm.bias),
                dropout_p=dropout_rate(self),
                eps=LAYER_NORM_EPS,
                seed=seed,
            )
        return visual_kernels.visual_embedding(
            dense(visual_feats, self.visn_fc),
            self.box_fc(visual_pos),
            (self.visn_layer_norm.weight, self.visn_layer_norm.bias),
            (self.box_layer_norm.weight, self.box_layer_norm.bias),
            dropout_p=dropout_rate(self),
            eps=LAYER_NORM_EPS,
        )

    def _by_operator(self, x: Tensor) -> bool:
        return (
            use_operators(x)
            and type(self.box_fc) is nn.Linear
            and not has_hooks(self.box_fc)
            and not autocasts(x)
            and visual_kernels.fits(self.visn_layer_norm.weight.shape[0], self.box_fc.weight.shape[1])
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
        self.num_attention_heads = config.num_attention_heads
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.config = config

    def project(self, x: Tensor) -> Tensor:
        """Rows (N, H) to query, key and value side by side (N, 3H)."""
        return dense(x, self.query, self.key, self.value)

    def settings(self, want_probabilities: bool = False, seed: Seed | None = None) -> dict[str, Any]:
        """What the attention operations need beside tensors."""
        config = getattr(self, "config", None)
        return {
            "num_heads": self.num_attention_heads,
            "dropout_p": dropout_rate(self),
            "want_probabilities": want_probabilities,
            "seed": seed,
            # transformers' modules have no configuration of their own, and what is fused is exact
            "implementation": (config and config._attn_implementation) or "sdpa",
        }


class LxmertResidual(nn.Module):
    """LayerNorm(dropout(W x + b) + residual): the end of every sub-layer."""

    def __init__(self, config: LxmertConfig, in_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor, seed: Seed | None = None) -> Tensor:
        """Rows (N, in_size) and (N, H) to (N, H)."""
        return self.end(*product(x, self.dense), residual, seed)

    def end(self, x: Tensor, bias: Tensor | None, residual: Tensor, seed: Seed | None = None) -> Tensor:
        """The same after the product, whose bias may still be to be added."""
        return dropout_add_layer_norm(
            x,
            residual,
            self.LayerNorm.weight,
            self.LayerNorm.bias,
            bias=bias,
            dropout_p=dropout_rate(self),
            eps=LAYER_NORM_EPS,
            seed=seed,
        )


class LxmertSelfAttentionLayer(nn.Module):
    """Self-attention sub-layer of one stream."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.self = LxmertAttention(config)
        self.output = LxmertResidual(config, config.hidden_size)

    def forward(
        self, x: Tensor, layout: Layout, want: bool = False, seed: Seed | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Rows (N, H) to rows (N, H) and, when wanted, probabilities (B, heads, T, T)."""
        settings = self.self.settings(want, part(seed, 0))
        context, probabilities = self_attention(self.self.project(x), layout, **settings)
        return self.output(context, x, part(seed, 1)), probabilities

    def read(self, x: Tensor, stream: Stream, meetings: Meetings | None, seed: Seed | None) -> Tensor:
        """The sub-layer at the rows that are read (M, H): they ask, all rows of the stream answer."""
        assert stream.read is not None
        assert stream.readers is not None
        rows = stream.read
        asking = x.index_select(0, rows)
        context, _ = attention(
            dense(asking, self.self.query),
            dense(x, self.self.key, self.self.value),
            stream.readers,
            stream.pairs,
            meetings=meetings,
            **self.self.settings(seed=part(seed, 0)),
        )
        return self.output(context, asking, part(seed, 1))


class LxmertCrossAttentionLayer(nn.Module):
    """Cross-attention sub-layer: one set of weights, LayerNorm included, serves both directions.

    So both streams go through it in one buffer, text rows first.
    """

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.att = LxmertAttention(config)
        self.output = LxmertResidual(config, config.hidden_size)

    def forward(
        self, rows: Tensor, meeting: Meeting, want: bool = False, seed: Seed | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Both streams through the sub-layer, each reading the other's *input*.

        Returns rows of the pairs (N, H), text first, and probabilities of both directions when wanted.
        """
        met = cross_attention(
            self.att.project(rows),
            meeting.split,
            meeting.texts,
            meeting.images,
            meetings=meeting.table,
            **self.att.settings(want, part(seed, 0)),
        )
        together = self.output(met.context, meeting.repeat(rows), part(seed, 1))
        return together, met.text_probabilities, met.object_probabilities

    def read_text(self, rows: Tensor, meeting: Meeting, seed: Seed | None = None) -> Tensor:
        """The direction from text to objects alone: rows of the pairs' texts."""
        text, objects = rows[: meeting.split], rows[meeting.split :]
        context, _ = attention(
            dense(text, self.att.query),
            dense(objects, self.att.key, self.att.value),
            meeting.texts,
            meeting.images,
            meetings=meeting.from_text,
            **self.att.settings(seed=part(seed, 0)),
        )
        return self.output(context, meeting.texts.repeat(text), part(seed, 1))


class LxmertIntermediate(nn.Module):
    """First half of the feed-forward sub-layer: gelu(W x + b)."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        """Rows (N, H) to (N, intermediate)."""
        return activated(x, self.dense, self.intermediate_act_fn)


def activated(x: Tensor, layer: nn.Module, activation: nn.Module) -> Tensor:
    """A linear layer and an activation; the paper's, exact GELU, together."""
    return dense_gelu(x, layer) if isinstance(activation, GELUActivation) else activation(layer(x))


def feed_forward(
    inner: LxmertIntermediate, outer: LxmertResidual, x: Tensor, seed: Seed | None = None
) -> Tensor:
    """The feed-forward sub-layer: LayerNorm(dropout(W_2 gelu(W_1 x + b_1) + b_2) + x).

    For backward the activation is kept once, not twice, unless a hook wants to see it.
    """
    exact = isinstance(inner.intermediate_act_fn, GELUActivation) and not (
        has_hooks(inner) or has_hooks(outer)
    )
    if exact and leaves_bias(x, inner.dense, outer.dense):
        u, bias = product(x, inner.dense)
        assert bias is not None
        y = bias_gelu_linear(u, (bias,), (outer.dense.weight,), len(x))
        return outer.end(y, outer.dense.bias, x, seed)
    if exact and torch.is_grad_enabled():
        return outer.end(gelu_dense(dense(x, inner.dense), outer.dense), None, x, seed)
    return outer(inner(x), x, seed)


class LxmertLayer(GradientCheckpointingLayer):
    """Layer of a single-modality encoder (section 2.1.2): self-attention, then feed-forward."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.attention = LxmertSelfAttentionLayer(config)
        self.intermediate = LxmertIntermediate(config)
        self.output = LxmertResidual(config, config.intermediate_size)

    def forward(
        self, x: Tensor, layout: Layout, want: bool = False, seed: Seed | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Rows (N, H) to rows (N, H) and, when wanted, probabilities."""
        attended, probabilities = self.attention(x, layout, want, part(seed, 0))
        return feed_forward(self.intermediate, self.output, attended, part(seed, 1)), probabilities


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
        rows: Tensor,
        meeting: Meeting,
        plan: Plan,
        want: bool = False,
        seed: Seed | None = None,
        gives: Gives = "together",
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Rows of both streams, text first, to the pairs' rows.

        Args:
            meeting: how the pairs read the rows that come in.
            want: the probabilities of both directions; not of the rows that heads read.
            gives: "apart", so that what nobody reads gets no gradient; "read" computes no more than is read.

        Returns:
            The pairs' rows (N, H) and None, or those of text and those of objects, None where no head reads
            any; and probabilities. One flat tuple: hooks for the way back see no tensor in an inner one.
        """
        if gives == "read":
            return *self._read(rows, meeting, plan, seed), None, None
        rows, *probabilities = self.visual_attention(rows, meeting, want, part(seed, 0))
        split = plan.pair_text_rows
        together = gives == "together"
        if together and plan.tables.own is not None and can_go_together(self, rows):
            return both_streams(self, rows, split, plan.tables.own, part(seed, 1)), None, *probabilities
        text, _ = self.lang_self_att(rows[:split], plan.text.pairs, seed=part(seed, 2))
        objects, _ = self.visn_self_att(rows[split:], plan.objects.pairs, seed=part(seed, 3))
        text = feed_forward(self.lang_inter, self.lang_output, text, part(seed, 4))
        objects = feed_forward(self.visn_inter, self.visn_output, objects, part(seed, 5))
        if together:
            return torch.cat([text, objects]), None, *probabilities
        return text, objects, *probabilities

    def _read(
        self, rows: Tensor, meeting: Meeting, plan: Plan, seed: Seed | None
    ) -> tuple[Tensor, Tensor | None]:
        """The layer as far as its heads read it: rows of text (M, H), and of objects if any are read.

        A row that is read needs every row of its stream after cross attention, as keys, and no other row
        further on. What is skipped gets no gradient, as in the reference.
        """
        read_objects = None
        if plan.objects.readers is None:
            text = self.visual_attention.read_text(rows, meeting, part(seed, 0))
        else:
            rows, _, _ = self.visual_attention(rows, meeting, seed=part(seed, 0))
            split = plan.pair_text_rows
            text, objects = rows[:split], rows[split:]
            asking = self.visn_self_att.read(objects, plan.objects, plan.tables.object_readers, part(seed, 3))
            read_objects = feed_forward(self.visn_inter, self.visn_output, asking, part(seed, 5))
        asking = self.lang_self_att.read(text, plan.text, plan.tables.text_readers, part(seed, 2))
        return feed_forward(self.lang_inter, self.lang_output, asking, part(seed, 4)), read_objects


class Meeting(NamedTuple):
    """How the pairs of a cross-modality layer read the rows that come in."""

    split: int
    """Rows of text; those of objects follow."""
    texts: Layout
    images: Layout
    table: Meetings | None = None
    from_text: Meetings | None = None
    source: Tensor | None = None

    @classmethod
    def first(cls, plan: Plan) -> Meeting:
        """Of the first layer, where a row may be a text's or an image's for several pairs."""
        of = plan.tables
        texts, images = plan.text.entry, plan.objects.entry
        shares = texts.shared or images.shared
        return cls(
            plan.text_rows,
            texts,
            images,
            of.entry,
            None if shares else of.from_text,
            of.source,
        )

    @classmethod
    def later(cls, plan: Plan) -> Meeting:
        """Of the other layers."""
        of = plan.tables
        return cls(plan.pair_text_rows, plan.text.pairs, plan.objects.pairs, of.cross, of.from_text)

    def repeat(self, rows: Tensor) -> Tensor:
        """Rows as often as pairs read them."""
        if self.source is not None and self.table is not None and self.table.query_readers is not None:
            readers = self.table.query_readers
            return repeat_rows(rows, self.source, readers.starts, readers.rows)
        if not (self.texts.shared or self.images.shared):
            return rows
        text, objects = rows[: self.split], rows[self.split :]
        return torch.cat([self.texts.repeat(text), self.images.repeat(objects)])


def per_pair(x: Tensor, index: Tensor | None) -> Tensor:
    """Rows of texts or images repeated for their pairs: (S, ...) to (B, ...)."""
    return x if index is None else x.index_select(0, index)


@dataclass
class Trace:
    """What the layers give on the way, for a caller who asks: rows of the pairs, and probabilities."""

    states: bool
    attentions: bool
    text_states: list[Tensor] = field(default_factory=list)
    object_states: list[Tensor] = field(default_factory=list)
    text_attentions: list[Tensor] = field(default_factory=list)
    """One a language layer, (S, heads, T, T)."""
    object_attentions: list[Tensor] = field(default_factory=list)
    """One a relationship layer, (I, heads, O, O)."""
    text_to_objects: list[Tensor] = field(default_factory=list)
    objects_to_text: list[Tensor] = field(default_factory=list)

    def add(self, states: list[Tensor], rows: Tensor) -> None:
        """Keep the rows that a layer gives."""
        if self.states:
            states.append(rows)

    def outputs(
        self, plan: Plan, text_index: Tensor | None, image_index: Tensor | None
    ) -> dict[str, tuple[Tensor, ...] | None]:
        """The fields of `LxmertModelOutput`, one row per pair."""
        states = {
            "language_hidden_states": (self.text_states, plan.text),
            "vision_hidden_states": (self.object_states, plan.objects),
        }
        attentions = {
            "language_attentions": (self.text_attentions, text_index),
            "vision_attentions": (self.object_attentions, image_index),
            "cross_encoder_attentions": (self.text_to_objects, None),
            "cross_encoder_vision_attentions": (self.objects_to_text, None),
        }
        found: dict[str, tuple[Tensor, ...] | None] = {}
        for name, (rows, stream) in states.items():
            width = stream.pairs.width
            found[name] = tuple(stream.spread(x, width) for x in rows) if self.states else None
        for name, (each, index) in attentions.items():
            found[name] = tuple(per_pair(p, index) for p in each) if self.attentions else None
        return found

    def attend(self, attentions: list[Tensor], probabilities: Tensor | None) -> None:
        """Keep the probabilities that a layer gives."""
        if probabilities is not None:
            attentions.append(probabilities)


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
        visual_feats: Tensor,
        visual_pos: Tensor,
        plan: Plan,
        trace: Trace | None = None,
        seed: Seed | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Rows of text (N, H) and of regions (M, F), (M, 4) to the rows of the pairs that are read.

        Objects are None where no head reads any. `trace` collects what every layer gives.
        """
        want = trace is not None and trace.attentions
        objects = self.visn_fc(visual_feats, visual_pos, seed=part(seed, 0))
        for i, layer in enumerate(self.layer):
            text, probabilities = layer(text, layout=plan.text.single, want=want, seed=part(part(seed, 1), i))
            if trace is not None:
                trace.add(trace.text_states, plan.text.entry.repeat(text))
                trace.attend(trace.text_attentions, probabilities)
        for i, layer in enumerate(self.r_layers):
            objects, probabilities = layer(
                objects, layout=plan.objects.single, want=want, seed=part(part(seed, 2), i)
            )
            if trace is not None:
                trace.add(trace.object_states, plan.objects.entry.repeat(objects))
                trace.attend(trace.object_attentions, probabilities)

        if not len(self.x_layers):
            text, objects = plan.text.entry.repeat(text), plan.objects.entry.repeat(objects)
            if plan.whole:
                return text, objects
            return text[plan.text.read], None if plan.objects.read is None else objects[plan.objects.read]
        rows, meeting = torch.cat([text, objects]), Meeting.first(plan)
        split, count = plan.pair_text_rows, len(self.x_layers)
        for i, layer in enumerate(self.x_layers):
            gives: Gives = "together" if i < count - 1 else "apart" if plan.whole else "read"
            # always by its call, and plans by keyword: the hooks of others (ZeRO-3's, checkpointing's) come
            # with the call, and look through what is positional for what has a gradient
            first, second, text_to_objects, objects_to_text = layer(
                rows, meeting=meeting, plan=plan, want=want, seed=part(part(seed, 3), i), gives=gives
            )
            together = gives == "together"
            text, objects = (first[:split], first[split:]) if together else (first, second)
            rows, meeting = first, Meeting.later(plan)
            if trace is not None:
                trace.add(trace.text_states, text)
                trace.add(trace.object_states, objects)
                trace.attend(trace.text_to_objects, text_to_objects)
                trace.attend(trace.objects_to_text, objects_to_text)
        return text, objects


class LxmertPooler(nn.Module):
    """tanh(W h_[CLS] + b): the cross-modality output (section 2.2), read at text position 0."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first: Tensor) -> Tensor:
        """Hidden states of position 0 (B, H) to (B, H)."""
        return torch.tanh(self.dense(first))


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

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As in PyTorch. What was known of the weights before is not true of those that are loaded."""
        loaded = super().load_state_dict(*args, **kwargs)
        invertible.forget()
        return loaded

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

    #: Texts and images that are shared draw their dropout once; False draws it for every pair.
    share_in_training = True
    #: Outputs at padding positions are computed; False gives zeros there and saves the work.
    padding_outputs = True
    #: Look for equal texts and images in a batch that comes without indices, as `accelerate` wants it.
    find_repeats = False

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
        padding_outputs: bool | None = None,
        reads: Reads | None = None,
        plan: Plan | None = None,
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
                when None. Asking for either computes every position of every layer.
            padding_outputs: False leaves out the positions that the masks close and gives zeros there; the
                attribute of this name where None.
            reads: what the caller's heads read, for task models. Then `language_output` (M, H) and
                `vision_output` (M, H) hold those rows alone, in the order of (pair, position), None where
                none is read, and the parameters that are skipped get no gradient (the reference leaves the
                same ones without). Where hidden states or attentions are asked for, nothing is skipped.
            plan: what `plan_for` made of this batch and these reads, for whoever makes it beforehand: nothing
                is checked or planned again.

        The masks, the indices and the reads may stay on the host, where the plan is made: a GPU whose work is
        queued is then not waited for.

        Returns:
            `LxmertModelOutput`, always one row per pair, or Hugging Face's tuple.

        Raises:
            InputError: a shape, type or device that does not fit, an id out of range, a text or an image that
                no pair uses.
        """
        config = self.config
        return_dict = config.return_dict if return_dict is None else return_dict
        if plan is not None:
            assert visual_feats is not None
            assert visual_pos is not None
            rows = self.run(plan, input_ids, token_type_ids, inputs_embeds, visual_feats, visual_pos)
            output = LxmertModelOutput(
                *(cast(Any, x) for x in (*plan.read_outputs(rows[0], rows[1]), rows[2]))
            )
            return output if return_dict else huggingface_tuple(output)
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
        states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        attentions = config.output_attentions if output_attentions is None else output_attentions
        trace = Trace(bool(states), bool(attentions)) if states or attentions else None
        if padding_outputs is None:
            padding_outputs = self.padding_outputs
        pack = (
            trace is None and (reads is not None or not padding_outputs) and not torch.compiler.is_compiling()
        )

        if self.training and not self.share_in_training:
            input_ids, inputs_embeds, attention_mask, token_type_ids = (
                None if x is None else per_pair(x, text_index)
                for x in (input_ids, inputs_embeds, attention_mask, token_type_ids)
            )
            visual_attention_mask = (
                None if visual_attention_mask is None else per_pair(visual_attention_mask, image_index)
            )
            visual_feats, visual_pos = per_pair(visual_feats, image_index), per_pair(visual_pos, image_index)
            text_index = image_index = None
        elif self.find_repeats:
            if text_index is None:
                (input_ids, inputs_embeds, attention_mask, token_type_ids), text_index = share_repeats(
                    input_ids, inputs_embeds, attention_mask, token_type_ids
                )
            if image_index is None:
                images, image_index = share_repeats(visual_feats, visual_pos, visual_attention_mask)
                visual_feats, visual_pos, visual_attention_mask = cast(tuple[Tensor, Tensor, Tensor], images)
        words = cast(Tensor, inputs_embeds if input_ids is None else input_ids)
        (num_texts, length), (num_images, boxes) = words.shape[:2], visual_feats.shape[:2]
        inputs = Inputs(
            (num_texts, length),
            (num_images, boxes),
            attention_mask,
            visual_attention_mask,
            text_index,
            image_index,
            words.device,
        )
        plan = self.plan_for(inputs, None if trace else reads, pack)
        text, objects, pooled = self.run(
            plan, input_ids, token_type_ids, inputs_embeds, visual_feats, visual_pos, trace
        )
        language_output, vision_output = plan.outputs(text, objects, reads, length, boxes)
        traced = trace.outputs(plan, text_index, image_index) if trace else {}
        output = LxmertModelOutput(
            language_output=cast(Any, language_output),
            vision_output=cast(Any, vision_output),
            pooled_output=cast(Any, pooled),
            **cast(dict[str, Any], traced),
        )
        return output if return_dict else huggingface_tuple(output)

    def plan_for(self, inputs: Inputs, reads: Reads | None, pack: bool, sizes: Sizes | None = None) -> Plan:
        """The plan of a batch, on the device of the inputs.

        What a plan follows from is small, and made on a GPU each of its steps would be a launch; so it is
        made on the host, and copied at once. Only while a graph is traced it is made where the inputs are.

        Args:
            sizes: of the buffers, for a graph; None: as large as what is in them.
        """
        where = inputs.device
        host = where if torch.compiler.is_compiling() else torch.device("cpu")
        inputs = inputs.to(host)
        if reads is not None:
            reads = Reads(*(None if x is None else x.to(host) for x in reads))
        plan = make_plan(inputs, reads, pack, self.dtype)
        # the first of all: by its name, ZeRO-3 would gather it
        if use_operators(next(self.parameters())):
            plan = with_tables(plan, inputs, None if sizes is None else bucketed_room(plan, sizes))
        return plan if where == host else to_device(plan, where)

    def run(
        self,
        plan: Plan,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        visual_feats: Tensor,
        visual_pos: Tensor,
        trace: Trace | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Carry out a plan: rows of text and objects that leave the last layer, and the pooled output (B, H).

        Nothing here depends on the numbers in a tensor, so that it compiles to one graph (`compiled.py`).
        """
        seed = draw_seed(visual_feats.device) if self.training and use_operators(visual_feats) else None
        text, objects = self.encoder(
            self.embeddings(input_ids, token_type_ids, inputs_embeds, text=plan.text, seed=part(seed, 0)),
            plan.objects.select(visual_feats).to(self.dtype),
            plan.objects.select(visual_pos).to(self.dtype),
            plan=plan,
            trace=trace,
            seed=part(seed, 1),
        )
        return text, objects, self.pooler(text.index_select(0, plan.pooled))
