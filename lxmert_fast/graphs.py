"""CUDA graphs: a whole forward pass, or forward and backward, as one launch.

    runner = GraphRunner(model)
    scores = runner.infer(**batch)                 # evaluation
    loss = runner.step(**batch, scale=1 / 4)       # training: gradients are added to p.grad
    runner.zero_grad()                             # between updates; the optimizer stays outside

A graph runs again on the same shapes and addresses alone. So what depends on the numbers in a batch (its
plan, which positions have labels) is made on the host, the buffers have room for one of few sizes
(`tables.py`), and a batch is copied to where the graph reads it. Graphs are kept by shape; the first batch of
a shape runs three times more, to get one. Dropout seeds are drawn inside the graph, from PyTorch's generator,
which goes on at each run. What can't be captured runs without a graph, is counted in `runner.report` and
warned of once.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .dense import forget_joined_weights, has_hooks, kept_weights
from .errors import InputError
from .kernels.dispatch import use_operators
from .models import LxmertForImagePairs, LxmertForPreTraining, LxmertForQuestionAnswering, Prepared
from .prepared import Batch, Rows, prepare
from .tables import Sizes
from .transfer import pack, replaced, unpack

MODELS = (LxmertForQuestionAnswering, LxmertForImagePairs, LxmertForPreTraining)


class Capture(Protocol):
    """How a function becomes something that can be run again."""

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """What `run` gives, and what writes it there again."""
        ...


class CudaCapture:
    """A CUDA graph; all graphs of a runner share one memory pool, since one runs at a time."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """Warm up on a stream of its own, as capture wants it, then capture."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = run()
        self._pool = graph.pool()
        return result, graph.replay


@dataclass
class _Slot:
    """A graph and where it reads."""

    batch: Batch
    host: Prepared
    buffer: Tensor
    scale: Tensor
    result: Tensor
    replay: Callable[[], None]
    weights: list[Tensor]
    """Joined weights at the addresses that the graph reads: whoever forgets them must not free them."""


