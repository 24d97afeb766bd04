"""The losses against their formulas (reference 2.4), and means over nothing."""

from __future__ import annotations

import math

import pytest
import torch
from cases import make_batch, make_config, pretraining_labels, scatter
from tolerance import assert_close
from torch import Tensor
from torch.nn import functional as F

from lxmert_fast.errors import InputError
from lxmert_fast.losses import (
    answer_loss,
    feature_regression_loss,
    labelled_cross_entropy,
    object_label_loss,
    object_losses,
)
from lxmert_fast.models import LxmertForPreTraining, LxmertForQuestionAnswering

B, O, C, F_ = 3, 4, 5, 6  # noqa: E741 (the shape letter of the design)


def scores(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).float().requires_grad_()


def surprise(row: Tensor, label: int) -> float:
    """-log softmax, spelled out."""
    values = row.tolist()
    return math.log(sum(math.exp(v) for v in values)) - values[label]


def test_cross_entropy_is_the_mean_over_labelled_rows():
    found = scores(2, 3, C)
    labels = torch.tensor([[1, -100, 4], [-100, -100, 0]])
    wanted = (surprise(found[0, 0], 1) + surprise(found[0, 2], 4) + surprise(found[1, 2], 0)) / 3
    assert labelled_cross_entropy(found, labels).item() == pytest.approx(wanted, rel=1e-6)


def test_object_labels_are_weighted_by_confidence_and_averaged_over_all_objects():
    found = scores(B, O, C)
    labels = torch.arange(B * O).view(B, O) % C
    labels[1, 2] = -100
    confidence = torch.linspace(0.1, 0.9, B * O).view(B, O)
    wanted = sum(
        surprise(found[b, o], int(labels[b, o])) * confidence[b, o].item()
        for b in range(B)
        for o in range(O)
        if (b, o) != (1, 2)
    )
    # the ignored object counts in the mean
    assert object_label_loss(found, labels, confidence).item() == pytest.approx(wanted / (B * O), rel=1e-6)


def test_feature_regression_is_smooth_l1_on_masked_objects_over_all_objects():
    found, target = scores(B, O, F_), torch.zeros(B, O, F_)
    mask = torch.zeros(B, O)
    mask[0, 1] = mask[2, 3] = 1.0
    rows = torch.cat([found[0, 1], found[2, 3]]).tolist()
    wanted = sum(0.5 * x * x if abs(x) < 1 else abs(x) - 0.5 for x in rows) / F_
    assert feature_regression_loss(found, target, mask).item() == pytest.approx(wanted / (B * O), rel=1e-6)


def test_object_losses_are_scaled_by_the_normalizer():
    found = {"obj": scores(B, O, C), "feat": scores(B, O, F_)}
    labels = {
        "obj": (torch.ones(B, O, dtype=torch.int64), torch.rand(B, O)),
        "feat": (torch.rand(B, O, F_), torch.ones(B, O)),
        "attr": (torch.ones(B, O, dtype=torch.int64), torch.rand(B, O)),
    }
    once, scaled = object_losses(found, labels, 1.0), object_losses(found, labels, 1 / 0.15)
    assert list(scaled) == ["obj", "feat"]
    for name in found:
        assert_close(scaled[name], once[name] / 0.15, tolerance=1e-6)


def test_object_losses_name_the_missing_labels():
    with pytest.raises(InputError, match=r"obj_labels has keys \[\], the model also predicts 'obj'"):
        object_losses({"obj": scores(B, O, C)}, {}, 1.0)


def test_soft_answers_give_binary_cross_entropy_times_answers():
    """The sum over answers, mean over questions: the original's loss."""
    found = scores(B, C)
    labels = torch.tensor([[1.0, 0.3, 0, 0, 0], [0, 0, 0.6, 0, 0], [0, 0, 0, 0, 0]])
    p = found.double().sigmoid()
    each = -(labels * p.log() + (1 - labels) * (1 - p).log())
    assert_close(answer_loss(found, labels).double(), each.sum(1).mean(), tolerance=1e-6)


def test_answer_indices_give_cross_entropy():
    found, labels = scores(B, C), torch.tensor([0, 3, 1])
    assert_close(answer_loss(found, labels), F.cross_entropy(found, labels), tolerance=1e-6)
    assert_close(answer_loss(found, labels[:, None]), F.cross_entropy(found, labels), tolerance=1e-6)


@pytest.mark.parametrize(
    "labels",
    [torch.zeros(B, C + 1), torch.zeros(B), torch.zeros(B, C, dtype=torch.int64), torch.zeros(2).long()],
)
def test_answers_of_another_shape_are_refused(labels: Tensor):
    with pytest.raises(InputError, match=r"labels have shape .* wanted \(3,\) int64 .* or \(3, 5\)"):
        answer_loss(scores(B, C), labels)


@pytest.mark.parametrize("shape", [(2, C), (0, C), (0, 3, C)])
def test_cross_entropy_over_nothing_is_a_connected_zero(shape: tuple[int, ...]):
    found = scores(*shape)
    loss = labelled_cross_entropy(found, torch.full(shape[:-1], -100))
    assert loss.item() == 0.0
    loss.backward()
    assert torch.equal(found.grad, torch.zeros(shape))


def test_a_batch_without_any_label_trains_nothing_and_stays_finite():
    """No masked word, no answer, no masked object, no confidence: every gradient is an exact zero."""
    config = make_config()
    model = scatter(LxmertForPreTraining(config))
    labels = pretraining_labels(config)
    ids, confidence = labels["obj_labels"]["obj"]
    target, mask = labels["obj_labels"]["feat"]
    nothing = {"obj": (ids, 0 * confidence), "attr": (ids % 7, 0 * confidence), "feat": (target, 0 * mask)}
    output = model(
        **make_batch(config),
        labels=torch.full_like(labels["labels"], -100),
        matched_label=torch.full_like(labels["matched_label"], -100),
        ans=torch.full_like(labels["ans"], -100),
        obj_labels=nothing,
    )
    assert {name: loss.item() for name, loss in output.losses.items()} == dict.fromkeys(output.losses, 0.0)
    output.loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_the_sum_and_its_parts():
    config = make_config()
    model = scatter(LxmertForPreTraining(config))
    call = make_batch(config) | pretraining_labels(config)
    output = model(**call)
    assert list(output.losses) == ["mask_lm", "matched", "obj", "attr", "feat", "qa"]
    assert_close(sum(output.losses.values()), output.loss, tolerance=1e-6)
    weighted = model(**call, loss_weights={"qa": 0.0, "obj": 2.0})
    wanted = output.loss - output.losses["qa"] + output.losses["obj"]
    assert_close(weighted.loss, wanted, tolerance=1e-6)


def test_losses_are_fp32_whatever_the_model_is():
    config = make_config()
    model = scatter(LxmertForPreTraining(config)).bfloat16()
    output = model(**make_batch(config), **pretraining_labels(config))
    assert {loss.dtype for loss in (output.loss, *output.losses.values())} == {torch.float32}


def test_fine_tuning_takes_both_kinds_of_label():
    config = make_config()
    model = scatter(LxmertForQuestionAnswering(config)).eval()
    batch = make_batch(config)
    wanted = model(**batch).question_answering_score
    soft = torch.rand(wanted.shape)
    assert_close(model(**batch, labels=soft).loss, answer_loss(wanted, soft))
    hard = torch.arange(len(wanted))
    assert_close(model(**batch, labels=hard).loss, F.cross_entropy(wanted, hard))
