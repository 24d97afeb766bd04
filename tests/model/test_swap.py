"""`accelerate`: transformers' models compute with this library, and are transformers' again after
`revert`."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import MASKS, B, both, double, make_batch, pretraining_labels
from tolerance import FP64, assert_close, assert_gradients_close, gradients
from torch import Tensor, nn
from transformers.models.lxmert import modeling_lxmert as huggingface

from lxmert_fast import accelerate
from lxmert_fast.errors import InputError
from lxmert_fast.modeling import LxmertModel
from lxmert_fast.models import LxmertForPreTraining, LxmertForQuestionAnswering

KINDS = [LxmertModel, LxmertForPreTraining, LxmertForQuestionAnswering]


def stock(kind: type) -> Any:
    """Transformers' model of that name, in fp64 so that nothing but the mathematics can differ."""
    return both(kind)[1].double()


def call(model: Any, mask: str = "padding") -> dict[str, Any]:
    batch = make_batch(model.config) | MASKS[mask]
    if isinstance(model, huggingface.LxmertForPreTraining):
        batch |= pretraining_labels(model.config)
    if isinstance(model, huggingface.LxmertForQuestionAnswering):
        batch |= {"labels": torch.tensor([3, 0, 10, 5])}
    return double(batch)


def goal(output: Any) -> Tensor:
    return output.loss if "loss" in output else output.pooled_output.square().sum()