class GraphRunner:
    """Runs a model by graphs, one for each size of batch.

    Args:
        model: one of this library's task models, on a GPU.
        graphs: how many to keep; further sizes run without one.
        capture: how to capture; tests pass a fake.

    Raises:
        InputError: another kind of model.
    """

    def __init__(self, model: nn.Module, *, graphs: int = 32, capture: Capture | None = None) -> None:
        if not isinstance(model, MODELS):
            names = ", ".join(kind.__name__ for kind in MODELS)
            raise InputError(f"GraphRunner got a {type(model).__name__}, wanted one of {names}")
        self.model: Any = model
        self.graphs = graphs
        #: How often a graph was captured, replayed or done without, and why.
        self.report: Counter[str] = Counter()
        self._capture = capture or CudaCapture()
        self._sizes = Sizes()
        self._slots: dict[Hashable, _Slot] = {}
        self._grads: dict[str, Tensor] = {}
        self._weights: tuple[int, ...] = ()

    @torch.no_grad()
    def infer(self, **batch: Any) -> Tensor:
        """Scores (B, A) of a batch, the arguments of the model's `forward`. Copied: they stay as they are."""
        if self.model.training:
            raise InputError("GraphRunner.infer: the model is in training mode, call eval() first")
        self._forget_if_changed()
        return self._run("infer", batch, 1.0, self._scores).clone()

    def step(self, *, scale: float = 1.0, **batch: Any) -> Tensor:
        """Loss () of a batch; the gradients of `scale` times it are added to `p.grad`.

        Args:
            scale: 1 over the number of batches that make up an update, or a loss scale.
        """
        self._attach_gradients()
        # an optimizer that writes through `.data` may follow, and leave no mark
        self._weights = ()
        return self._run("step", batch, scale, self._loss).clone()

    def zero_grad(self) -> None:
        """Gradients to zero, in place: graphs have their addresses."""
        for name, p in self.model.named_parameters():
            if name in self._grads:
                p.grad = self._grads[name].zero_()
            else:
                p.grad = None

    def reset(self) -> None:
        """Forget all graphs, after a change of modules, dropout rates or requires_grad."""
        self._slots.clear()
        self._grads.clear()

    def _run(
        self, kind: str, batch: dict[str, Any], scale: float, run: Callable[[Batch, Prepared, Tensor], Tensor]
    ) -> Tensor:
        reason = self._reason_against()
        if reason is None:
            rows, host = prepare(self.model, batch, self._sizes)
            key = kind, self.model.training, rows.signature(), _signature(host)
            slot = self._slots.get(key)
            if host.plan.tables.own is None:
                reason = "a sequence is too long for the kernels"
            elif slot is None and len(self._slots) >= self.graphs:
                reason = f"more than {self.graphs} sizes of batch"
        if reason is not None:
            return self._without_graph(kind, batch, scale, reason)
        if slot is None:
            self.report["captured"] += 1
            slot = self._slots[key] = self._captured(kind, rows, host, scale, run)
        else:
            self._fill(slot, rows, host, scale)
        self.report["replayed"] += 1
        slot.replay()
        return slot.result

    def _captured(
        self,
        kind: str,
        rows: Rows,
        host: Prepared,
        scale: float,
        run: Callable[[Batch, Prepared, Tensor], Tensor],
    ) -> _Slot:
        device = self.model.device
        batch, buffer = rows.static(device), pack(host).to(device)
        factor = torch.full((), scale, device=device)
        prepared = unpack(host, buffer)
        if kind == "step":
            self._make_gradients(lambda: run(batch, prepared, factor))
        before = {name: grad.clone() for name, grad in self._grads.items()} if kind == "step" else {}
        result, replay = self._capture(lambda: run(batch, prepared, factor))
        # warming up has added gradients of its own
        for name, grad in before.items():
            self._grads[name].copy_(grad)
        return _Slot(batch, host, buffer, factor, result, replay, kept_weights(self.model))

    def _fill(self, slot: _Slot, rows: Rows, host: Prepared, scale: float) -> None:
        packed = pack(host)
        if slot.buffer.is_cuda:
            packed = packed.pin_memory()
        slot.buffer.copy_(packed, non_blocking=True)
        rows.copy_to(slot.batch)
        slot.scale.fill_(scale)

    def _scores(self, batch: Batch, prepared: Prepared, scale: Tensor) -> Tensor:
        return self._scores_in(self.model(**batch, prepared=prepared, return_dict=True))

    def _scores_in(self, output: Any) -> Tensor:
        is_pairs = isinstance(self.model, LxmertForImagePairs)
        return output.logits if is_pairs else output.question_answering_score

    def _loss(self, batch: Batch, prepared: Prepared, scale: Tensor) -> Tensor:
        with torch.enable_grad():
            loss = self.model(**batch, prepared=prepared, return_dict=True).loss
            (loss * scale).backward()
        return loss.detach()

    def _without_graph(self, kind: str, batch: dict[str, Any], scale: float, reason: str) -> Tensor:
        if not self.report[f"without a graph: {reason}"]:
            warnings.warn(f"GraphRunner runs without a graph: {reason}", stacklevel=4)
        self.report[f"without a graph: {reason}"] += 1
        on_device = replaced(batch, lambda x: x.to(self.model.device))
        if kind == "infer":
            return self._scores_in(self.model(**on_device, return_dict=True))
        options = {"loss_only": True} if isinstance(self.model, LxmertForPreTraining) else {}
        loss = self.model(**on_device, **options, return_dict=True).loss
        (loss * scale).backward()
        return loss.detach()

    def _reason_against(self) -> str | None:
        """Why no graph can serve."""
        if not use_operators(self.model.lxmert.pooler.dense.weight):
            return "the operators are not in use"
        if self.model.training and not self.model.lxmert.share_in_training:
            return "share_in_training is False"
        if any(map(has_hooks, self.model.modules())):
            return "a module has hooks"
        return None

    def _forget_if_changed(self) -> None:
        """Weights that have changed are joined anew, at other addresses."""
        weights = tuple(x for p in self.model.parameters() for x in (p.data_ptr(), p._version))
        if weights != self._weights:
            forget_joined_weights()
            self._slots = {key: slot for key, slot in self._slots.items() if key[0] != "infer"}  # type: ignore[index]
            self._weights = weights

    def _make_gradients(self, run: Callable[[], object]) -> None:
        """Gradients at addresses that stay, of the parameters that get one."""
        given = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        self.model.zero_grad(set_to_none=True)
        run()
        for name, p in self.model.named_parameters():
            if p.grad is not None and name not in self._grads:
                self._grads[name] = torch.zeros_like(p.grad)
            p.grad = given.get(name)
        self._attach_gradients()

    def _attach_gradients(self) -> None:
        """Put the numbers that are in `p.grad` where the graphs add to."""
        for name, p in self.model.named_parameters():
            grad = self._grads.get(name)
            if grad is None or p.grad is grad:
                continue
            if p.grad is None:
                grad.zero_()
            else:
                grad.copy_(p.grad)
            p.grad = grad


def _signature(host: Prepared) -> Hashable:
    """All that is not the numbers in a tensor: shapes, and the integers that launches depend on."""
    found: list[Hashable] = []

    def visit(part: Any) -> None:
        if isinstance(part, Tensor):
            found.append((tuple(part.shape), part.dtype))
        elif isinstance(part, (int, float, str, bool, type(None))):
            found.append(part)
        elif isinstance(part, dict):
            for name, value in part.items():
                found.append(name)
                visit(value)
        elif isinstance(part, tuple):
            for value in part:
                visit(value)
        else:
            for value in vars(part).values():
                visit(value)

    visit(host)
    return tuple(found)
