"""The execution plan is exact: any batch, planned, gives what the same pairs give one position at a time.

The plain path is this library's own with nothing left out: every text and image written out for its pairs,
every position kept. It is what `test_parity_huggingface.py` holds against transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest
import torch
from cases import double, make_config, scatter
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerance import FP32, FP64, SMALL_GRADIENT, assert_close, gradients, largest
from torch import Tensor

from lxmert_fast import execution
from lxmert_fast.losses import IGNORE
from lxmert_fast.modeling import LxmertModel
from lxmert_fast.models import LxmertForImagePairs, LxmertForPreTraining, LxmertForQuestionAnswering

CONFIG = {"l_layers": 2, "r_layers": 1, "x_layers": 2, "max_position_embeddings": 20}
KINDS = ("ones", "right", "left", "holes", "empty", "fraction", "first masked", "boolean")

Gradients: TypeAlias = dict[str, Tensor | None]


@dataclass(repr=False)
class Case:
    """A batch that shares, and the same pairs written out."""

    shared: dict[str, Any]
    plain: dict[str, Any]

    def __repr__(self) -> str:
        shown = {
            name: x.tolist() if name.endswith(("_mask", "_index")) else tuple(x.shape)
            for name, x in self.shared.items()
            if x is not None
        }
        return f"Case({shown})"


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Lengths 1 to 20, 1 to 50 boxes, any sharing, masks of every kind."""
    pairs = draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    config = make_config(**CONFIG)
    text_index, image_index = (draw(indices(pairs)) for _ in range(2))
    texts, images = (pairs if index is None else int(index.max()) + 1 for index in (text_index, image_index))
    length, boxes = draw(st.integers(1, 20)), draw(st.integers(1, 50))
    shared = {
        "input_ids": torch.randint(1, config.vocab_size, (texts, length), generator=generator),
        "token_type_ids": torch.randint(2, (texts, length), generator=generator),
        "attention_mask": draw(masks(texts, length)),
        "visual_feats": torch.rand(images, boxes, config.visual_feat_dim, generator=generator) * 3,
        "visual_pos": torch.rand(images, boxes, 4, generator=generator),
        "visual_attention_mask": draw(st.none() | masks(images, boxes)),
    }
    plain = {}
    for name, x in shared.items():
        index = image_index if name.startswith("visual") else text_index
        plain[name] = x if x is None or index is None else x[index]
    return Case(shared | {"text_index": text_index, "image_index": image_index}, plain)


@st.composite
def indices(draw: st.DrawFn, pairs: int) -> Tensor | None:
    """Any pattern of sharing, or none."""
    if draw(st.booleans()):
        return None
    drawn = draw(st.lists(st.integers(0, 3), min_size=pairs, max_size=pairs))
    return torch.tensor(drawn).unique(return_inverse=True)[1]


@st.composite
def masks(draw: st.DrawFn, rows: int, width: int) -> Tensor:
    """One kind of mask a row; a boolean tensor where no row needs fractions."""
    mask = torch.ones(rows, width)
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=rows, max_size=rows))
    for row, kind in enumerate(kinds):
        cut = draw(st.integers(0, width - 1))
        if kind == "right":
            mask[row, cut + 1 :] = 0
        elif kind == "left":
            mask[row, :cut] = 0
        elif kind == "holes":
            mask[row, cut::2] = 0
        elif kind == "empty":
            mask[row] = 0
        elif kind == "fraction":
            mask[row, cut] = 0.25
        elif kind == "first masked":
            mask[row, 0] = 0
    return mask.bool() if "boolean" in kinds and "fraction" not in kinds else mask


def results(model: Any, call: dict[str, Any], dtype: torch.dtype) -> tuple[Any, Gradients]:
    """Outputs and every gradient."""
    model.zero_grad()
    output = model(**(double(call) if dtype is torch.float64 else call))
    goal = output.loss if getattr(output, "loss", None) is not None else output.pooled_output.square().sum()
    goal.backward()
    return output, {name: None if g is None else g.clone() for name, g in gradients(model).items()}


