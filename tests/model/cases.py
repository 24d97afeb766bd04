"""Small models with the same random weights on both sides, random batches, and masks of every kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LxmertConfig
from transformers.models.lxmert import modeling_lxmert as huggingface

from lxmert_fast.execution import Stream
from lxmert_fast.kernels.layout import dense
from lxmert_fast.losses import IGNORE
from lxmert_fast.modeling import LxmertModel
from lxmert_fast.models import LxmertForImagePairs, LxmertForPreTraining, LxmertForQuestionAnswering

B, T, O = 4, 9, 6  # noqa: E741 (the shape letter of the design)

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 112,
    "l_layers": 2,
    "r_layers": 2,
    "x_layers": 2,
    "visual_feat_dim": 20,
    "num_qa_labels": 11,
    "num_object_labels": 13,
    "num_attr_labels": 7,
    "max_position_embeddings": 16,
}

THEIRS = {
    LxmertModel: huggingface.LxmertModel,
    LxmertForPreTraining: huggingface.LxmertForPreTraining,
    LxmertForQuestionAnswering: huggingface.LxmertForQuestionAnswering,
}


def make_config(**changes: Any) -> LxmertConfig:
    """A small configuration without dropout."""
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return LxmertConfig(**(SIZES | still | changes))


@torch.no_grad()
def scatter(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fill every parameter: initial values (zero biases, equal LayerNorms) would hide what is swapped."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.15)
        if name.endswith(("LayerNorm.weight", "layer_norm.weight", "logit_fc.2.weight")):
            p.add_(1.0)
    return model


def both(kind: type, config: LxmertConfig | None = None) -> tuple[Any, Any]:
    """This library's model and transformers', in evaluation mode, with the same weights."""
    config = config or make_config()
    ours = scatter(kind(config)).eval()
    theirs = THEIRS[kind](LxmertConfig(**config.to_dict())).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def make_batch(config: LxmertConfig, *, pairs: int = B, tokens: int = T, objects: int = O) -> dict[str, Any]:
    """Ids, features and boxes of `pairs` texts and as many images."""
    generator = torch.Generator().manual_seed(pairs + 10 * tokens + 100 * objects)
    return {
        "input_ids": torch.randint(config.vocab_size, (pairs, tokens), generator=generator),
        "visual_feats": torch.rand(pairs, objects, config.visual_feat_dim, generator=generator) * 3,
        "visual_pos": torch.rand(pairs, objects, 4, generator=generator),
        "token_type_ids": torch.randint(2, (pairs, tokens), generator=generator),
    }


def pretraining_labels(config: LxmertConfig, *, pairs: int = B, tokens: int = T, objects: int = O) -> dict:
    """Labels of all five tasks, some of them to be ignored."""
    generator = torch.Generator().manual_seed(1)

    def ids(limit: int, *shape: int) -> Tensor:
        return torch.randint(limit, shape, generator=generator)

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    words, answers = ids(config.vocab_size, pairs, tokens), ids(config.num_qa_labels, pairs)
    words[:, 1::2] = IGNORE
    answers[-1] = IGNORE
    masked = (rand(pairs, objects) < 0.5).float()
    return {
        "labels": words,
        "matched_label": ids(2, pairs),
        "ans": answers,
        "obj_labels": {
            "obj": (ids(config.num_object_labels, pairs, objects), rand(pairs, objects)),
            "attr": (ids(config.num_attr_labels, pairs, objects), rand(pairs, objects)),
            "feat": (rand(pairs, objects, config.visual_feat_dim) * 3, masked),
        },
    }


def _mask(edit: Callable[[Tensor], object]) -> Tensor:
    mask = torch.ones(B, T)
    edit(mask)
    return mask


def _objects() -> Tensor:
    return (torch.arange(O) < torch.tensor([[6], [3], [1], [5]])).float()


MASKS: dict[str, dict[str, Tensor]] = {
    "none": {},
    "padding": {"attention_mask": (torch.arange(T) < torch.tensor([[9], [5], [3], [1]])).long()},
    "holes": {"attention_mask": _mask(lambda m: m[:, 1::3].zero_())},
    "left padding": {"attention_mask": (torch.arange(T) >= torch.tensor([[0], [2], [5], [8]])).long()},
    "fully masked row": {"attention_mask": _mask(lambda m: m[2].zero_())},
    "fractional": {"attention_mask": _mask(lambda m: (m.mul_(0.5), m[1].mul_(0.5), m[0, 3:].zero_()))},
    "boolean": {"attention_mask": torch.arange(T) < torch.tensor([[9], [5], [3], [1]])},
    "visual": {"visual_attention_mask": _objects()},
    "visual with an empty image": {
        "visual_attention_mask": _objects() * torch.tensor([[1.0], [0], [1], [1]])
    },
    "both": {
        "attention_mask": (torch.arange(T) < torch.tensor([[9], [5], [3], [1]])).long(),
        "visual_attention_mask": _objects(),
    },
}


def double(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch with its floating-point tensors, nested ones too, in fp64."""

    def cast(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.double() if value.is_floating_point() else value
        if isinstance(value, dict):
            return double(value)
        return tuple(map(cast, value)) if isinstance(value, tuple) else value

    return {name: cast(value) for name, value in batch.items()}


@contextmanager
def object_attentions(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect transformers' attention from objects to text, which it computes and does not return."""
    seen: list[Tensor] = []
    layers = [m for m in model.modules() if isinstance(m, huggingface.LxmertCrossAttentionLayer)]
    for layer in layers:
        whole = layer.att.forward

        def forward(x, context, mask=None, output_attentions=False, whole=whole):  # type: ignore[no-untyped-def]
            result = whole(x, context, mask, output_attentions=True)
            seen.append(result[1])
            return result

        layer.att.forward = forward
    collected: list[Tensor] = []
    try:
        yield collected
    finally:
        # each layer attends from the text first and from the objects second
        collected += seen[1::2]
        for layer in layers:
            del layer.att.forward


def all_rows(ids: Tensor) -> Stream:
    """The stream of texts (S, T) that keep every position."""
    layout = dense(*ids.shape, None, ids.device)
    return Stream(layout, layout, layout)


def embed_text(model: Any, ids: Tensor, segments: Tensor | None = None) -> Tensor:
    """The embedding layer of either side: ids (S, T) to (S, T, H)."""
    if isinstance(model.embeddings, huggingface.LxmertEmbeddings):
        return model.embeddings(ids, segments)
    return model.embeddings(ids, segments, None, all_rows(ids)).unflatten(0, ids.shape)


def image_pairs_model(config: LxmertConfig) -> Any:
    """The NLVR2 model with scattered weights."""
    return scatter(LxmertForImagePairs(config)).eval()
