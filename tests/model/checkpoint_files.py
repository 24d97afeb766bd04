"""Files as the original writes them, spelled out here once more and not by the library's own renaming."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from cases import make_config, scatter
from torch import Tensor

from lxmert_fast.models import LxmertForPreTraining

DECODER = "cls.predictions.decoder.weight"


def make_model(kind: type, **changes: Any) -> Any:
    """Heads of 64, as the original's, so that a file tells everything."""
    return scatter(kind(make_config(hidden_size=128, num_attention_heads=2, l_layers=3, **changes))).eval()


def assert_equal_weights(found: Any, wanted: Any) -> None:
    mine, theirs = found.state_dict(), wanted.state_dict()
    assert list(mine) == list(theirs)
    assert [name for name in theirs if not torch.equal(mine[name], theirs[name])] == []


def original(kind: type = LxmertForPreTraining, **changes: Any) -> OrderedDict[str, Tensor]:
    """A file's content as the original would have written it, spelled out here once more."""
    model = make_model(kind, **changes)
    content = OrderedDict()
    for name, tensor in model.state_dict().items():
        if kind is LxmertForPreTraining:
            content[name.replace("lxmert.", "bert.", 1) if name.startswith("lxmert.") else name] = tensor
        elif name.startswith("lxmert."):
            content["lxrt_encoder.model.bert." + name.removeprefix("lxmert.")] = tensor
        else:
            content[name.removeprefix("answer_head.")] = tensor
    return content


def prefixed(content: dict[str, Tensor], where: str) -> OrderedDict[str, Tensor]:
    """As DataParallel names it: `module.` in front, or inside the encoder of a fine-tuned model."""
    if where == "front":
        return OrderedDict((f"module.{name}", tensor) for name, tensor in content.items())
    inside = "lxrt_encoder.model."
    return OrderedDict((name.replace(inside, f"{inside}module."), tensor) for name, tensor in content.items())


def bert_file(layers: int = 12) -> OrderedDict[str, Tensor]:
    """BERT's archive: three times more language layers, LayerNorms called gamma and beta, no vision."""
    whole = scatter(
        LxmertForPreTraining(make_config(hidden_size=128, num_attention_heads=2, l_layers=layers))
    )
    content = OrderedDict()
    for name, tensor in whole.state_dict().items():
        if name.startswith(("lxmert.embeddings.", "lxmert.encoder.layer.", "lxmert.pooler.", "cls.")):
            name = name.replace("lxmert.", "bert.", 1)
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
            content[name] = tensor
    return content
