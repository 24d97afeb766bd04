"""Files of the original implementation (airsplay/lxmert): their names, and what their shapes tell.

    pre-training   bert.…  cls.…  obj_predict_head.…  answer_head.…     each with or without `module.`
    fine-tuned     lxrt_encoder.model.bert.…  logit_fc.…               or lxrt_encoder.model.module.bert.…
    BERT           bert.…  cls.…                                        LayerNorms called gamma and beta

Hugging Face's port, and so this library, changes the first component of a name and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import LxmertConfig, PreTrainedModel

from .errors import InputError
from .modeling import LxmertModel
from .models import LxmertForImagePairs, LxmertForPreTraining, LxmertForQuestionAnswering

VISUAL_LOSS_NORMALIZER = 1 / 0.15
"""The original's factor on the three visual losses; Hugging Face rounds it to 6.67."""

BERT_LAYERS = 9
"""How many of BERT's twelve layers the original takes: the first nine."""

_DROPPED = re.compile(r"^(module\.)*(lxrt_encoder\.model\.)?(module\.)*")
_VISUAL = ("lxmert.encoder.visn_fc.", "lxmert.encoder.r_layers.", "lxmert.encoder.x_layers.")


def huggingface_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under Hugging Face's names, which are this library's; those stay as they are.

    Raises:
        InputError: two entries become one.
    """
    renamed: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for key, tensor in state.items():
        name = _DROPPED.sub("", key)
        if name.startswith("logit_fc."):
            name = f"answer_head.{name}"
        elif name.startswith("bert."):
            name = name.replace("bert.", "lxmert.", 1)
        elif name.startswith(("embeddings.", "encoder.", "pooler.")):
            name = f"lxmert.{name}"
        name = re.sub(r"\.gamma$", ".weight", name)
        name = re.sub(r"\.beta$", ".bias", name)
        if name in renamed:
            raise InputError(f"entries {origin[name]!r} and {key!r} are both {name!r}")
        renamed[name], origin[name] = tensor, key
    return renamed


def original_names(model: PreTrainedModel) -> dict[str, Tensor]:
    """A model's tensors under the names that the original would have written, the tied decoder included.

    The pre-training model and the bare backbone get `bert.…`, the task models `lxrt_encoder.model.bert.…`
    and a top-level `logit_fc.…`.
    """
    state = model.state_dict()
    if isinstance(model, LxmertModel):
        return {f"bert.{name}": tensor for name, tensor in state.items()}
    if isinstance(model, LxmertForPreTraining):
        return {re.sub(r"^lxmert\.", "bert.", name): tensor for name, tensor in state.items()}
    return {
        re.sub(r"^lxmert\.", "lxrt_encoder.model.bert.", name.removeprefix("answer_head.")): tensor
        for name, tensor in state.items()
    }


def is_bert(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors (under Hugging Face's names) are a text-only BERT's."""
    names = tuple(state)
    return any(name.startswith("lxmert.encoder.layer.") for name in names) and not any(
        name.startswith(_VISUAL) for name in names
    )


def infer_class(state: Mapping[str, Tensor]) -> type[PreTrainedModel]:
    """The model that tensors (under Hugging Face's names) were saved from, by its heads.

    Two images side by side before the answer head make it the NLVR2 model. Tensors of something else count
    as a pre-training file, of which then nothing matches.
    """
    heads = ("cls.", "obj_predict_head.")
    if any(name.startswith(heads) for name in state) or not any(map(_is_ours, state)):
        return LxmertForPreTraining
    head = state.get("answer_head.logit_fc.0.weight")
    if head is None:
        return LxmertModel
    both_twice_as_wide = head.dim() == 2 and head.shape[0] == head.shape[1]
    return LxmertForImagePairs if both_twice_as_wide else LxmertForQuestionAnswering