PRECISIONS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])


def assert_same(model: Any, case: Case, labels: dict[str, Any], options: dict[str, Any], dtype: Any) -> None:
    """The shared batch in `dtype` against the plain one in fp64: outputs, and which gradients there are."""
    wanted, wanted_gradients = results(model.double(), case.plain | labels, torch.float64)
    found, found_gradients = results(model.to(dtype), case.shared | labels | options, dtype)
    tolerance = FP64 if dtype is torch.float64 else FP32
    for name in ("loss", "pooled_output", "question_answering_score", "logits"):
        if wanted.get(name) is not None and found.get(name) is not None:
            assert_close(found[name].double(), wanted[name].double(), tolerance=tolerance, what=name)
    assert {name for name, g in found_gradients.items() if g is None} == {
        name for name, g in wanted_gradients.items() if g is None
    }
    assert worst_error(found_gradients, wanted_gradients, dtype) <= tolerance


def worst_error(found: Gradients, exact: Gradients, dtype: torch.dtype) -> float:
    """The largest error of a gradient over its scale: the rule of `tolerance.py` in fp64.

    In fp32, over the largest gradient of the model: hypothesis looks for the batch where what is zero by
    construction is as far off as rounding can bring it.
    """
    everything = max(largest(g) for g in exact.values() if g is not None)
    floor = everything * (SMALL_GRADIENT if dtype is torch.float64 else 1.0)
    errors = [0.0]
    for name, g in exact.items():
        other = found[name]
        if g is not None and other is not None:
            errors.append(largest(other.double() - g) / max(largest(g), floor))
    return max(errors)


@PRECISIONS
@given(case=cases())
@settings(max_examples=15, deadline=None)
def test_backbone(case: Case, dtype: torch.dtype):
    """Pooled output and gradients where padding is left out; zeros at its outputs, the rest as it is."""
    model = scatter(LxmertModel(make_config(**CONFIG))).eval()
    assert_same(model, case, {}, {"padding_outputs": False}, dtype)
    with torch.no_grad():
        found = model.double()(**double(case.shared), padding_outputs=False)
        whole = model(**double(case.shared))
        wanted = model(**double(case.plain))
    for name, mask in (("language_output", "attention_mask"), ("vision_output", "visual_attention_mask")):
        assert_close(whole[name], wanted[name], tolerance=FP64, what=name)
        is_key = torch.ones(wanted[name].shape[:2]) if case.plain[mask] is None else case.plain[mask]
        kept = found[name].abs().sum(-1) > 0
        assert kept[is_key == 1].all()
        assert_close(found[name][kept], wanted[name][kept], tolerance=FP64, what=name)


@PRECISIONS
@given(case=cases(), data=st.data())
@settings(max_examples=15, deadline=None)
def test_question_answering(case: Case, data: st.DataObject, dtype: torch.dtype):
    model = scatter(LxmertForQuestionAnswering(make_config(**CONFIG))).eval()
    pairs = len(case.plain["input_ids"])
    answers = data.draw(
        st.lists(st.integers(0, model.config.num_qa_labels - 1), min_size=pairs, max_size=pairs)
    )
    assert_same(model, case, {"labels": torch.tensor(answers)}, {}, dtype)


@PRECISIONS
@given(case=cases(), seed=st.integers(0, 2**31), masked=st.sampled_from([0.0, 0.15, 1.0]))
@settings(max_examples=15, deadline=None)
def test_pretraining(case: Case, seed: int, masked: float, dtype: torch.dtype):
    """Losses alone, with labels anywhere, padding included, or nowhere."""
    model = scatter(LxmertForPreTraining(make_config(**CONFIG))).eval()
    labels = any_labels(model.config, case.plain, seed, masked)
    assert_same(model, case, labels, {"loss_only": True}, dtype)


