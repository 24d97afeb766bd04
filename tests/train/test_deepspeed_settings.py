"""Our settings in DeepSpeed's words, and what DeepSpeed can't be asked for."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from lxmert_fast.errors import InputError
from lxmert_fast.train.deepspeed_engine import deepspeed_config, import_deepspeed
from lxmert_fast.train.settings import OptimisationSettings

CPU = torch.device("cpu")


def config(**settings: Any) -> dict[str, Any]:
    return deepspeed_config(OptimisationSettings(**settings), 3, 16, CPU)


def test_stage_clipping_and_accumulation() -> None:
    found = config(zero={"stage": 2}, clip=0.5)
    assert found["zero_optimization"]["stage"] == 2
    assert found["gradient_clipping"] == 0.5
    assert found["gradient_accumulation_steps"] == 3
    assert found["train_micro_batch_size_per_gpu"] == 16
    assert "offload_optimizer" not in found["zero_optimization"]


def test_stage_0_is_clipped_by_the_engine() -> None:
    assert config(zero={"stage": 0})["gradient_clipping"] == 0.0


@pytest.mark.parametrize(
    ("stage", "precision", "half"),
    [
        (0, "bf16", []), (1, "fp32", []), (1, "bf16", ["bf16"]), (3, "bf16", ["bf16"]), (2, "fp16", ["fp16"]),
    ],
)  # fmt: skip
def test_half_precision_is_deepspeeds_from_stage_1_on(stage: int, precision: str, half: list[str]) -> None:
    found = config(zero={"stage": stage}, precision=precision)
    assert [name for name in ("bf16", "fp16") if found[name]["enabled"]] == half


def test_offload() -> None:
    zero = config(zero={"stage": 3, "offload_optimizer": True, "offload_parameters": True})[
        "zero_optimization"
    ]
    assert zero["offload_optimizer"]["device"] == zero["offload_param"]["device"] == "cpu"


def test_deepspeeds_own_options_go_on_top_key_by_key() -> None:
    own = {"zero_optimization": {"overlap_comm": False}, "comms_logger": {"enabled": True}}
    found = config(zero={"stage": 2}, deepspeed=own)
    assert found["zero_optimization"]["stage"] == 2
    assert found["zero_optimization"]["overlap_comm"] is False
    assert found["comms_logger"] == {"enabled": True}


@pytest.mark.parametrize(
    ("zero", "line"),
    [
        ({"stage": 2, "offload_parameters": True}, "offload_parameters wants stage 3, found 2"),
        ({"stage": 0, "offload_optimizer": True}, "offload_optimizer wants a stage from 1 on, found 0"),
    ],
)
def test_offload_wants_its_stage(zero: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        OptimisationSettings(zero=zero)  # type: ignore[arg-type]


def test_without_deepspeed_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(InputError, match=r"install lxmert-fast\[deepspeed\]"):
        import_deepspeed()
