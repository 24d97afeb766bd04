"""Against numbers of the original implementation, loaded from a file as the original writes it.

The original ignores label -1 and this library -100: translated here, as wherever its data come in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cases import embed_text
from safetensors import safe_open
from safetensors.torch import load_file
from tolerance import assert_close, assert_gradients_close, gradients
from torch import Tensor

from lxmert_fast.airsplay import huggingface_names, original_names
from lxmert_fast.checkpoint import from_airsplay
from lxmert_fast.losses import IGNORE
from lxmert_fast.train.optim import BertAdam, warmup_linear

COLUMNS = ("mask_lm", "matched", "obj", "attr", "feat", "qa")
STEPS, TOTAL, WARMUP = 6, 10, 0.2


@pytest.fixture(scope="module")
def golden(golden_file: Path) -> dict[str, Tensor]:
    return load_file(golden_file)


@pytest.fixture
def model(golden: dict[str, Tensor], golden_file: Path, tmp_path: Path) -> Any:
    file = tmp_path / "tiny_LXRT.pth"
    torch.save(group(golden, "weights"), file)
    with safe_open(golden_file, "pt") as reader:
        heads = int(reader.metadata()["num_attention_heads"])
    return from_airsplay(file, num_attention_heads=heads)


def group(golden: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The entries under one prefix."""
    return {key.removeprefix(f"{name}/"): x for key, x in golden.items() if key.startswith(f"{name}/")}


def call(golden: dict[str, Tensor]) -> dict[str, Any]:
    """The original's inputs as arguments of `forward`."""
    given = group(golden, "in")

    def ignoring(labels: Tensor) -> Tensor:
        return labels.masked_fill(labels == -1, IGNORE)

    return {
        "input_ids": given["input_ids"],
        "visual_feats": given["visual_feats"],
        "visual_pos": given["visual_pos"],
        "attention_mask": given["attention_mask"],
        "labels": ignoring(given["masked_lm_labels"]),
        "matched_label": given["matched_label"],
        "ans": ignoring(given["ans"]),
        "obj_labels": {
            "obj": (ignoring(given["obj_id"]), given["obj_conf"]),
            "attr": (ignoring(given["attr_id"]), given["attr_conf"]),
            "feat": (given["feat_target"], given["feat_mask"]),
        },
    }


def test_configuration_is_read_off_the_shapes(model: Any, golden_file: Path):
    with safe_open(golden_file, "pt") as reader:
        stated = reader.metadata()
    for name in (key for key in stated if hasattr(model.config, key)):
        assert getattr(model.config, name) == int(stated[name]), name
    assert model.config.visual_loss_normalizer == 1 / 0.15


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_outputs(model: Any, golden: dict[str, Tensor], implementation: str):
    model.set_attn_implementation(implementation)
    inputs = call(golden)
    scores = model(**inputs)
    backbone = ("input_ids", "visual_feats", "visual_pos", "attention_mask")
    states = model.lxmert(**{name: inputs[name] for name in backbone})
    found = {
        "embedding": embed_text(model.lxmert, inputs["input_ids"]),
        "visual_embedding": model.lxmert.encoder.visn_fc(inputs["visual_feats"], inputs["visual_pos"]),
        "language": states.language_output,
        "vision": states.vision_output,
        "pooled": states.pooled_output,
        "lm_logits": scores.prediction_logits,
        "match_logits": scores.cross_relationship_score,
        "answer_logits": scores.question_answering_score,
    } | {f"{name}_pred": x for name, x in scores.object_prediction_scores.items()}
    wanted = group(golden, "out")
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert_close(found[name], value, what=name)


def test_every_gradient(model: Any, golden: dict[str, Tensor]):
    model(**call(golden)).loss.backward()
    wanted = huggingface_names(group(golden, "grad"))
    found = {
        name: torch.zeros_like(model.get_parameter(name)) if gradient is None else gradient
        for name, gradient in gradients(model).items()
    }
    assert_gradients_close(found, wanted)


def test_losses_over_six_updates(model: Any, golden: dict[str, Tensor]):
    """Every column of the loss at every step, the gradient norms, and parameters after the last step."""
    optimizer = BertAdam(model.parameters(), lr=1e-3, weight_decay=0.01)
    inputs = call(golden)
    for step in range(STEPS):
        output = model(**inputs)
        losses = torch.stack([output.loss.detach(), *(output.losses[name] for name in COLUMNS)])
        assert_each_close(losses, golden["train/loss_curve"][step], f"losses at step {step}")
        optimizer.zero_grad()
        output.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        assert_each_close(norm, golden["train/grad_norms"][step], f"gradient norm at step {step}")
        for parameters in optimizer.param_groups:
            parameters["lr"] = 1e-3 * warmup_linear(step, TOTAL, WARMUP)
        optimizer.step()
    names = original_names(model)
    for name, value in group(golden, "after6").items():
        assert_close(names[name], value, what=name)


def assert_each_close(found: Tensor, wanted: Tensor, what: str) -> None:
    """Every number by itself, not against the largest."""
    for x, y in zip(found.double().view(-1), wanted.view(-1), strict=True):
        assert_close(x, y, what=what)
