"""Parameters that no loss of a model reaches.

A head reads little of the last layer (`execution.py`), and a configuration may switch heads off. The original
leaves such parameters without gradient, and its optimizer leaves them alone. ZeRO's flat partitions have a
gradient for every element, zeros where none came, and would decay them: whoever trains freezes them first.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .errors import InputError
from .modeling import LxmertModel
from .models import LxmertForImagePairs, LxmertForPreTraining, LxmertForQuestionAnswering


def unused_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters that never get a gradient from the model's losses, whatever the batch.

    From the structure and the configuration; nothing is run. `LxmertModel` has no loss, and everything of it
    counts as used.

    Args:
        model: one of this library's models, or one of transformers' after `accelerate`.

    Raises:
        InputError: another kind of model.
    """
    if isinstance(model, LxmertModel):
        return []
    if isinstance(model, LxmertForPreTraining):
        unused = _of_pretraining(model)
    elif isinstance(model, (LxmertForQuestionAnswering, LxmertForImagePairs)):
        unused = _of_backbone(model, words=False, regions=False, pooled=True)
    else:
        raise InputError(f"unused_parameters got a {type(model).__name__}, wanted a model of this library")
    # of a tied weight, only the first name is listed
    return [name for name, _ in model.named_parameters() if name.startswith(tuple(unused))]


def _of_pretraining(model: LxmertForPreTraining) -> list[str]:
    config: Any = model.config
    objects = config.task_obj_predict and len(model.obj_predict_head.decoder_dict) > 0
    pooled = config.task_matched or config.task_qa
    unused = _of_backbone(model, words=config.task_mask_lm, regions=objects, pooled=pooled)
    if not config.task_mask_lm:
        unused.append("cls.predictions.")
    if not config.task_matched:
        unused.append("cls.seq_relationship.")
    if not objects:
        unused.append("obj_predict_head.")
    return unused


def _of_backbone(model: Any, *, words: bool, regions: bool, pooled: bool) -> list[str]:
    """Prefixes under `lxmert.`, by what is read of the last layer: words, regions, the pooled output."""
    unused = [] if pooled else ["lxmert.pooler."]
    streams = {
        "lang": (words or pooled, ["lxmert.embeddings.", "lxmert.encoder.layer."]),
        "visn": (regions, ["lxmert.encoder.visn_fc.", "lxmert.encoder.r_layers."]),
    }
    last = len(model.lxmert.encoder.x_layers) - 1
    if not any(read for read, _ in streams.values()):
        return ["lxmert."]
    for stream, (read, before) in streams.items():
        if read:
            continue
        if last < 0:
            # the streams never met
            unused += before
        else:
            ends = ("self_att", "inter", "output")
            unused += [f"lxmert.encoder.x_layers.{last}.{stream}_{end}." for end in ends]
    return unused