@PRECISIONS
@given(case=cases(), data=st.data())
@settings(max_examples=10, deadline=None)
def test_image_pairs(case: Case, data: st.DataObject, dtype: torch.dtype):
    """Sentences about two images, any of which may be any other's."""
    model = scatter(LxmertForImagePairs(make_config(**CONFIG))).eval()
    texts, images = len(case.shared["input_ids"]), len(case.shared["visual_feats"])
    pairs = max(texts, (images + 1) // 2)
    image_index = torch.arange(2 * pairs).remainder(images).view(pairs, 2)
    text_index = torch.arange(pairs).remainder(texts)
    shared = case.shared | {"text_index": text_index, "image_index": image_index}
    plain = {
        name: x if x is None else x[image_index if name.startswith("visual") else text_index]
        for name, x in case.shared.items()
        if not name.endswith("_index")
    }
    labels = {"labels": torch.arange(pairs) % 2}
    assert_same(model, Case(shared, plain), labels, {}, dtype)


def any_labels(config: Any, plain: dict[str, Any], seed: int, masked: float) -> dict[str, Any]:
    """Labels of all five tasks at a share of the positions, padding too."""
    generator = torch.Generator().manual_seed(seed)
    (pairs, length), boxes = plain["input_ids"].shape, plain["visual_feats"].shape[1]

    def ids(limit: int, *shape: int) -> Tensor:
        return torch.randint(limit, shape, generator=generator)

    def some(*shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator) < masked).float()

    return {
        "labels": ids(config.vocab_size, pairs, length).where(some(pairs, length) > 0, torch.tensor(IGNORE)),
        "matched_label": ids(2, pairs),
        "ans": ids(config.num_qa_labels, pairs).where(some(pairs) > 0, torch.tensor(IGNORE)),
        "obj_labels": {
            "obj": (ids(config.num_object_labels, pairs, boxes), some(pairs, boxes)),
            "attr": (ids(config.num_attr_labels, pairs, boxes), some(pairs, boxes) * 0.5),
            "feat": (
                torch.rand(pairs, boxes, config.visual_feat_dim, generator=generator),
                some(pairs, boxes),
            ),
        },
    }


def small_batch(pairs: int = 4) -> dict[str, Any]:
    torch.manual_seed(0)
    lengths = torch.tensor([[9], [5], [3], [1]])[:pairs]
    return {
        "input_ids": torch.randint(1, 97, (pairs, 9)),
        "attention_mask": (torch.arange(9) < lengths).long(),
        "visual_feats": torch.rand(pairs, 6, 20),
        "visual_pos": torch.rand(pairs, 6, 4),
    }


def test_an_empty_selection_is_a_zero_that_its_head_is_connected_to():
    """No masked word, no weighted object, no answer: every parameter of those heads has gradient 0."""
    model = scatter(LxmertForPreTraining(make_config(**CONFIG)))
    batch = small_batch()
    labels = any_labels(model.config, batch, 0, masked=0.0)
    output = model(**batch, **labels, loss_only=True)
    output.loss.backward()
    assert {name: float(x) for name, x in output.losses.items() if name != "matched"} == {
        "mask_lm": 0.0, "obj": 0.0, "attr": 0.0, "feat": 0.0, "qa": 0.0,
    }  # fmt: skip
    heads = {
        name: p.grad
        for name, p in model.named_parameters()
        if name.startswith(("cls.predictions.", "obj_predict_head.", "answer_head."))
    }
    assert heads
    for name, gradient in heads.items():
        assert gradient is not None, name
        if "decoder.weight" not in name:
            assert not gradient.any(), name


def test_padding_is_never_computed(monkeypatch: pytest.MonkeyPatch):
    """Rows that reach the language encoder are the tokens, those of the relationship encoder the images'."""
    model = scatter(LxmertForQuestionAnswering(make_config(**CONFIG))).eval()
    rows: dict[str, list[int]] = {"layer": [], "r_layers": []}
    for name, seen in rows.items():
        for layer in getattr(model.lxmert.encoder, name):
            layer.register_forward_hook(lambda m, x, y, seen=seen: seen.append(x[0].shape[0]))
    batch = small_batch()
    batch |= {name: batch[name][:2] for name in ("visual_feats", "visual_pos")}
    model(**batch, image_index=torch.tensor([0, 0, 1, 0]))
    assert rows == {"layer": [9 + 5 + 3 + 1] * 2, "r_layers": [2 * 6]}


