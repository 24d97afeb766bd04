"""The whole model by the operators gives what it gives by the reference, in the launches that it should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import MASKS, B, double, make_batch, make_config, pretraining_labels, scatter
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerance import FP64, assert_close, assert_gradients_close, gradients
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lxmert_fast.bench.contenders import without_dropout
from lxmert_fast.bench.counts import count
from lxmert_fast.execution import Inputs, Reads
from lxmert_fast.kernels.dispatch import implementation
from lxmert_fast.kernels.philox import draw_seed
from lxmert_fast.modeling import LxmertModel, Meeting
from lxmert_fast.models import LxmertForImagePairs, LxmertForPreTraining, LxmertForQuestionAnswering


def run(model: Any, batch: dict[str, Any], choice: str) -> tuple[torch.Tensor, dict[str, Any]]:
    model.zero_grad()
    with implementation(choice):
        loss = model(**batch)["loss"]
        loss.backward()
    return loss.detach(), {name: None if g is None else g.clone() for name, g in gradients(model).items()}


def assert_same(model: Any, batch: dict[str, Any]) -> None:
    wanted, wanted_gradients = run(model, batch, "reference")
    found, found_gradients = run(model, batch, "operator")
    assert_close(found, wanted, tolerance=FP64, what="loss")
    assert_gradients_close(found_gradients, wanted_gradients, tolerance=FP64)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("loss_only", [False, True], ids=["all scores", "losses alone"])
def test_pretraining_under_every_mask(mask: str, loss_only: bool):
    config = make_config()
    model = scatter(LxmertForPreTraining(config)).double().eval()
    model.loss_only = loss_only
    batch = make_batch(config) | pretraining_labels(config) | MASKS[mask]
    assert_same(model, double(batch))


@given(
    texts=st.lists(st.integers(0, 2), min_size=3, max_size=7),
    images=st.data(),
    lengths=st.lists(st.integers(1, 9), min_size=3, max_size=3),
)
@settings(max_examples=15, deadline=None)
def test_shared_texts_and_images(texts: list[int], images: st.DataObject, lengths: list[int]):
    """Every text and image is named; some by several pairs."""
    texts = [*texts, 0, 1, 2]
    image_of = images.draw(st.lists(st.integers(0, 1), min_size=len(texts) - 2, max_size=len(texts) - 2))
    config = make_config(l_layers=1, r_layers=1)
    model = scatter(LxmertForQuestionAnswering(config)).double().eval()
    batch = make_batch(config, pairs=3)
    seen = make_batch(config, pairs=2)
    batch |= {name: seen[name] for name in ("visual_feats", "visual_pos")}
    batch |= {
        "attention_mask": (torch.arange(9) < torch.tensor(lengths)[:, None]).long(),
        "text_index": torch.tensor(texts),
        "image_index": torch.tensor([*image_of, 0, 1]),
        "labels": torch.randint(config.num_qa_labels, (len(texts),)),
    }
    assert_same(model, double(batch))


def test_two_images_a_sentence():
    config = make_config()
    model = scatter(LxmertForImagePairs(config)).double().eval()
    batch = make_batch(config, pairs=B)
    two = make_batch(config, pairs=2 * B)
    batch |= {name: two[name].unflatten(0, (B, 2)) for name in ("visual_feats", "visual_pos")}
    assert_same(model, double(batch | {"labels": torch.tensor([0, 1, 1, 0])}))


def test_weights_too_small_to_divide_by():
    """The sum before the norm is kept then; the answer of `invertible` is that of these weights."""
    config = make_config()
    model = scatter(LxmertForQuestionAnswering(config)).double().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("LayerNorm.weight"):
                p[::5] = 0.0
    batch = make_batch(config) | {"labels": torch.tensor([0, 1, 2, 3])}
    assert_same(model, double(batch))


def test_more_boxes_than_a_kernel_takes_go_to_the_reference():
    config = make_config(l_layers=1, r_layers=1, x_layers=2)
    model = scatter(LxmertForQuestionAnswering(config)).double().eval()
    batch = make_batch(config, objects=130) | {"labels": torch.tensor([0, 1, 2, 3])}
    assert_same(model, double(batch))


@pytest.mark.parametrize("where", ["lang_self_att.self.query", "visn_output.dense", "visn_inter"])
def test_hooks_are_called_and_see_what_they_should(where: str):
    """A hooked layer goes its own way, and the numbers stay."""
    config = make_config()
    model = scatter(LxmertForQuestionAnswering(config)).double().eval()
    seen: list[int] = []
    for layer in model.lxmert.encoder.x_layers[:-1]:
        layer.get_submodule(where).register_forward_hook(lambda *_: seen.append(1))
    batch = make_batch(config) | {"labels": torch.tensor([0, 1, 2, 3])}
    assert_same(model, double(batch))
    assert len(seen) == 2 * (len(model.lxmert.encoder.x_layers) - 1)


def test_probabilities_are_those_of_the_reference():
    config = make_config()
    model = scatter(LxmertModel(config)).double().eval()
    batch = double(make_batch(config))
    with torch.no_grad(), implementation("operator"):
        found = model(**batch, output_attentions=True, output_hidden_states=True)
    with torch.no_grad():
        wanted = model(**batch, output_attentions=True, output_hidden_states=True)
    for name, value in wanted.items():
        for x, y in zip(*(v if isinstance(v, tuple) else (v,) for v in (found[name], value)), strict=True):
            assert_close(x, y, tolerance=FP64, what=name)


def test_recomputed_layers_drop_the_same():
    """Gradient checkpointing runs a layer twice; its seed comes with its arguments."""
    config = make_config(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    model = scatter(LxmertForQuestionAnswering(config)).double().train()
    batch = double(make_batch(config) | {"labels": torch.tensor([0, 1, 2, 3])})
    # transformers hooks the word embedding for it, which then is looked up by PyTorch
    model.gradient_checkpointing_enable()
    found = []
    for checkpointing in (False, True):
        for layer in model.modules():
            if hasattr(layer, "gradient_checkpointing"):
                layer.gradient_checkpointing = checkpointing
        torch.manual_seed(0)
        found.append(run(model, batch, "operator"))
    assert_close(found[1][0], found[0][0], tolerance=FP64)
    assert_gradients_close(found[1][1], found[0][1], tolerance=FP64)


def test_dropout_has_the_generators_state_and_the_expectation():
    config = make_config(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    model = scatter(LxmertForQuestionAnswering(config)).train()
    batch = make_batch(config) | {"labels": torch.tensor([0, 1, 2, 3])}
    with implementation("operator"), torch.no_grad():
        torch.manual_seed(0)
        state = torch.get_rng_state()
        first, second = model(**batch).loss, model(**batch).loss
        torch.set_rng_state(state)
        again = model(**batch).loss
        assert torch.equal(first, again)
        assert not torch.equal(first, second)
        losses = torch.stack([model(**batch).loss for _ in range(200)])
        with without_dropout(model):
            still = model(**batch).loss
    assert abs(losses.mean() - still) < 6 * losses.std() / len(losses) ** 0.5 + 0.1 * still


def layers() -> tuple[Any, Any, dict[str, Any]]:
    """A small model, the plan of a batch with padding, and rows for one layer of each kind."""
    config = make_config(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    model = scatter(LxmertModel(config))
    inputs = Inputs((3, 9), (3, 6), torch.arange(9) < torch.tensor([[9], [5], [3]]), None, None, None, CPU)
    plan = model.plan_for(inputs, Reads(), True)
    text = torch.randn(plan.text_rows, config.hidden_size)
    rows = torch.randn(plan.text_rows + 18, config.hidden_size)
    return model, plan, {"text": text, "rows": rows}


CPU = torch.device("cpu")


class Names(TorchDispatchMode):
    """What is dispatched that computes or copies."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("training", "layer", "launches"),
    [(False, "language", 8), (True, "language", 10), (False, "cross", 16), (True, "cross", 22)],
    ids=lambda value: str(value),
)
def test_launches_of_a_layer(training: bool, layer: str, launches: int):
    """In training the projections' weights and biases are joined first: two copies for each."""
    with implementation("operator"):
        model, plan, rows = layers()
        model.train(training)
        seed = draw_seed(CPU) if training else None
        call: Callable[[], Any]
        if layer == "language":
            call = lambda: model.encoder.layer[0](rows["text"], plan.text.single, False, seed)  # noqa: E731
        else:
            call = lambda: model.encoder.x_layers[0](  # noqa: E731
                rows["rows"], Meeting.later(plan), plan, False, seed
            )
        with torch.set_grad_enabled(training):
            call()
            counted = count(call)
            with Names() as names:
                call()
    assert counted.launches == launches, names.names
    assert counted.unknown == []


