"""`text_index` and `image_index`: one text or image for many pairs gives what repeating it would.

fp64, so that nothing but the mathematics can differ: 1e-10.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import B, O, T, image_pairs_model, make_batch, make_config, pretraining_labels, scatter
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerance import FP64, assert_close, assert_gradients_close, gradients
from torch import Tensor

from lxmert_fast.modeling import LxmertModel
from lxmert_fast.models import LxmertForImagePairs, LxmertForPreTraining

VISUAL = ("visual_feats", "visual_pos", "visual_attention_mask")
TEXT = ("input_ids", "attention_mask", "token_type_ids")

INDICES: dict[str, dict[str, Tensor]] = {
    "image_index": {"image_index": torch.tensor([0, 0, 1, 0])},
    "text_index": {"text_index": torch.tensor([1, 1, 1, 0])},
    "both": {"image_index": torch.tensor([2, 0, 0, 1, 2, 2]), "text_index": torch.tensor([0, 0, 1, 1, 1, 0])},
}


def expanded(call: dict[str, Any]) -> dict[str, Any]:
    """The same pairs with every text and image written out."""
    call = dict(call)
    text, image = call.pop("text_index", None), call.pop("image_index", None)
    for index, names in ((text, TEXT), (image, VISUAL)):
        if index is not None:
            call |= {name: call[name].index_select(0, index) for name in names if name in call}
    return call


def indexed(config: Any, indices: dict[str, Tensor]) -> tuple[dict[str, Any], int]:
    """Texts, images and masks as many as the indices need, and the number of pairs."""
    pairs = len(next(iter(indices.values())))
    texts, images = (
        int(indices[name].max()) + 1 if name in indices else pairs for name in ("text_index", "image_index")
    )
    call = make_batch(config, pairs=max(texts, images))
    call = {name: x[: images if name in VISUAL else texts].clone() for name, x in call.items()}
    lengths = torch.arange(texts)[:, None] % 4 + 5
    counts = torch.arange(images)[:, None] % 3 + 3
    call |= {
        "visual_feats": call["visual_feats"].double(),
        "visual_pos": call["visual_pos"].double(),
        "attention_mask": (torch.arange(T) < lengths).double(),
        "visual_attention_mask": (torch.arange(O) < counts).double(),
        "token_type_ids": (torch.arange(T) > lengths // 2).long(),
    }
    return call | indices, pairs


def both_ways(model: Any, call: dict[str, Any], extra: dict[str, Any]) -> None:
    results = []
    for arguments in (call, expanded(call)):
        model.zero_grad()
        output = model(**arguments, **extra)
        loss = output["loss"] if output.get("loss") is not None else output["pooled_output"].square().sum()
        loss.backward()
        results.append(
            (output, {name: None if g is None else g.clone() for name, g in gradients(model).items()})
        )
    (found, found_gradients), (wanted, wanted_gradients) = results
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        pairs = [(found[name], value)]
        if isinstance(value, tuple):
            pairs = list(zip(found[name], value, strict=True))
        elif isinstance(value, dict):
            pairs = [(found[name][key], tensor) for key, tensor in value.items()]
        for mine, theirs in pairs:
            # the losses are fp32 whatever the model is
            assert_close(mine, theirs, tolerance=FP64 if theirs.dtype is torch.float64 else 1e-6, what=name)
    assert_gradients_close(
        found_gradients, wanted_gradients, tolerance=FP64 if "labels" not in extra else 1e-5
    )


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_backbone(name: str, implementation: str):
    """Outputs, hidden states, all attentions and gradients, under masks."""
    model = scatter(LxmertModel(make_config())).double().eval()
    model.set_attn_implementation(implementation)
    call, _ = indexed(model.config, INDICES[name])
    both_ways(model, call, {"output_hidden_states": True, "output_attentions": True})


@pytest.mark.parametrize("name", INDICES)
def test_pretraining(name: str):
    """With the five losses and a label for each pair."""
    model = scatter(LxmertForPreTraining(make_config())).double().eval()
    call, pairs = indexed(model.config, INDICES[name])
    labels = pretraining_labels(model.config, pairs=pairs, objects=O)
    both_ways(model, call, labels)


@pytest.mark.parametrize("loss_only", [False, True])
def test_object_labels_of_images(loss_only: bool):
    """Beside `image_index` they may be (I, O, ...): the same losses as written out for each pair."""
    model = scatter(LxmertForPreTraining(make_config())).double().eval()
    call, pairs = indexed(model.config, INDICES["image_index"])
    images = len(call["visual_feats"])
    assert images < pairs
    labels = pretraining_labels(model.config, pairs=pairs, objects=O)
    of_images = {name: (x[:images], weight[:images]) for name, (x, weight) in labels["obj_labels"].items()}
    of_pairs = {
        name: (x[call["image_index"]], weight[call["image_index"]]) for name, (x, weight) in of_images.items()
    }
    found, wanted = (
        model(**call, **labels | {"obj_labels": objects}, loss_only=loss_only).losses
        for objects in (of_images, of_pairs)
    )
    assert {"obj", "attr", "feat"} <= set(found) == set(wanted)
    for name, loss in wanted.items():
        assert_close(found[name], loss, tolerance=1e-6, what=name)


@given(data=st.data(), pairs=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_any_indices(data: st.DataObject, pairs: int):
    model = scatter(LxmertModel(make_config(l_layers=1, r_layers=1, x_layers=1))).double().eval()

    def index() -> tuple[int, Tensor]:
        drawn = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=pairs, max_size=pairs)))
        used, which = drawn.unique(return_inverse=True)
        return len(used), which

    (texts, text_index), (images, image_index) = index(), index()
    batch = make_batch(model.config, pairs=6)
    call = {
        "input_ids": batch["input_ids"][:texts],
        "visual_feats": batch["visual_feats"][:images].double(),
        "visual_pos": batch["visual_pos"][:images].double(),
        "text_index": text_index,
        "image_index": image_index,
    }
    both_ways(model, call, {})


@pytest.fixture(scope="module")
def pairs_model() -> LxmertForImagePairs:
    return image_pairs_model(make_config()).double()


def image_pairs(model: LxmertForImagePairs) -> dict[str, Tensor]:
    batch = make_batch(model.config, pairs=2 * B)
    return {
        "input_ids": batch["input_ids"][:B],
        "attention_mask": (torch.arange(T) < torch.tensor([[9], [5], [3], [1]])).double(),
        "visual_feats": batch["visual_feats"].double().view(B, 2, O, -1),
        "visual_pos": batch["visual_pos"].double().view(B, 2, O, 4),
        "visual_attention_mask": (torch.arange(O) < torch.tensor([[6], [2]])).double().expand(B, 2, O),
        "labels": torch.tensor([0, 1, 1, 0]),
    }


def test_image_pairs_is_two_runs_of_the_backbone_side_by_side(pairs_model: LxmertForImagePairs):
    call = image_pairs(pairs_model)
    pooled = [
        pairs_model.lxmert(
            call["input_ids"],
            call["visual_feats"][:, side],
            call["visual_pos"][:, side],
            call["attention_mask"],
            call["visual_attention_mask"][:, side],
        ).pooled_output
        for side in range(2)
    ]
    wanted = pairs_model.answer_head(torch.cat(pooled, dim=1))
    output = pairs_model(**call)
    assert_close(output.logits, wanted, tolerance=FP64)
    loss = torch.nn.functional.cross_entropy(wanted, call["labels"])
    assert_close(output.loss.double(), loss, tolerance=1e-6)
    assert [entry.shape for entry in pairs_model(**call, return_dict=False)] == [(), (B, 2)]


def test_image_pairs_indices_equal_the_expanded_call(pairs_model: LxmertForImagePairs):
    call = image_pairs(pairs_model)
    images = {name: call[name].flatten(0, 1)[:3] for name in VISUAL}
    image_index, text_index = torch.tensor([[0, 1], [2, 0], [1, 1], [2, 1]]), torch.tensor([0, 3, 1, 2])
    results = []
    for arguments in (
        call | images | {"image_index": image_index, "text_index": text_index},
        {
            **{name: call[name][text_index] for name in ("input_ids", "attention_mask")},
            **{name: x[image_index] for name, x in images.items()},
            "labels": call["labels"],
        },
    ):
        pairs_model.zero_grad()
        output = pairs_model(**arguments)
        output.logits.square().sum().backward()
        results.append(
            (output.logits, {n: g.clone() if g is not None else g for n, g in gradients(pairs_model).items()})
        )
    assert_close(results[0][0], results[1][0], tolerance=FP64)
    assert_gradients_close(results[0][1], results[1][1], tolerance=FP64)


def test_the_order_of_the_images_matters(pairs_model: LxmertForImagePairs):
    call = image_pairs(pairs_model)
    swapped = call | {name: call[name].flip(1) for name in VISUAL}
    assert (pairs_model(**call).logits - pairs_model(**swapped).logits).abs().min() > 1e-6
