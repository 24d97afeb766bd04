"""What a call costs on a GPU, counted without one: launches, bytes moved, bytes saved for backward.

Models and batches are on PyTorch's meta device: every operation is dispatched as ever and computes nothing,
so the paper's model is counted in seconds, in the half precision that a GPU would run. Ours takes the
operators. Its plan is made on the host, whose operations are no launches; it reaches the GPU in one copy,
which is counted. Hugging Face's eager model is counted in the same way on the same batch, its dropout as the
one operation that it is on a GPU (the meta device takes it apart into three). FLOPs are counted
elsewhere (`counts.py`): here the tables of meetings, which attention's follow from, have no numbers.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from transformers import LxmertConfig

from lxmert_fast.bench.contenders import OURS, OURS_EAGER, REFERENCE, THEIRS, Mode, modes
from lxmert_fast.bench.counts import Counts, count, count_step
from lxmert_fast.bench.cuda_dropout import CudaDropout
from lxmert_fast.bench.workloads import Batches, Workload, batches
from lxmert_fast.kernels.dispatch import implementation
from lxmert_fast.prepared import prepare
from lxmert_fast.tables import Sizes
from lxmert_fast.transfer import pack, to_device

META = torch.device("meta")


def count_on_device(
    workload: Workload, config: LxmertConfig, dtype: torch.dtype = torch.bfloat16
) -> dict[str, dict[str, Counts]]:
    """Mode ("inference", "step") to contender (Hugging Face's eager model, ours) to its counts.

    Pre-training has no inference. Steps are in training mode, with dropout; the optimizer is left out.
    """
    found: dict[str, dict[str, Counts]] = {}
    for mode in modes(workload):
        drawn = batches(workload, config, labels=mode == "step")
        theirs = _model(THEIRS[workload.task], config, mode, dtype)
        with CudaDropout():
            eager = _count(theirs, mode, drawn.huggingface)
        found[mode] = {
            REFERENCE: eager,
            OURS_EAGER: _count_ours(_model(OURS[workload.task], config, mode, dtype), mode, drawn),
        }
        for counts in found[mode].values():
            counts.flops = 0
    return found


class Exactly(Sizes):
    """Buffers as large as what is in them: a graph's rounding is not counted."""

    def __call__(self, name: Hashable, rows: int) -> int:
        """The size of a buffer for these rows."""
        return rows


def _model(kind: type[nn.Module], config: LxmertConfig, mode: Mode, dtype: torch.dtype) -> Any:
    with META:
        model: Any = kind(config)
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    return model.to(dtype).train(mode == "step")


def _count_ours(model: Any, mode: Mode, drawn: Batches) -> Counts:
    with implementation("operator"):
        rows, host = prepare(model, drawn.ours, Exactly())
        batch = rows.static(META) | {"prepared": to_device(host, META)}
        counts = _count(model, mode, batch)
    counts.operations += 1
    counts.launches += 1
    counts.bytes_moved += 2 * len(pack(host))
    return counts


def _count(model: Any, mode: Mode, batch: dict[str, Any]) -> Counts:
    def on_device(x: object) -> object:
        return x.to(META) if isinstance(x, Tensor) else x

    batch = dict(batch)
    prepared = batch.pop("prepared", None)
    inputs: dict[str, Any] = tree_map(on_device, batch)
    for name in ("visual_feats", "visual_pos"):
        inputs[name] = inputs[name].to(next(model.parameters()).dtype)
    if prepared is not None:
        inputs["prepared"] = prepared
    if mode == "step":
        return count_step(lambda: model(**inputs)["loss"], model, inputs)

    @torch.no_grad()
    def infer() -> None:
        model(**inputs)

    # a first call joins weights, which later ones find joined
    infer()
    return count(infer)
