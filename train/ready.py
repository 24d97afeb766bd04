"""A model that has been opened, made ready to answer."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from lxmert_fast.compiled import compile_model
from lxmert_fast.errors import InputError
from lxmert_fast.int8 import quantize


def ready(model: PreTrainedModel, device: torch.device, *, compiled: bool, int8: bool) -> Any:
    """The model on a device, its encoders through `torch.compile`, or with 8-bit products on the CPU.

    Raises:
        InputError: 8-bit products on another device.
    """
    if int8:
        if device.type != "cpu":
            raise InputError(f"8-bit products are for the CPU, the device is {device}: use --device cpu")
        model = quantize(model)
    model.to(device)  # type: ignore[arg-type]
    return compile_model(model) if compiled else model
