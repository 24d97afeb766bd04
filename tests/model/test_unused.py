"""The parameters named as unused are those that a backward pass leaves without gradient, and no others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import make_batch, make_config, pretraining_labels
from torch import nn
from transformers import LxmertConfig
from transformers.models.lxmert import modeling_lxmert as huggingface

from lxmert_fast import accelerate
from lxmert_fast.errors import InputError
from lxmert_fast.modeling import LxmertModel
from lxmert_fast.models import LxmertForImagePairs, LxmertForPreTraining, LxmertForQuestionAnswering
from lxmert_fast.unused import unused_parameters

SIZES = [{"x_layers": 0}, {"x_layers": 1}, {"x_layers": 2, "l_layers": 1, "r_layers": 0}]


def config_with(**changes: Any) -> LxmertConfig:
    return make_config(hidden_size=16, intermediate_size=16, **changes)


def without_gradient(model: nn.Module, **batch: Any) -> list[str]:
    model(**batch).loss.backward()
    return [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("sizes", SIZES)
def test_question_answering(sizes: dict):
    config = config_with(**sizes)
    model = LxmertForQuestionAnswering(config)
    batch = make_batch(config) | {"labels": torch.arange(4)}
    assert unused_parameters(model) == without_gradient(model, **batch) != []


@pytest.mark.parametrize("sizes", SIZES)
def test_image_pairs(sizes: dict):
    config = config_with(**sizes)
    model = LxmertForImagePairs(config)
    batch = make_batch(config) | {"labels": torch.tensor([0, 1, 1, 0])}
    for name in ("visual_feats", "visual_pos"):
        batch[name] = torch.stack([batch[name], batch[name] + 0.1], 1)
    assert unused_parameters(model) == without_gradient(model, **batch) != []


HEADS: list[dict[str, Any]] = [
    {},
    {"task_obj_predict": False},
    {"task_mask_lm": False},
    {"task_mask_lm": False, "tie_word_embeddings": False},
    {"task_matched": False, "task_qa": False},
    {"task_mask_lm": False, "task_matched": False, "task_qa": False},
    {"visual_obj_loss": False, "visual_attr_loss": False, "visual_feat_loss": False},
]


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("sizes", SIZES)
def test_pretraining(sizes: dict, heads: dict):
    config = config_with(**sizes, **heads)
    model = LxmertForPreTraining(config)
    batch = make_batch(config) | pretraining_labels(config)
    unused = unused_parameters(model)
    for loss_only in (True, False):
        model.loss_only = loss_only
        model.zero_grad()
        assert without_gradient(model, **batch) == unused


def test_without_any_task_all_is_unused():
    tasks = ("task_mask_lm", "task_matched", "task_obj_predict", "task_qa")
    model = LxmertForPreTraining(config_with(**dict.fromkeys(tasks, False)))
    assert unused_parameters(model) == [name for name, _ in model.named_parameters()]


def test_of_transformers_after_accelerate():
    config = config_with()
    model = huggingface.LxmertForQuestionAnswering(config)
    accelerate(model)
    batch = make_batch(config) | {"labels": torch.arange(4)}
    assert unused_parameters(model) == without_gradient(model, **batch) != []


def test_a_backbone_has_no_loss_to_go_by():
    assert unused_parameters(LxmertModel(config_with())) == []


def test_another_model_is_refused():
    with pytest.raises(InputError, match="got a Linear, wanted a model of this library"):
        unused_parameters(nn.Linear(2, 2))