def assert_same(found: Any, wanted: Any) -> None:
    assert isinstance(found, type(wanted))
    for name, value in wanted.items():
        pairs = [(found[name], value)] if isinstance(value, Tensor) else zip(found[name], value, strict=True)
        for mine, theirs in pairs:
            # transformers adds up the losses of pre-training in fp32, whatever the model is
            exact = theirs.dtype is torch.float64
            assert_close(mine.to(theirs.dtype), theirs, tolerance=FP64 if exact else 1e-6, what=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", MASKS)
def test_the_same_outputs_and_gradients(kind: type, mask: str):
    model = stock(kind)
    batch = call(model, mask)
    wanted = model(**batch)
    goal(wanted).backward()
    expected = {name: None if g is None else g.clone() for name, g in gradients(model).items()}
    model.zero_grad()
    accelerate(model)
    found = model(**batch)
    assert_same(found, wanted)
    goal(found).backward()
    assert_gradients_close(gradients(model), expected, tolerance=FP64)


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_attentions_and_tuples(kind: type):
    model = stock(kind)
    batch = call(model) | {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        wanted, entries = model(**batch), model(**batch, return_dict=False)
        accelerate(model)
        assert_same(model(**batch), wanted)
        assert [type(x) for x in model(**batch, return_dict=False)] == [type(x) for x in entries]


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_classes_and_other_instances_are_left_alone(kind: type):
    model, other = stock(kind), stock(kind)
    classes = [type(module) for module in model.modules()]
    parameters = dict(model.named_parameters())
    handle = accelerate(model)
    assert type(model) is not classes[0]
    assert isinstance(model, classes[0])
    assert type(model).__name__ == classes[0].__name__
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert list(model.state_dict()) == list(other.state_dict())
    assert [type(module) for module in other.modules()] == classes
    assert handle.revert() is model
    assert [type(module) for module in model.modules()] == classes
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert set(vars(model)) == set(vars(other))


def test_reverting_restores_the_very_numbers_and_its_errors():
    model = stock(LxmertForQuestionAnswering)
    batch = call(model)
    with torch.no_grad():
        wanted = model(**batch).question_answering_score
        handle = accelerate(model)
        pairs = batch | {"image_index": torch.arange(B)}
        model(**pairs)
        handle.revert()
        handle.revert()
        assert torch.equal(model(**batch).question_answering_score, wanted)


def test_a_second_call_is_harmless_and_its_handle_reverts_too():
    model = stock(LxmertModel)
    first = accelerate(model)
    kept = [type(module) for module in model.modules()]
    second = accelerate(model, padding_outputs=False)
    assert [type(module) for module in model.modules()] == kept
    padding = call(model)["attention_mask"] == 0
    with torch.no_grad():
        assert not model(**call(model)).language_output[padding].any()
    second.revert()
    assert type(model) is huggingface.LxmertModel
    first.revert()


CHANGES: dict[str, Callable[[Any], Any]] = {
    "to(float)": lambda model: model.to(torch.float32),
    "half": lambda model: model.half(),
    "bfloat16": lambda model: model.bfloat16(),
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: reloaded(model),
}


def reloaded(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_before_and_after_a_change_are_the_same(change: str):
    before, after = stock(LxmertForQuestionAnswering), stock(LxmertForQuestionAnswering)
    batch = call(before)
    accelerate(before)
    before = CHANGES[change](before)
    after = CHANGES[change](after)
    accelerate(after)
    batch = {k: v.to(after.dtype) if v.is_floating_point() else v for k, v in batch.items()}
    found, wanted = (model(**batch).question_answering_score for model in (before, after))
    assert torch.equal(found, wanted)
    assert found.dtype is after.dtype


@pytest.mark.slow
@pytest.mark.parametrize("first", ["compile", "accelerate"])
@torch.no_grad()
def test_before_and_after_torch_compile(first: str):
    """`aot_eager` traces as inductor does and needs no C++ compiler."""
    model = stock(LxmertModel)
    batch = call(model)
    wanted = model(**batch).pooled_output
    if first == "compile":
        compiled = torch.compile(model, backend="aot_eager")
        compiled(**batch)
        accelerate(compiled)
    else:
        accelerate(model)
        compiled = torch.compile(model, backend="aot_eager")
    one_image = batch | {name: batch[name][:1] for name in ("visual_feats", "visual_pos")}
    assert_close(compiled(**batch).pooled_output, wanted, tolerance=FP64)
    shared = compiled(**one_image, image_index=torch.zeros(B, dtype=torch.int64))
    assert shared.pooled_output.shape == wanted.shape


def test_tied_weights_stay_tied():
    model = stock(LxmertForPreTraining)
    accelerate(model)
    assert model.cls.predictions.decoder.weight is model.lxmert.embeddings.word_embeddings.weight


def test_an_optimizer_made_before_goes_on():
    curves = []
    for swap in (False, True):
        model = stock(LxmertForQuestionAnswering)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        if swap:
            accelerate(model)
        curve = []
        for _ in range(3):
            loss = model(**call(model)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(float(loss))
        curves.append(curve)
    assert curves[1] == pytest.approx(curves[0], rel=1e-9)
    assert curves[0][2] != curves[0][0]


@pytest.mark.parametrize("when", ["before", "after"])
def test_adapters_are_called_and_trained(when: str):
    """LoRA puts a module in the place of each query: its product must not be joined past it."""
    peft = pytest.importorskip("peft", reason="needs peft (extra `test`)")
    torch.manual_seed(0)
    plain = stock(LxmertForQuestionAnswering)
    swapped = copy.deepcopy(plain)
    if when == "before":
        accelerate(swapped)
    lora = peft.LoraConfig(target_modules=["query", "value"], init_lora_weights=False)
    torch.manual_seed(1)
    plain = peft.get_peft_model(plain, lora)
    torch.manual_seed(1)
    swapped = peft.get_peft_model(swapped, lora)
    if when == "after":
        accelerate(swapped)
    batch = call(stock(LxmertForQuestionAnswering))
    wanted, found = plain(**batch), swapped(**batch)
    assert_same(found, wanted)
    for output in (wanted, found):
        output.loss.backward()
    assert_gradients_close(gradients(swapped), gradients(plain), tolerance=FP64)
    with torch.no_grad(), plain.disable_adapter():
        assert not torch.equal(plain(**batch).question_answering_score, wanted.question_answering_score)


def test_whatever_stands_in_the_decoder_s_place_is_called():
    model = stock(LxmertForPreTraining)
    accelerate(model)
    seen: list[int] = []
    model.cls.predictions.decoder.register_forward_hook(lambda m, i, o: seen.append(1))
    with torch.no_grad():
        model(**call(model))
    assert seen == [1]


def test_hooks_on_modules_still_run():
    model = stock(LxmertForQuestionAnswering)
    seen: list[str] = []
    for name, module in model.named_modules():
        if name.endswith(("layer.0", "x_layers.0", "self.query", "pooler", "answer_head")):
            module.register_forward_hook(lambda m, i, o, name=name: seen.append(name))
    with torch.no_grad():
        model(**call(model))
        stock_calls = set(seen)
        seen.clear()
        accelerate(model)
        model(**call(model))
    # the relationship encoder's and the last layer's vision stream's queries belong to what is not computed
    assert set(seen) == stock_calls - {"lxmert.encoder.x_layers.1.visn_self_att.self.query"}


def test_keywords_that_no_one_knows_are_ignored_as_transformers_does():
    model = stock(LxmertForQuestionAnswering)
    accelerate(model)
    with torch.no_grad():
        assert model(**call(model), num_items_in_batch=4).loss is not None


@pytest.mark.parametrize("thing", [nn.Linear(2, 2), "lxmert", None])
def test_what_is_not_an_lxmert(thing: Any):
    with pytest.raises(InputError, match=r"accelerate got a .*, wanted a transformers LXMERT: LxmertModel"):
        accelerate(thing)
