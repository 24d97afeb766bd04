"""BERT initialisation (section 3.3, reference 1.4): the text side of a new model from a text-only encoder.

Embeddings, the first `l_layers` layers and the pooler are BERT's, and the masked-word head where the file has
one; cross-modality, relationship and visual parts keep their random values.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from .airsplay import huggingface_names, is_bert
from .data.json_list import read_json
from .data.text import TextEncoder, read_vocabulary
from .errors import InputError
from .loading import BERT_PART, LoadSummary, load_into
from .weight_files import find_file, read_folder, read_tensors

_LAYER = re.compile(r"lxmert\.encoder\.layer\.(\d+)\.")
_POSITIONS = "lxmert.embeddings.position_embeddings.weight"
_HEAD = "cls.predictions."
VOCABULARY = "vocab.txt"
SAME = {"model_type": "bert", "hidden_act": "gelu"}
SIZES = ("hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")


def load_bert(model: PreTrainedModel, path: Path, text: TextEncoder) -> LoadSummary:
    """Copy a BERT encoder into a model of this library, in place.

    Args:
        model: of BERT's width; it may have fewer layers and positions, the first ones are taken.
        path: a folder with `config.json`, weights and perhaps `vocab.txt`, or a BERT `.pth` or `.bin` file.
        text: the model's vocabulary, which must be BERT's.

    Raises:
        InputError: nothing there, damaged, not BERT, or of other sizes; file, key, found and wanted.
    """
    if path.is_dir():
        _check_config(path / "config.json", model)
        if (path / VOCABULARY).is_file() and read_vocabulary(path / VOCABULARY) != read_vocabulary(
            text.vocabulary
        ):
            raise InputError(
                f"{text.vocabulary}: not the vocabulary of {path / VOCABULARY}, whose words the weights know"
            )
        tensors = read_folder(path)
    else:
        tensors = read_tensors(find_file(path))
    state = huggingface_names(tensors)
    if not is_bert(state):
        raise InputError(f"{path}: no text-only BERT in it, its first entry is {next(iter(state))!r}")
    layers = len({match[1] for name in state if (match := _LAYER.match(name))})
    wanted = model.config.l_layers
    if layers < wanted:
        raise InputError(f"{path}: {layers} layers, model.l_layers wants {wanted}")
    return load_into(model, _text_side(state, model), allow_partial=True, source=path)


def _text_side(state: dict[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
    known = model.state_dict()
    kept = {}
    for name, tensor in state.items():
        layer = _LAYER.match(name)
        if layer and int(layer[1]) >= model.config.l_layers:
            continue
        if name == _POSITIONS:
            tensor = tensor[: model.config.max_position_embeddings]
        if name in known and name.startswith((*BERT_PART, _HEAD)):
            kept[name] = tensor
    return kept


def _check_config(file: Path, model: PreTrainedModel) -> None:
    config: Any = read_json(file)
    if not isinstance(config, dict):
        raise InputError(f"{file}: found {type(config).__name__}, wanted the configuration of a BERT model")
    wanted = SAME | {name: getattr(model.config, name) for name in SIZES}
    for key, value in wanted.items():
        if config.get(key) != value:
            raise InputError(f"{file}: {key} is {config.get(key)!r}, the model's is {value!r}")
    if config.get("max_position_embeddings", 0) < model.config.max_position_embeddings:
        found, most = config.get("max_position_embeddings"), model.config.max_position_embeddings
        raise InputError(f"{file}: max_position_embeddings is {found!r}, the model has {most}")
