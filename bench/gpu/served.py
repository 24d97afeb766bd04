"""Contenders of a GPU's races: those of a CPU's, told who serves them, and this library's by graphs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.lxmert import modeling_lxmert as huggingface

from lxmert_fast.bench.contenders import Inference, Step, without_dropout
from lxmert_fast.bench.gpu.environment import has
from lxmert_fast.bench.gpu.rivals import layer_norm_modules
from lxmert_fast.bench.parity import Values
from lxmert_fast.bench.race import Unavailable
from lxmert_fast.errors import InputError
from lxmert_fast.kernels.dispatch import has_triton, implementation
from lxmert_fast.verify import GRADIENTS

Around = Callable[[], Any]


class ServedInference(Inference):
    around: Around

    def run(self) -> Values:
        with self.around():
            return super().run()

    check = run


class ServedStep(Step):
    around: Around

    def loss(self) -> Tensor:
        with self.around():
            return super().loss()


class GraphInference(ServedInference):
    capture: dict[str, Any]

    def prepare(self) -> None:
        super().prepare()
        self._runner = _runner(self.model, self.capture)

    def run(self) -> Values:
        with self.around():
            return {"scores": _captured(self._runner, self._runner.infer(**self._inputs))}

    check = run


class GraphStep(ServedStep):
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


def with_layer_norm(build: Callable[[], nn.Module], package: str) -> nn.Module:
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


def by_operators(build: Callable[[], nn.Module], dry: bool) -> nn.Module:
    if not dry and not has_triton():
        raise Unavailable("Triton is not installed")
    return build()


def run_again(run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
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


def serving(served: str, before: Callable[[], object]) -> Any:
    before()
    return implementation(served)
