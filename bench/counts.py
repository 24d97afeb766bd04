"""What a call costs whatever the machine: FLOPs, operations, bytes moved, bytes saved for backward, memory.

Counted from the operations that PyTorch dispatches on the CPU. An operation *moves* the bytes of its inputs
and outputs, each tensor once (a broadcast one as it is stored, a lookup the rows that it fetches); views
move nothing and are not operations. Peak memory is of what the call allocates: weights and batch are not in
it, nor is the scratch memory inside an operation. This library's operators are one operation each
(`operators.py` says how many launches); of an operation that another library brings, only its name is known.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LxmertConfig

from lxmert_fast.bench.contenders import OURS_EAGER, REFERENCE, Step, contenders, modes
from lxmert_fast.bench.flops import KNOWN, flop_counter
from lxmert_fast.bench.operators import LAUNCHES, inputs_read, named_arguments
from lxmert_fast.bench.race import Contender
from lxmert_fast.bench.workloads import Workload, batches

#: These give memory and compute nothing.
_ALLOCATE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_"}
#: These read as much as they write, whatever the size of their table.
_LOOK_UP = {"embedding", "index_select", "gather", "index"}


@dataclass
class Counts:
    """Of one call."""

    flops: int = 0
    """A multiplication and an addition are two."""
    operations: int = 0
    """Operations that compute or copy."""
    launches: int = 0
    """Kernels that they launch on a GPU: one each, where the operation is not this library's."""
    bytes_moved: int = 0
    peak_bytes: int = 0
    saved_bytes: int = 0
    """Kept from forward for backward, without weights and batch; 0 of a call without gradients."""
    unknown: list[str] = field(default_factory=list)
    """Operations outside PyTorch's own, whose FLOPs are missing above."""

    def to_json(self) -> dict[str, Any]:
        """What the report reads."""
        return asdict(self)


def count(call: Callable[[], object]) -> Counts:
    """Run a call and count it."""
    tally = _Tally()
    flops = flop_counter()
    with flops, tally:
        call()
    return Counts(
        flops=flops.get_total_flops(),
        operations=tally.operations,
        launches=tally.launches,
        bytes_moved=tally.bytes_moved,
        peak_bytes=tally.peak,
        unknown=sorted(tally.unknown),
    )


def count_step(forward: Callable[[], Tensor], model: nn.Module, inputs: Any) -> Counts:
    """Count forward and backward of a loss, and the bytes saved between them.

    Args:
        forward: computes the loss.
        model, inputs: weights and batch, which are there anyway and not counted as saved.
    """
    saved = _Saved([*model.parameters(), *model.buffers(), *_tensors(inputs)])
    model.zero_grad(set_to_none=True)

    def step() -> None:
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
            loss = forward()
        loss.backward()

    counts = count(step)
    counts.saved_bytes = saved.bytes
    model.zero_grad(set_to_none=True)
    return counts


def count_workload(workload: Workload, config: LxmertConfig) -> dict[str, dict[str, Counts]]:
    """Mode ("inference", "step") to contender (Hugging Face's eager model, ours) to its counts.

    Pre-training has no inference. Steps are in training mode, with dropout.
    """
    found: dict[str, dict[str, Counts]] = {}
    for mode in modes(workload):
        drawn = batches(workload, config, labels=mode == "step")
        found[mode] = {}
        for contender in contenders(workload, config, drawn, mode, [REFERENCE, OURS_EAGER]):
            contender.prepare()
            contender.run()
            found[mode][contender.name] = count_contender(contender)
    return found


def count_contender(contender: Contender) -> Counts:
    """Count one that has run before: a first call may rearrange weights."""
    if isinstance(contender, Step):
        return count_step(contender.loss, contender.model, contender.inputs)
    return count(contender.run)


class _Tally(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations = self.launches = self.bytes_moved = self.live = self.peak = 0
        self.unknown: set[str] = set()
        self._alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        inputs, outputs = _tensors((args, kwargs)), _tensors(result)
        places = set(map(_place, inputs))
        for tensor in outputs:
            if _place(tensor) not in places:
                self._note(tensor)
        name = func._schema.name
        if name.split("::")[0] not in ("aten", "prims") and name not in KNOWN and name not in LAUNCHES:
            self.unknown.add(name)
        written = [arg for arg in func._schema.arguments if arg.alias_info and arg.alias_info.is_write]
        view = bool(outputs) and not written and all(_place(tensor) in places for tensor in outputs)
        short = name.split("::")[-1]
        if view or short in _ALLOCATE:
            return result
        self.operations += 1
        out = sum(map(stored_bytes, outputs))
        if name in LAUNCHES:
            given = named_arguments(func, args, kwargs)
            self.launches += LAUNCHES[name](given)
            whole, fetched = inputs_read(name, given)
            self.bytes_moved += out + fetched + sum(map(stored_bytes, whole))
            return result
        self.launches += 1
        self.bytes_moved += 2 * out if short in _LOOK_UP else out + sum(map(stored_bytes, inputs))
        return result

    def _note(self, tensor: Tensor) -> None:
        """Memory is alive from its first tensor until its storage goes."""
        if _is_opaque(tensor):
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def gone(_: object) -> None:
            self.live -= size
            self._alive.pop(key, None)

        self._alive[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


class _Saved:
    """Sums the storages that autograd keeps, each once."""

    def __init__(self, there_anyway: list[Tensor]) -> None:
        self.bytes = 0
        self._seen = set(map(_place, there_anyway))

    def pack(self, tensor: Tensor) -> Tensor:
        if _place(tensor) not in self._seen:
            self._seen.add(_place(tensor))
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor


def stored_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's distinct elements: a dimension that is broadcast counts once."""
    if _is_opaque(tensor):
        return tensor.numel() * tensor.element_size()
    number = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        number *= size if stride or not size else 1
    return number * tensor.element_size()


def _is_opaque(tensor: Tensor) -> bool:
    """Whether oneDNN keeps the numbers in a layout of its own, as it does weights."""
    return tensor.is_mkldnn


def _place(tensor: Tensor) -> int:
    """The same number for tensors in the same memory."""
    if _is_opaque(tensor):
        return id(tensor)
    storage = tensor.untyped_storage()
    # what has no numbers has no address either
    return storage.data_ptr() if tensor.device.type != "meta" else storage._cdata


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
