"""Against transformers' LXMERT with random weights: outputs, losses and every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import (
    MASKS,
    B,
    T,
    both,
    double,
    make_batch,
    make_config,
    object_attentions,
    pretraining_labels,
    scatter,
)
from tolerance import (
    FP32,
    FP64,
    SMALL_GRADIENT,
    assert_close,
    assert_gradients_close,
    assert_no_worse_than_eager,
    gradients,
)
from torch import Tensor
from transformers import LxmertConfig
from transformers.models.lxmert import modeling_lxmert as huggingface

from lxmert_fast.losses import IGNORE
from lxmert_fast.modeling import LxmertModel
from lxmert_fast.models import LxmertForPreTraining, LxmertForQuestionAnswering

EVERYTHING = {"output_hidden_states": True, "output_attentions": True}
KINDS = [LxmertModel, LxmertForPreTraining, LxmertForQuestionAnswering]


def flat(output: Any) -> dict[str, Tensor]:
    """Every tensor of an output by name."""
    found = {}
    for name, value in output.items():
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, tuple):
            found |= {f"{name}.{i}": x for i, x in enumerate(value)}
    return found


def assert_same_output(found: Any, wanted: Any, tolerance: float = FP32) -> None:
    """Everything that transformers gives is given, and the same."""
    for name, value in flat(wanted).items():
        assert_close(flat(found)[name], value, tolerance=tolerance, what=name)


def pretraining_batch(config: LxmertConfig, mask: str) -> dict[str, Any]:
    return make_batch(config) | pretraining_labels(config) | MASKS[mask]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_outputs_and_losses(mask: str, implementation: str):
    ours, theirs = both(LxmertForPreTraining)
    ours.set_attn_implementation(implementation)
    batch = pretraining_batch(ours.config, mask)
    assert_same_output(ours(**batch), theirs(**batch))


@pytest.mark.parametrize("mask", MASKS)
@torch.no_grad()
def test_hidden_states_and_attentions_of_both_directions(mask: str):
    ours, theirs = both(LxmertModel)
    batch = make_batch(ours.config) | MASKS[mask]
    with object_attentions(theirs) as objects_to_text:
        wanted = theirs(**batch, **EVERYTHING)
    found = ours(**batch, **EVERYTHING)
    assert_same_output(found, wanted)
    assert len(objects_to_text) == len(found.cross_encoder_vision_attentions) == ours.config.x_layers
    for layer, value in enumerate(objects_to_text):
        assert_close(found.cross_encoder_vision_attentions[layer], value, what=f"objects to text {layer}")


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_every_gradient(mask: str, implementation: str):
    ours, theirs = both(LxmertForPreTraining)
    ours.set_attn_implementation(implementation)
    batch = pretraining_batch(ours.config, mask)
    for model in (ours, theirs):
        model(**batch).loss.backward()
    assert_gradients_close(gradients(ours), gradients(theirs))


@pytest.mark.parametrize("mask", MASKS)
def test_everything_in_fp64(mask: str):
    """Without rounding in the way; the losses are left out, which are fp32 here whatever the model is."""
    ours, theirs = (model.double() for model in both(LxmertModel))
    batch = double(make_batch(ours.config) | MASKS[mask])
    seen = [model(**batch, **EVERYTHING) for model in (ours, theirs)]
    assert_same_output(*seen, tolerance=FP64)
    for output in seen:
        (output.language_output.sin().sum() + output.vision_output.cos().sum() + output[2].sum()).backward()
    assert_gradients_close(gradients(ours), gradients(theirs), tolerance=FP64)


def test_gradients_of_the_inputs():
    results = []
    for model in both(LxmertModel):
        batch = make_batch(model.config) | MASKS["both"]
        words = model.get_input_embeddings()(batch.pop("input_ids")).detach().requires_grad_()
        leaves = [words, batch["visual_feats"].requires_grad_(), batch["visual_pos"].requires_grad_()]
        output = model(inputs_embeds=words, **batch)
        (output.language_output.sin().sum() + output.vision_output.cos().sum()).backward()
        results.append([leaf.grad for leaf in leaves])
    for found, wanted in zip(*results, strict=True):
        assert_close(found, wanted)


@pytest.mark.parametrize("layers", [(1, 3, 1), (3, 1, 2), (0, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize("sizes", [{"pairs": 2}, {"tokens": 1}, {"objects": 1}, {"pairs": 3, "tokens": 16}])
def test_other_sizes(layers: tuple[int, int, int], sizes: dict[str, int]):
    language, relationship, cross = layers
    config = make_config(l_layers=language, r_layers=relationship, x_layers=cross, num_attention_heads=2)
    ours, theirs = both(LxmertForPreTraining, config)
    batch = make_batch(config, **sizes) | pretraining_labels(config, **sizes)
    assert_same_output(ours(**batch, **EVERYTHING), theirs(**batch, **EVERYTHING))


@torch.no_grad()
def test_one_pair():
    ours, theirs = both(LxmertForPreTraining)
    batch = make_batch(ours.config, pairs=1)
    assert_same_output(ours(**batch, **EVERYTHING), theirs(**batch, **EVERYTHING))


@pytest.mark.parametrize("act", ["gelu", "relu", "gelu_new"])
@torch.no_grad()
def test_activations(act: str):
    ours, theirs = both(LxmertForPreTraining, make_config(hidden_act=act))
    batch = make_batch(ours.config)
    assert_same_output(ours(**batch), theirs(**batch))


@pytest.mark.parametrize(
    "extra", [{}, {"output_hidden_states": True}, {"output_attentions": True}, EVERYTHING]
)
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_dicts_and_tuples_have_the_same_entries(kind: type, labelled: bool, extra: dict[str, bool]):
    ours, theirs = both(kind)
    batch = make_batch(ours.config) | extra
    if labelled and kind is LxmertForPreTraining:
        batch |= pretraining_labels(ours.config)
    elif labelled and kind is LxmertForQuestionAnswering:
        batch["labels"] = torch.tensor([3, 0, 10, 5])
    found, wanted = ours(**batch, return_dict=False), theirs(**batch, return_dict=False)
    assert [type(entry) for entry in found] == [type(entry) for entry in wanted]
    for one, other in zip(found, wanted, strict=True):
        layers = (entry if isinstance(entry, tuple) else (entry,) for entry in (one, other))
        for x, y in zip(*layers, strict=True):
            assert_close(x, y)
    found, wanted = ours(**batch), theirs(**batch)
    assert isinstance(found, type(wanted))
    assert [name for name in found if name in wanted] == list(wanted)
    assert_same_output(found, wanted)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_positional_arguments_mean_the_same(kind: type):
    ours, theirs = both(kind)
    segments = torch.arange(B * T).view(B, T) % 2
    ids, features, boxes, _ = make_batch(ours.config).values()
    arguments = (ids, features, boxes, *MASKS["both"].values(), segments)
    assert_same_output(ours(*arguments), theirs(*arguments))


def test_question_answering_with_class_labels():
    ours, theirs = both(LxmertForQuestionAnswering)
    batch = make_batch(ours.config) | MASKS["padding"] | {"labels": torch.tensor([3, IGNORE, 10, 5])}
    found, wanted = ours(**batch), theirs(**batch)
    assert_same_output(found, wanted)
    found.loss.backward()
    # held against exact numbers: two fp32 roundings of them may be further from each other than either is
    exact = theirs.double()
    exact(**double(batch)).loss.backward()
    # the last layer's vision stream is read by nothing, and has no gradient on either side
    assert sum(gradient is None for gradient in gradients(exact).values()) == 16
    assert_gradients_close(gradients(ours), gradients(exact))


@pytest.mark.parametrize("mask", ["none", "both", "fully masked row"])
def test_bf16_is_no_worse_than_eager(mask: str):
    ours, theirs = both(LxmertForPreTraining)
    batch = pretraining_batch(ours.config, mask)
    exact = theirs(**batch)
    exact.loss.backward()
    exact_gradients = {name: gradient.clone() for name, gradient in gradients(theirs).items()}
    for model in (ours, theirs):
        model.zero_grad(set_to_none=True)
        model.to(torch.bfloat16)
    half = batch | {name: batch[name].bfloat16() for name in ("visual_feats", "visual_pos")}
    found, eager = ours(**half), theirs(**half)
    for name, value in flat(exact).items():
        largest = value.abs().max().item()
        assert_no_worse_than_eager(flat(found)[name], flat(eager)[name], value, name, largest)
    found.loss.backward()
    eager.loss.backward()
    floor = SMALL_GRADIENT * max(gradient.abs().max().item() for gradient in exact_gradients.values())
    for name, value in exact_gradients.items():
        largest = max(value.abs().max().item(), floor)
        assert_no_worse_than_eager(gradients(ours)[name], gradients(theirs)[name], value, name, largest)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_attends_uniformly_where_everything_is_masked(
    dtype: torch.dtype, implementation: str, autocast: bool
):
    ours, theirs = both(LxmertModel)
    ours.set_attn_implementation(implementation)
    batch = make_batch(ours.config) | MASKS["fully masked row"]
    exact = theirs(**batch)
    with torch.autocast("cpu", dtype, enabled=autocast):
        found = (ours if autocast else ours.to(dtype))(**batch)
    for name, value in flat(exact).items():
        # ordinary attention in that row, which fp16's mask would let through, is wrong by a tenth
        assert_close(flat(found)[name].float(), value, tolerance=8 * torch.finfo(dtype).eps, what=name)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activation_checkpointing_gives_the_same_gradients(dropout: float):
    config = make_config(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    seen = []
    for checkpointing in (False, True):
        model: Any = scatter(LxmertForPreTraining(config)).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        torch.manual_seed(7)
        model(**pretraining_batch(config, "both")).loss.backward()
        seen.append(gradients(model))
    for name, gradient in seen[0].items():
        assert torch.equal(gradient, seen[1][name]), name


@torch.no_grad()
def test_dropout_acts_where_transformers_has_it():
    """Mean and spread of every hidden state over many draws agree, so each rate sits in the same place."""
    draws = 4000
    config = make_config(
        hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2, l_layers=1, r_layers=1, x_layers=1
    )
    ours, theirs = (model.train() for model in both(LxmertModel, config))
    batch = make_batch(config, pairs=1, tokens=3, objects=3)
    many = {name: x.expand(draws, *x.shape[1:]) for name, x in batch.items()}
    torch.manual_seed(0)
    found = flat(ours(**many, output_hidden_states=True))
    for name, value in flat(theirs(**many, output_hidden_states=True)).items():
        error = value.std(0) * (2 / draws) ** 0.5
        assert ((found[name].mean(0) - value.mean(0)).abs() < 6 * error + 1e-6).all(), name
        assert ((found[name].std(0) / value.std(0) - 1).abs() < 6 / draws**0.5).all(), name


@pytest.mark.slow
def test_full_size():
    """The paper's sizes, 228M parameters: outputs, loss and every gradient of two pairs."""
    config = LxmertConfig()
    torch.manual_seed(0)
    theirs = huggingface.LxmertForPreTraining(config).eval()
    sizes = {"pairs": 2, "tokens": 8, "objects": 10}
    batch = make_batch(config, **sizes) | pretraining_labels(config, **sizes)
    batch["attention_mask"] = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    with torch.device("meta"):
        ours = LxmertForPreTraining(LxmertConfig())
    ours.load_state_dict(
        {name: tensor.detach().clone() for name, tensor in theirs.state_dict().items()}, assign=True
    )
    ours.tie_weights()
    ours.eval()
    assert sum(p.numel() for p in ours.parameters()) == 228_051_752
    assert len(ours.state_dict()) == 473
    found, wanted = ours(**batch, **EVERYTHING), theirs(**batch, **EVERYTHING)
    assert_same_output(found, wanted)
    wanted.loss.backward()
    found.loss.backward()
    assert_gradients_close(gradients(ours), gradients(theirs))
