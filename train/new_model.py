"""A model from nothing: sizes from the settings, the rest from the data, weights from the seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
from transformers import LxmertConfig, PreTrainedModel

from lxmert_fast.bert import load_bert
from lxmert_fast.data.answers import AnswerMap, AnswerTable
from lxmert_fast.data.json_list import read_json
from lxmert_fast.data.node_local import copy_to_node
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.text import TextEncoder

from .settings import ModelSettings, RunSettings

P = TypeVar("P", bound=PreTrainedModel)


def config_for(
    settings: ModelSettings, text: TextEncoder, store: RegionStore, num_answers: int
) -> LxmertConfig:
    """The configuration of a new model.

    Vocabulary, feature size and classes are the data's; the visual losses are scaled by 1 / 0.15 as in the
    original, whatever the mask rate (reference 8.16).
    """
    sizes = settings.model_dump(exclude={"start_from", "start_answers", "bert"})
    return LxmertConfig(
        **sizes,
        vocab_size=text.vocab_size,
        visual_feat_dim=store.feature_size,
        num_qa_labels=num_answers,
        num_object_labels=store.num_objects,
        num_attr_labels=store.num_attributes,
        visual_loss_normalizer=1 / 0.15,
    )


def open_regions(paths: Sequence[Path], run: RunSettings) -> RegionStore:
    """The run's region stores, of this host's own disk where `run.node_local` says so.

    Raises:
        InputError: a file that can't be copied there.
    """
    return RegionStore(*(copy_to_node(paths, run.node_local) if run.node_local else paths))


def read_answers(path: Path) -> AnswerTable | AnswerMap:
    """The joint table (`all_ans.json`) or a plain list of answers (`label2ans.json`)."""
    table = read_json(path)
    if isinstance(table, list) and table and isinstance(table[0], dict):
        return AnswerTable(path)
    return AnswerMap.from_files(None, path)


def new_model(
    settings: ModelSettings, config: LxmertConfig, model_class: type[P], text: TextEncoder, seed: int
) -> P:
    """Random weights that follow from `seed`; the text side is BERT's where the settings name one.

    Raises:
        InputError: a BERT that is missing or of other sizes.
    """
    torch.manual_seed(seed)
    model = model_class(config)
    if settings.bert is not None:
        load_bert(model, settings.bert, text)
    return model