def test_at_most_ten_values_a_token_and_layer_are_kept():
    """Query, key, value, context, two LayerNorm outputs and a pre-activation of 4H: 10 H a layer."""
    config = make_config(
        hidden_size=64, intermediate_size=256, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1
    )
    with implementation("operator"):
        model = scatter(LxmertModel(config)).train()
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "LayerNorm" in name:
                    p.fill_(1.0 if name.endswith("weight") else 0.0)
        inputs = Inputs((64, 9), (64, 6), None, None, None, None, CPU)
        plan = model.plan_for(inputs, Reads(), True)
        rows = torch.randn(plan.text_rows, config.hidden_size, requires_grad=True)
        there = {x.untyped_storage().data_ptr() for x in (*model.parameters(), rows)}
        kept: dict[int, int] = {}

        def pack(x: torch.Tensor) -> torch.Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in there:
                kept[storage.data_ptr()] = storage.nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model.encoder.layer[0](rows, plan.text.single, False, draw_seed(CPU))
    # beside them the statistics of two norms, and the table of meetings
    small = 2 * 2 * 4 * len(rows) + 6 * 8 * 64 + 8
    assert sum(kept.values()) <= 10 * rows.numel() * rows.element_size() + small


def test_joined_weights_follow_the_optimizer():
    """Between calls without gradients weights are kept joined; a step, even one by `.data`, is seen."""
    config = make_config()
    model: nn.Module = scatter(LxmertForQuestionAnswering(config)).double().eval()
    batch = double(make_batch(config) | {"labels": torch.tensor([0, 1, 2, 3])})
    with implementation("operator"):
        with torch.no_grad():
            before = model(**batch).loss
        model(**batch).loss.backward()
        for p in model.parameters():
            p.data.mul_(1.1)
        with torch.no_grad():
            after = model(**batch).loss
    with torch.no_grad(), implementation("reference"):
        assert_close(after, model(**batch).loss, tolerance=FP64)
    assert not torch.equal(before, after)


@pytest.mark.parametrize("kind", [LxmertForQuestionAnswering, LxmertForPreTraining])
def test_autocast_is_no_worse_than_the_reference_under_it(kind: type):
    """bf16 products beside an fp32 residual stream: error against fp32 at most twice the reference's."""
    config = make_config()
    model = scatter(kind(config)).train()
    labels = pretraining_labels(config)
    wanted = {"labels": torch.tensor([0, 1, 2, 3])} if kind is LxmertForQuestionAnswering else labels
    batch = make_batch(config) | wanted | MASKS["padding"]
    exact, exact_gradients = run(model, batch, "reference")
    with torch.autocast("cpu", torch.bfloat16):
        eager, eager_gradients = run(model, batch, "reference")
        found, found_gradients = run(model, batch, "operator")
    assert abs(found - exact) <= 2 * abs(eager - exact) + 1e-2 * exact
    error = {"eager": 0.0, "found": 0.0}
    for name, gradient in exact_gradients.items():
        if gradient is not None:
            error["eager"] += float((eager_gradients[name] - gradient).square().sum())
            error["found"] += float((found_gradients[name] - gradient).square().sum())
    assert error["found"] <= 2**2 * error["eager"]
