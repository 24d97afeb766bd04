"""One workload in one mode at one size on a GPU: its batch, its values in fp32, and who computes it in bf16.

Everyone shares the storage of one set of weights. Hugging Face's model in fp32 says what is right; its eager
model in bf16 says how far off bf16 may be: others may be twice as far, gradients three times.
"""

from __future__ import annotations

import copy
import functools
import importlib
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map
from transformers.models.lxmert import modeling_lxmert as huggingface

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
    without_dropout,
)
from lxmert_fast.bench.counts import count_contender
from lxmert_fast.bench.gpu.device import Device
from lxmert_fast.bench.gpu.environment import has
from lxmert_fast.bench.gpu.rivals import layer_norm_modules
from lxmert_fast.bench.parity import ParityError, Values
from lxmert_fast.bench.race import Unavailable
from lxmert_fast.bench.workloads import Workload, batches, config_for
from lxmert_fast.errors import InputError
from lxmert_fast.kernels.dispatch import has_triton, implementation
from lxmert_fast.verify import GRADIENTS, SMALL_GRADIENT, difference

DTYPE = torch.bfloat16
#: Times the difference of Hugging Face's eager model, and units of rounding that are always allowed.
FORWARD, BACKWARD, FLOOR = 2.0, 3.0, 4.0
GRAPHS, BY_REFERENCE, REDUCED = "ours by graphs", "ours by reference", "huggingface reduce-overhead"
Contender = Inference | Step
Around = Callable[[], Any]


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
        yield OURS_EAGER, partial(form, OURS_EAGER, lambda: _operators(ours, dry), "ours", "operator")
        yield GRAPHS, partial(self._graphs, lambda: _operators(ours, dry))
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
            yield name, partial(form, name, partial(_with_layer_norm, theirs, package))

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
        kind: Any = _Inference if self.mode == "inference" else _Step
        contender = kind(name, build, self.inputs[inputs])
        contender.around = partial(_around, served, before)
        return contender

    def _graphs(self, build: Callable[[], nn.Module]) -> Contender:
        kind: Any = _GraphInference if self.mode == "inference" else _GraphStep
        # a runner reads the losses alone by itself
        inputs = {name: x for name, x in self.inputs["ours"].items() if name != "loss_only"}
        contender = kind(GRAPHS, build, inputs)
        contender.capture = {"capture": _run_again} if self.device.dry else {}
        contender.around = partial(_around, "operator", lambda: None)
        return contender

    @property
    def _key(self) -> str:
        return self.config.to_json_string(use_diff=False)


class _Inference(Inference):
    around: Around

    def run(self) -> Values:
        with self.around():
            return super().run()

    check = run


class _Step(Step):
    around: Around

    def loss(self) -> Tensor:
        with self.around():
            return super().loss()


class _GraphInference(_Inference):
    capture: dict[str, Any]

    def prepare(self) -> None:
        super().prepare()
        self._runner = _runner(self.model, self.capture)

    def run(self) -> Values:
        with self.around():
            return {"scores": _captured(self._runner, self._runner.infer(**self._inputs))}

    check = run


class _GraphStep(_Step):
    """A graph has its dropout in it, so the one that is checked is another."""

    capture: dict[str, Any]

    def prepare(self) -> None:
        super().prepare()
        self._runner = _runner(self.model, self.capture)

    def run(self) -> Values:
        return self._step(self._runner)

    def check(self) -> Values:
        self.model.zero_grad(set_to_none=True)
        with without_dropout(self.model):
            return {k: x.clone() for k, x in self._step(_runner(self.model, self.capture)).items()}

    def _step(self, runner: Any) -> Values:
        runner.zero_grad()
        with self.around():
            loss = _captured(runner, runner.step(**self.inputs))
        parameters = dict(self.model.named_parameters())
        found = {label: parameters[name].grad for label, name in GRADIENTS.items() if name in parameters}
        return {"loss": loss.detach()} | {label: g for label, g in found.items() if g is not None}


def require_right(who: str, found: Values, setting: Setting) -> float:
    """The largest difference from fp32.

    Raises:
        ParityError: one is more than the rule allows.
    """
    off = differences(found, setting.wanted)
    if who == REFERENCE:
        limits = dict.fromkeys(off, torch.finfo(torch.float32).max)
    else:
        limits = {
            name: max(
                (BACKWARD if name in GRADIENTS else FORWARD) * setting.yardstick[name],
                FLOOR * torch.finfo(DTYPE).eps,
            )
            for name in off
        }
    for name, value in off.items():
        if not value <= limits[name]:
            raise ParityError(f"{who}: {name} is {value:.1e} off fp32, allowed {limits[name]:.1e}")
    return max(off.values())


def differences(found: Values, wanted: Values) -> dict[str, float]:
    """Of each value, over its largest; of gradients as in `parity.worst_difference`."""
    if found.keys() != wanted.keys():
        raise ParityError(f"{sorted(found)} where the reference has {sorted(wanted)}")
    largest = max((wanted[name].abs().max().item() for name in wanted if name in GRADIENTS), default=0.0)
    floor = SMALL_GRADIENT * largest
    return {
        name: difference(found[name].float(), x, floor if name in GRADIENTS else 0.0)[1]
        for name, x in wanted.items()
    }


def with_sdpa(model: nn.Module) -> nn.Module:
    """Hugging Face's model with PyTorch's fused attention in the place of its formula."""
    for module in model.modules():
        if isinstance(module, huggingface.LxmertAttention):
            module.forward = partial(_sdpa, module)  # type: ignore[method-assign]
    return model


def _sdpa(
    module: Any, hidden: Tensor, context: Tensor, mask: Tensor | None = None, output_attentions: bool = False
) -> tuple[Tensor]:
    q, k, v = (
        layer(x).unflatten(-1, (module.num_attention_heads, -1)).transpose(1, 2)
        for layer, x in ((module.query, hidden), (module.key, context), (module.value, context))
    )
    p = module.dropout.p if module.training else 0.0
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
    return (out.transpose(1, 2).flatten(2),)


def _with_layer_norm(build: Callable[[], nn.Module], package: str) -> nn.Module:
    make = layer_norm_modules().get(package)
    if make is None:
        raise Unavailable(f"{package} is not installed")
    model = build()
    for parent in list(model.modules()):
        for name, old in list(parent.named_children()):
            if isinstance(old, nn.LayerNorm):
                new = make(old.normalized_shape[0], eps=old.eps)
                new.weight, new.bias = old.weight, old.bias
                setattr(parent, name, new)
    return model


def _operators(build: Callable[[], nn.Module], dry: bool) -> nn.Module:
    if not dry and not has_triton():
        raise Unavailable("Triton is not installed")
    return build()


def _run_again(run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
    """What stands for a CUDA graph in a dry run."""
    result = run()
    return result, lambda: result.copy_(run())


def _captured(runner: Any, result: Tensor) -> Tensor:
    """A result that a graph gave. Raises `Unavailable` where the runner did without."""
    for reason in runner.report:
        if reason.startswith("without"):
            raise Unavailable(reason)
    return result


def _runner(model: nn.Module, options: dict[str, Any]) -> Any:
    if not has("lxmert_fast.graphs"):
        raise Unavailable("lxmert_fast.graphs is not part of this version")
    try:
        return importlib.import_module("lxmert_fast.graphs").GraphRunner(model, **options)
    except InputError as error:
        raise Unavailable(str(error)) from None


def _around(served: str, before: Callable[[], object]) -> Any:
    before()
    return implementation(served)


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
