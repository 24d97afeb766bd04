"""Is this implementation exact for a given checkpoint? Load it in transformers' LXMERT too and compare.

The reference's weights go their own way from the file to transformers' class, so that a fault in this
library's loading shows as well as one in its arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LxmertConfig, PreTrainedModel
from transformers.models.lxmert import modeling_lxmert as huggingface

from .checkpoint import Checkpoint, load_model, read_checkpoint
from .errors import InputError
from .losses import IGNORE
from .modeling import LxmertModel
from .models import LxmertForImagePairs, LxmertForPreTraining, LxmertForQuestionAnswering

TOLERANCE = 1e-5
"""fp32: largest difference over the tensor's largest value."""

GRADIENTS = {
    "word embedding": "lxmert.embeddings.word_embeddings.weight",
    "feature projection": "lxmert.encoder.visn_fc.visn_fc.weight",
    "language query": "lxmert.encoder.layer.0.attention.self.query.weight",
    "relation FFN": "lxmert.encoder.r_layers.0.intermediate.dense.weight",
    "cross value": "lxmert.encoder.x_layers.0.visual_attention.att.value.weight",
    "cross LayerNorm": "lxmert.encoder.x_layers.0.visual_attention.output.LayerNorm.weight",
    "pooler bias": "lxmert.pooler.dense.bias",
    "word decoder bias": "cls.predictions.bias",
    "feature decoder": "obj_predict_head.decoder_dict.feat.weight",
    "answer decoder": "answer_head.logit_fc.3.weight",
}
"""Parameters from every part of the model, where the model has them."""

SMALL_GRADIENT = 1e-3
"""Gradients are held against their tensor's largest value or this share of the batch's largest gradient,
whichever is more: some are zero by construction (one token: its query), and rounding beside them."""


@dataclass
class Difference:
    """One line of the report: the worst of one output over all batches."""

    output: str
    where: str
    """The batch, the entry or the layer that was worst."""
    absolute: float
    relative: float

    @property
    def within(self) -> bool:
        """Whether it is in tolerance; not-a-number never is."""
        return self.relative <= TOLERANCE


def verify(
    path: str | Path,
    *,
    num_attention_heads: int | None = None,
    progress: Callable[[int], None] = lambda amount: None,
) -> list[Difference]:
    """Compare both implementations of a checkpoint in fp32 on the CPU.

    Args:
        path: as for `load_model`.
        num_attention_heads: as for `load_model`.
        progress: called after each of `num_batches()` batches.

    Returns:
        The weights first, then each output, the loss and some gradients, with the batch that was worst.

    Raises:
        InputError: no such checkpoint, one that does not fit, or one that transformers cannot run.
    """
    checkpoint = read_checkpoint(path, num_attention_heads=num_attention_heads)
    ours = load_model(path, num_attention_heads=num_attention_heads).float()
    config = ours.config
    if config.r_layers + config.x_layers == 0 or config.l_layers + config.x_layers == 0:
        raise InputError(f"{path}: an encoder without layers, which transformers' LXMERT cannot run")
    reference = reference_model(checkpoint)

    worst: dict[str, Difference] = {}

    def note(output: str, where: str, found: Tensor, wanted: Tensor, floor: float = 0.0) -> None:
        absolute, relative = difference(found, wanted, floor)
        if output not in worst or not relative <= worst[output].relative:
            worst[output] = Difference(output, where, absolute, relative)

    theirs = reference.state_dict()
    for name, tensor in ours.state_dict().items():
        note("weights", name, tensor, theirs[name])
    for batch, inputs in batches(ours):
        here = outputs(ours, inputs)
        for (output, layer), tensor in outputs(reference, inputs).items():
            note(output.replace("_", " "), f"{batch}{layer}", here[output, layer], tensor)
        found, wanted = gradients(ours, inputs), gradients(reference, inputs)
        floor = SMALL_GRADIENT * max(map(_largest, wanted.values()))
        for output, tensor in wanted.items():
            note(f"gradient: {output}", batch, found[output], tensor, floor)
        progress(1)
    return list(worst.values())


def difference(found: Tensor, wanted: Tensor, floor: float = 0.0) -> tuple[float, float]:
    """Largest absolute difference, and the same over the largest value of `wanted` or `floor`.

    Infinite where either holds anything that is not a finite number.
    """
    if found.shape != wanted.shape:
        return math.inf, math.inf
    absolute, scale = _largest(found - wanted), _largest(wanted)
    if not math.isfinite(absolute) or not math.isfinite(scale):
        return math.inf, math.inf
    return absolute, absolute / max(scale, floor, torch.finfo(torch.float32).tiny)


def _largest(x: Tensor) -> float:
    if x.numel() == 0:
        return 0.0
    low, high = x.aminmax()  # several times faster than abs().max(), and passes NaN on
    return abs(max(-low.item(), high.item()))