def test_a_head_that_reads_nothing_of_the_objects_leaves_their_last_layer_without_gradient():
    model = scatter(LxmertForPreTraining(make_config(**CONFIG, task_obj_predict=False)))
    batch = small_batch()
    labels = any_labels(model.config, batch, 0, masked=0.3)
    del labels["obj_labels"]
    model(**batch, **labels, loss_only=True).loss.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert len(without) == 16
    assert all(name.startswith("lxmert.encoder.x_layers.1.vis") for name in without)


def test_hidden_states_and_attentions_are_those_of_the_plain_path():
    model = scatter(LxmertForQuestionAnswering(make_config(**CONFIG))).double().eval()
    batch = double(small_batch())
    wanted = model.lxmert(**batch, output_hidden_states=True, output_attentions=True)
    found = model(**batch, output_hidden_states=True, output_attentions=True)
    for name in ("language_hidden_states", "vision_hidden_states", "language_attentions"):
        for x, y in zip(found[name], wanted[name], strict=True):
            assert_close(x, y, tolerance=FP64, what=name)


class TestDropout:
    """Sharing shares the draw; not sharing draws for every pair."""

    def pooled(self, share: bool, seed: int = 0, p: float = 0.3) -> Tensor:
        config = make_config(**(CONFIG | {"x_layers": 0, "hidden_dropout_prob": p}))
        model = scatter(LxmertModel(config)).train()
        model.share_in_training = share
        batch = small_batch(2)
        batch |= {name: batch[name][:1] for name in ("visual_feats", "visual_pos")}
        torch.manual_seed(seed)
        with torch.no_grad():
            return model(**batch, image_index=torch.tensor([0, 0])).vision_output

    def test_pairs_of_an_image_share_their_draw(self):
        output = self.pooled(share=True)
        assert torch.equal(output[0], output[1])

    def test_unless_they_are_not_to(self):
        output = self.pooled(share=False)
        assert not torch.equal(output[0], output[1])
        assert torch.equal(*self.pooled(share=False, p=0.0))

    def test_a_seed_repeats_it(self):
        assert torch.equal(self.pooled(True, seed=1), self.pooled(True, seed=1))
        assert not torch.equal(self.pooled(True, seed=1), self.pooled(True, seed=2))


def test_the_plan_of_a_batch_by_hand():
    """Texts of 3 tokens and of 2, the second's position 0 masked; its image and itself used twice."""
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 0]])
    inputs = execution.Inputs(
        (2, 4), (2, 3), mask, None, torch.tensor([0, 1, 1]), torch.tensor([1, 1, 0]), torch.device("cpu")
    )
    plan = execution.make_plan(inputs, execution.Reads(), pack=True, dtype=torch.float32)
    assert plan.text.kept.tolist() == [0, 1, 2, 4, 5]
    assert plan.text.kept_of_pairs.tolist() == [0, 1, 2, 4, 5, 8, 9]
    assert plan.text.entry.repeat(torch.arange(5)).tolist() == [0, 1, 2, 3, 4, 3, 4]
    assert plan.text.read.tolist() == [0, 3, 5]
    assert plan.objects.entry.repeat(torch.arange(6)).tolist() == [3, 4, 5, 3, 4, 5, 0, 1, 2]
    # position 0 of the second text asks, and is not asked
    assert torch.isfinite(plan.text.single.mask[1, 0, 0]).tolist() == [True, True] + [False] * 14
    assert plan.text.single.mask[1, 0, 0, 0] == torch.finfo(torch.float32).min
    assert plan.objects.readers is None
