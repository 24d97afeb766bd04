"""One workload in one mode at one size on a GPU: its batch, its values in fp32, and who computes it in bf16.

Everyone shares the storage of one set of weights. Hugging Face's model in fp32 says what is right, its eager
model in bf16 how far off bf16 may be (`right.py`).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lxmert_fast.bench.contenders import (
    COMPILED,
    OURS,
    OURS_EAGER,
    REFERENCE,
    THEIRS,
    Inference,
    Mode,
    Step,
    compiled,
    random_model,
    sharing,
)
from lxmert_fast.bench.counts import count_contender
from lxmert_fast.bench.gpu.device import Device
from lxmert_fast.bench.gpu.right import DTYPE, differences
from lxmert_fast.bench.gpu.served import (
    GraphInference,
    GraphStep,
    ServedInference,
    ServedStep,
    by_operators,
    run_again,
    serving,
    with_layer_norm,
    with_sdpa,
)
from lxmert_fast.bench.parity import Values
from lxmert_fast.bench.workloads import Workload, batches, config_for

GRAPHS, BY_REFERENCE, REDUCED = "ours by graphs", "ours by reference", "huggingface reduce-overhead"
Contender = Inference | Step


class Setting:
    """A race's batch and models, made when they are first asked for."""

    def __init__(self, workload: Workload, mode: Mode, device: Device) -> None:
        self.workload, self.mode, self.device = workload, mode, device
        self.config = config_for(workload, tiny=device.dry)

    @property
    def title(self) -> str:
        """Its name in ids and tables."""
        kind = "inference" if self.mode == "inference" else "step"
        return f"{self.workload.name} {kind}, {self.workload.pairs} pairs"

    @cached_property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """Arguments of a forward: "huggingface", "ours", and "exact" in fp32 of the same rounded numbers."""
        drawn = batches(self.workload, self.config, labels=self.mode == "step")
        losses = {"loss_only": True} if self.workload.task == "pretraining" else {}
        theirs = _moved(drawn.huggingface, self.device.torch, DTYPE)
        ours = _moved(drawn.ours, self.device.torch, DTYPE)
        exact = _moved(theirs, self.device.torch, torch.float32)
        return {"huggingface": theirs, "ours": ours | losses, "exact": exact}

    @cached_property
    def weights(self) -> nn.Module:
        """Hugging Face's model in bf16, whose storage everyone shares."""
        return _model(self.workload.task, self._key, self.device.torch, DTYPE)

    @property
    def weight_bytes(self) -> int:
        """Of the shared weights."""
        return sum(p.numel() * p.element_size() for p in self.weights.parameters())

    @cached_property
    def wanted(self) -> Values:
        """What the model gives in fp32, without dropout."""
        exact = _model(self.workload.task, self._key, self.device.torch, torch.float32)
        kept = self._contender(REFERENCE, lambda: exact, "exact")
        kept.prepare()
        values = {name: x.float().clone() for name, x in kept.check().items()}
        exact.zero_grad(set_to_none=True)
        return values

    @cached_property
    def yardstick(self) -> dict[str, float]:
        """Differences of Hugging Face's eager model in bf16."""
        reference = self.contender(REFERENCE)
        reference.prepare()
        return differences(reference.check(), self.wanted)

    @cached_property
    def counts(self) -> dict[str, dict[str, Any]]:
        """FLOPs, bytes and launches of Hugging Face's eager model and of ours (`counts.py`)."""
        found = {}
        for name in (REFERENCE, OURS_EAGER):
            contender = self.contender(name)
            contender.prepare()
            contender.run()
            found[name] = count_contender(contender).to_json()
            # the plan's operations on the host are none
            found[name]["launches"] = self.device.launches(contender.run) or found[name]["launches"]
            contender.model.zero_grad(set_to_none=True)
        return found

    def contender(self, name: str) -> Contender:
        """By its name; its `prepare` raises `Unavailable` where something is missing."""
        return dict(self._forms())[name]()

    def names(self) -> list[str]:
        """Every contender's, the most wanted first."""
        return [name for name, _ in self._forms()]

    def _forms(self) -> Iterator[tuple[str, Callable[[], Contender]]]:
        theirs, ours = partial(self._sharing, THEIRS), partial(self._sharing, OURS)
        form, dry = self._contender, self.device.dry
        yield REFERENCE, partial(form, REFERENCE, theirs)
        yield OURS_EAGER, partial(form, OURS_EAGER, lambda: by_operators(ours, dry), "ours", "operator")
        yield GRAPHS, partial(self._graphs, lambda: by_operators(ours, dry))
        # dynamo alone is enough for a dry run: its code is what is tested
        backend = {"backend": "eager"} if dry else {}
        yield COMPILED, partial(form, COMPILED, lambda: compiled(theirs(), **backend))
        mode = backend or {"mode": "reduce-overhead"}
        before = torch.compiler.cudagraph_mark_step_begin
        yield REDUCED, partial(form, REDUCED, lambda: compiled(theirs(), **mode), before=before)
        yield "huggingface sdpa", partial(form, "huggingface sdpa", lambda: with_sdpa(theirs()))
        yield BY_REFERENCE, partial(form, BY_REFERENCE, ours, "ours", "reference")
        for package in ("apex", "liger"):
            name = f"huggingface {package}"
            yield name, partial(form, name, partial(with_layer_norm, theirs, package))

    def _sharing(self, kinds: dict[str, type[nn.Module]]) -> nn.Module:
        return sharing(kinds[self.workload.task], self.config, self.weights)

    def _contender(
        self,
        name: str,
        build: Callable[[], nn.Module],
        inputs: str = "huggingface",
        served: str = "auto",
        before: Callable[[], object] = lambda: None,
    ) -> Contender:
        kind: Any = ServedInference if self.mode == "inference" else ServedStep
        contender = kind(name, build, self.inputs[inputs])
        contender.around = partial(serving, served, before)
        return contender

    def _graphs(self, build: Callable[[], nn.Module]) -> Contender:
        kind: Any = GraphInference if self.mode == "inference" else GraphStep
        # a runner reads the losses alone by itself
        inputs = {name: x for name, x in self.inputs["ours"].items() if name != "loss_only"}
        contender = kind(GRAPHS, build, inputs)
        contender.capture = {"capture": run_again} if self.device.dry else {}
        contender.around = partial(serving, "operator", lambda: None)
        return contender

    @property
    def _key(self) -> str:
        return self.config.to_json_string(use_diff=False)


# both tasks, in both dtypes: drawing 209 M numbers takes longer than an item
@functools.lru_cache(maxsize=4)
def _model(task: str, config: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
    # fp32 has the same rounded weights: what differs is the computation
    return copy.deepcopy(random_model(task, config)).to(device, DTYPE).to(dtype)


def _moved(values: Any, device: torch.device, dtype: torch.dtype) -> Any:
    def move(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return x.to(device, dtype) if x.is_floating_point() else x.to(device)

    return tree_map(move, values)