class ImagePairsReference(nn.Module):
    """NLVR2's model out of transformers' parts, which has no class for it."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        width = 2 * config.hidden_size
        self.lxmert = huggingface.LxmertModel(config)
        self.answer_head = huggingface.LxmertVisualAnswerHead(config, 2)
        self.answer_head.logit_fc[0] = nn.Linear(width, width)

    def forward(
        self, input_ids: Tensor, visual_feats: Tensor, visual_pos: Tensor, labels: Tensor, **masks: Tensor
    ) -> dict[str, Tensor]:
        """Sentences (B, T) beside images (B, 2, O, F): each sentence twice, the two outputs side by side."""
        pooled = self.lxmert(
            input_ids.repeat_interleave(2, 0),
            visual_feats.flatten(0, 1),
            visual_pos.flatten(0, 1),
            masks["attention_mask"].repeat_interleave(2, 0) if "attention_mask" in masks else None,
            masks["visual_attention_mask"].flatten(0, 1) if "visual_attention_mask" in masks else None,
        ).pooled_output
        logits = self.answer_head(pooled.view(len(input_ids), -1))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def reference_model(checkpoint: Checkpoint) -> nn.Module:
    """transformers' model of the same kind, in fp32, with the file's own tensors in it."""
    config = LxmertConfig(**checkpoint.config.to_dict())
    kinds: dict[type, Callable[[LxmertConfig], nn.Module]] = {
        LxmertModel: huggingface.LxmertModel,
        LxmertForPreTraining: huggingface.LxmertForPreTraining,
        LxmertForQuestionAnswering: huggingface.LxmertForQuestionAnswering,
        LxmertForImagePairs: ImagePairsReference,
    }
    reference = kinds[checkpoint.model_class](config).float()
    prefix = "lxmert." if checkpoint.model_class is LxmertModel else ""
    state = {name.removeprefix(prefix): tensor for name, tensor in checkpoint.state.items()}
    reference.load_state_dict(state, strict=False)
    return reference.eval()


BATCHES = (
    "padded texts",
    "no mask",
    "mask with holes",
    "fully masked text",
    "fractional mask",
    "box counts differ",
    "one pair",
    "one token",
    "all layers",
)


def batches(model: PreTrainedModel) -> Iterator[tuple[str, dict[str, Any]]]:
    """Named random batches, the edge cases of masks and sizes among them; always the same ones."""
    config = model.config
    generator = torch.Generator().manual_seed(9595)
    for name in BATCHES:
        pairs = 1 if name == "one pair" else 3
        tokens = 1 if name == "one token" else min(12, config.max_position_embeddings)
        mask = torch.arange(tokens) < torch.tensor([[tokens], [max(1, tokens // 2)], [max(1, tokens - 2)]])
        mask = mask[:pairs].float()
        if name == "mask with holes":
            mask[:, 1::3] = 0.0
        elif name == "fully masked text":
            mask[-1] = 0.0
        elif name == "fractional mask":
            mask *= 0.5
        inputs = _labelled_batch(model, pairs, tokens, 7, generator)
        if name != "no mask":
            inputs["attention_mask"] = mask
        if name == "box counts differ":
            visual = (torch.arange(7) < torch.tensor([[7], [4], [1]])).float()
            twice = isinstance(model, LxmertForImagePairs)
            inputs["visual_attention_mask"] = visual[:, None].expand(3, 2, 7) if twice else visual
        if name == "all layers" and not isinstance(model, LxmertForImagePairs):
            inputs |= {"output_hidden_states": True, "output_attentions": True}
        yield name, inputs


def _labelled_batch(
    model: PreTrainedModel, pairs: int, tokens: int, objects: int, generator: torch.Generator
) -> dict[str, Any]:
    config = model.config
    images = (pairs, 2) if isinstance(model, LxmertForImagePairs) else (pairs,)

    def ids(limit: int, *shape: int) -> Tensor:
        return torch.randint(limit, shape, generator=generator)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    inputs: dict[str, Any] = {
        "input_ids": ids(config.vocab_size, pairs, tokens),
        "visual_feats": uniform(*images, objects, config.visual_feat_dim) * 4,
        "visual_pos": uniform(*images, objects, config.visual_pos_dim),
    }
    if isinstance(model, LxmertForImagePairs):
        inputs["labels"] = ids(2, pairs)
    elif isinstance(model, LxmertForQuestionAnswering):
        inputs["labels"] = ids(config.num_qa_labels, pairs)
    elif isinstance(model, LxmertForPreTraining):
        words = ids(config.vocab_size, pairs, tokens)
        words[uniform(pairs, tokens) < 0.5] = IGNORE
        words[0, 0] = 1
        inputs |= {
            "labels": words,
            "matched_label": ids(2, pairs),
            "ans": ids(config.num_qa_labels, pairs),
            "obj_labels": {
                "obj": (ids(config.num_object_labels, pairs, objects), uniform(pairs, objects)),
                "attr": (ids(config.num_attr_labels, pairs, objects), uniform(pairs, objects)),
                "feat": (
                    uniform(pairs, objects, config.visual_feat_dim) * 4,
                    (uniform(pairs, objects) < 0.5).float(),
                ),
            },
        }
    return inputs


@torch.no_grad()
def outputs(model: nn.Module, inputs: dict[str, Any]) -> dict[tuple[str, str], Tensor]:
    """Every output by its name and its layer (", layer 2"; empty where there is one only)."""
    found: dict[tuple[str, str], Tensor] = {}
    for name, value in model(**inputs).items():
        if isinstance(value, tuple):
            found |= {(name, f", layer {layer}"): tensor for layer, tensor in enumerate(value)}
        # transformers gives a number of no meaning for the answers where there is no answer head
        elif isinstance(value, Tensor) and (name == "loss" or value.dim() > 0):
            found[name, ""] = value
    return found


def gradients(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """Gradients of the loss (of the mean pooled output where there is none) with respect to `GRADIENTS`."""
    model.zero_grad(set_to_none=True)
    output = model(**inputs)
    loss = output["loss"] if "loss" in output else output["pooled_output"].mean()
    loss.backward()
    parameters = dict(model.named_parameters())
    found = {
        label: parameters.get(name, parameters.get(name.removeprefix("lxmert.")))
        for label, name in GRADIENTS.items()
    }
    return {label: p.grad for label, p in found.items() if p is not None and p.grad is not None}
