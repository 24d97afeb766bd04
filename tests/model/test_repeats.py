"""Equal texts and images are found in a batch, and nothing else is taken for equal."""

from __future__ import annotations

import pytest
import torch
from cases import both, make_batch, make_config
from hypothesis import given
from hypothesis import strategies as st
from tolerance import FP64, assert_close, assert_gradients_close, gradients

from lxmert_fast import accelerate
from lxmert_fast.models import LxmertForQuestionAnswering
from lxmert_fast.repeats import share_repeats


@given(kinds=st.lists(st.integers(0, 4), min_size=1, max_size=9))
def test_any_pattern(kinds: list[int]):
    """Kinds whose sums are equal and rows that differ in one part only."""
    index = torch.tensor(kinds)
    features = torch.eye(5)[:, None, :].repeat(1, 2, 1)[index]
    boxes = (torch.arange(5) % 2)[index][:, None].float()
    (found, other, absent), which = share_repeats(features, boxes, None)
    assert absent is None
    if len(set(kinds)) == len(kinds):
        assert which is None
        assert found is features
        return
    assert len(found) == len(other) == len(set(kinds))
    assert torch.equal(found[which], features)
    assert torch.equal(other[which], boxes)


def test_rows_with_nan_and_parts_with_gradients_are_left_alone():
    rows = torch.ones(3, 4)
    assert share_repeats(rows.clone().fill_(torch.nan))[1] is None
    assert share_repeats(rows.clone().requires_grad_())[1] is None
    assert share_repeats(rows)[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("find", [True, False])
def test_a_batch_written_for_transformers(find: bool):
    """Images repeated for their questions: encoded once, with the same outputs and gradients."""
    _, model = both(LxmertForQuestionAnswering, make_config())
    model.double()
    batch = make_batch(model.config, pairs=6)
    index = torch.tensor([0, 0, 0, 1, 1, 0])
    batch |= {name: batch[name][index].double() for name in ("visual_feats", "visual_pos")}
    batch["input_ids"][3], batch["token_type_ids"][3] = batch["input_ids"][0], batch["token_type_ids"][0]
    labels = torch.tensor([0, 1, 2, 3, 4, 5])
    wanted = model(**batch, labels=labels)
    wanted.loss.backward()
    expected = {name: None if g is None else g.clone() for name, g in gradients(model).items()}
    model.zero_grad()
    accelerate(model, find_repeats=find)
    rows: list[int] = []
    for layer in (model.lxmert.encoder.layer[0], model.lxmert.encoder.r_layers[0]):
        layer.register_forward_hook(lambda m, x, y: rows.append(len(x[0])))
    found = model(**batch, labels=labels)
    found.loss.backward()
    assert rows == ([5 * 9, 2 * 6] if find else [6 * 9, 6 * 6])
    assert_close(found.question_answering_score, wanted.question_answering_score, tolerance=FP64)
    assert_gradients_close(gradients(model), expected, tolerance=FP64)