def infer_config(state: Mapping[str, Tensor], num_attention_heads: int | None = None) -> LxmertConfig:
    """The configuration that tensors (under Hugging Face's names) were saved with.

    Everything but the number of heads shows in the shapes; what a file lacks altogether keeps the paper's
    value. Heads are 64 wide in the original.

    Args:
        num_attention_heads: for models with heads of another width.

    Raises:
        InputError: the hidden size is no multiple of 64 and the number of heads is not given.
    """
    if not any(map(_is_ours, state)):
        return LxmertConfig()
    found: dict[str, Any] = {
        "vocab_size": _size(state, "lxmert.embeddings.word_embeddings.weight", 0),
        "hidden_size": _size(state, "lxmert.embeddings.word_embeddings.weight", 1),
        "max_position_embeddings": _size(state, "lxmert.embeddings.position_embeddings.weight", 0),
        "type_vocab_size": _size(state, "lxmert.embeddings.token_type_embeddings.weight", 0),
        "intermediate_size": _intermediate_size(state),
        "visual_feat_dim": _size(state, "lxmert.encoder.visn_fc.visn_fc.weight", 1),
        "visual_pos_dim": _size(state, "lxmert.encoder.visn_fc.box_fc.weight", 1),
        "num_object_labels": _size(state, "obj_predict_head.decoder_dict.obj.weight", 0),
        "num_attr_labels": _size(state, "obj_predict_head.decoder_dict.attr.weight", 0),
        "num_qa_labels": _size(state, "answer_head.logit_fc.3.weight", 0),
    }
    if is_bert(state):
        found["l_layers"] = min(BERT_LAYERS, _layers(state, "layer"))
    else:
        found |= {f"{kind}_layers": _layers(state, f"{kind}_layers") for kind in "xr"}
        found["l_layers"] = _layers(state, "layer")
        if infer_class(state) is LxmertForPreTraining:
            found |= _tasks(state)
    sizes = {name: size for name, size in found.items() if size is not None}
    hidden = sizes.get("hidden_size", LxmertConfig().hidden_size)
    if num_attention_heads is None and hidden % 64 != 0:
        raise InputError(
            f"hidden size {hidden} is no multiple of 64, the original's width of a head, and a file does not "
            "record the number of heads: give it (num_attention_heads, on the command line --heads)"
        )
    return LxmertConfig(
        **sizes,
        num_attention_heads=num_attention_heads or hidden // 64,
        visual_loss_normalizer=VISUAL_LOSS_NORMALIZER,
    )


def _is_ours(name: str) -> bool:
    return name.startswith(("lxmert.", "cls.", "obj_predict_head.", "answer_head."))


def _tasks(state: Mapping[str, Tensor]) -> dict[str, bool]:
    """Which heads a pre-training file has; the released weights without question answering lack one."""
    heads = {".".join(name.split(".")[:3]) for name in state}
    decoders = {kind: f"obj_predict_head.decoder_dict.{kind}" in heads for kind in ("obj", "attr", "feat")}
    return {
        "task_obj_predict": any(decoders.values()),
        "task_qa": "answer_head.logit_fc.3" in heads,
        **{f"visual_{kind}_loss": present for kind, present in decoders.items()},
    }


def _layers(state: Mapping[str, Tensor], kind: str) -> int:
    pattern = re.compile(rf"lxmert\.encoder\.{kind}\.(\d+)\.")
    return len({match[1] for name in state if (match := pattern.match(name))})


def _intermediate_size(state: Mapping[str, Tensor]) -> int | None:
    homes = ("layer.0.intermediate", "r_layers.0.intermediate", "x_layers.0.lang_inter")
    sizes = (_size(state, f"lxmert.encoder.{home}.dense.weight", 0) for home in homes)
    return next((size for size in sizes if size is not None), None)


def _size(state: Mapping[str, Tensor], name: str, dim: int) -> int | None:
    tensor = state.get(name)
    return tensor.shape[dim] if tensor is not None and tensor.dim() == 2 else None
