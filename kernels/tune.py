"""Launch settings timed on this machine's GPU, for the kernels that a model of one size needs.

Opt-in: nothing tunes by itself. For each kernel and key a few settings around the default run the calls of a
training step, and the fastest whose results are the default's is kept. The table goes into a file, which
`LXMERT_FAST_CONFIGS` names; in a distributed run the first process tunes and all install its table, so that
they add up in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from .configs import Key, Settings, Table, attention_key, install, power_of_two, settings

#: Seconds of a call.
Timer = Callable[[Callable[[], object]], float]
Tables = dict[int, dict[str, Table]]
#: Kernels whose loop loads ahead, and the fewest rows of those whose tiles are multiplied.
LOOPS = {"attention_forward", "attention_backward"}
LEAST_ROWS = {"attention_forward": 16, "attention_backward": 16}
#: These have one row a program, whatever their settings say.
ONE_ROW = {"sum_readers"}
MOST_WARPS = 16
#: Relative difference that another order of summing makes in half precision.
TOLERANCE = 2e-2


@dataclass(frozen=True)
class Work:
    """A kernel, the key of its settings, and a call that launches it so."""

    kernel: str
    key: Key
    run: Callable[[], object]
    times: int = 1
    """How often a step makes this call."""


def candidates(kernel: str, default: Settings) -> Iterator[Settings]:
    """The default first, then others around it."""
    least = LEAST_ROWS.get(kernel, 1)
    factors = (1.0,) if kernel in ONE_ROW else (1.0, 0.5, 2.0)
    rows = [n for factor in factors if (n := int(default.rows * factor)) >= least]
    warps = [n for factor in (1.0, 0.5, 2.0) if 1 <= (n := int(default.warps * factor)) <= MOST_WARPS]
    stages = (default.stages, default.stages + 1) if kernel in LOOPS else (default.stages,)
    yield from (Settings(*values, default.columns) for values in product(rows, warps, stages))


def tune(
    work: Iterable[Work], architecture: int, timer: Timer, say: Callable[[str], None] = lambda line: None
) -> Tables:
    """The best settings of every kernel and key, installed in this process and in all of its group.

    Args:
        work: what is timed; several calls of a kernel and key count together, each as often as it is made.
        architecture: of the GPU, as `dispatch.architecture` says it.
        timer: seconds of a call; only the first process of a group asks it.
    """
    together = distributed.is_available() and distributed.is_initialized()
    table: Tables = {}
    if not together or distributed.get_rank() == 0:
        table = {architecture: _tuned(list(work), architecture, timer, say)}
    if together:
        shared: list[Any] = [table]
        distributed.broadcast_object_list(shared, src=0)
        table = shared[0]
    install(table)
    return table


def model_work(calls: Iterable[Any], rows: int = 1024) -> Iterator[Work]:
    """What the calls of a training step (`bench/step_calls.py`) ask of each kernel.

    Args:
        rows: a width of a gelu tile and of a sum of readers, as their launchers have it.
    """
    for call in calls:
        arguments = call.run.args
        key: Key
        if call.kernel.startswith("attention"):
            heads, _, _, most_keys = arguments[-4:]
            qkv = arguments[1 if call.kernel.endswith("backward") else 0]
            key = attention_key(most_keys, qkv.shape[1] // (3 * heads), qkv.element_size())
        elif call.kernel.startswith("gelu"):
            key = (256,)
        elif call.kernel == "sum_readers":
            key = (rows,)
        else:
            key = (power_of_two(arguments[0].shape[1], 64),)
        yield Work(call.kernel, key, call.run, call.times)
        if call.kernel in ("norm_backward", "text_backward", "visual_backward", "gelu_backward"):
            yield Work("sum_partials", (128,), call.run, call.times)


def _tuned(work: list[Work], architecture: int, timer: Timer, say: Callable[[str], None]) -> dict[str, Table]:
    best: dict[str, Table] = {}
    groups: dict[tuple[str, Key], list[Work]] = {}
    for one in work:
        groups.setdefault((one.kernel, one.key), []).append(one)
    for (kernel, key), calls in groups.items():
        install({architecture: best})
        default = settings(kernel, architecture, *key)
        wanted = [_values(call.run()) for call in calls]
        timed: dict[Settings, float] = {}
        for choice in dict.fromkeys(candidates(kernel, default)):
            install({architecture: {**best, kernel: {**best.get(kernel, {}), key: choice}}})
            seconds = _time(calls, wanted, timer, must=choice == default)
            if seconds is not None:
                timed[choice] = seconds
        chosen = min(timed, key=timed.__getitem__)
        best.setdefault(kernel, {})[key] = chosen
        gain = timed[default] / timed[chosen]
        say(f"{kernel} {'x'.join(map(str, key))}: {tuple(chosen)}, {gain:.2f} x the default")
    return best


def _time(calls: list[Work], wanted: list[list[Tensor]], timer: Timer, must: bool) -> float | None:
    """Seconds of all calls; None where these settings do not compile, do not fit or change the result."""
    try:
        if not all(_same(_values(call.run()), values) for call, values in zip(calls, wanted, strict=True)):
            return None
        return sum(timer(call.run) * call.times for call in calls)
    except Exception:
        # Triton has an error of its own for each resource that runs out; the default has to work
        if must:
            raise
        return None


def _same(found: list[Tensor], wanted: list[Tensor]) -> bool:
    # differences that are no number are none that count: both have them, or `<=` says no
    return all(
        bool((x.double() - y.double()).abs().max() <= TOLERANCE * y.double().abs().max().clamp(min=1e-30))
        for x, y in zip(found, wanted, strict=True)
        if y.numel()
    )


def _values(output: Any) -> list[Tensor]:
    tensors = [output] if isinstance(output, Tensor) else [x for x in output if isinstance(x, Tensor)]
    return [x.clone() for x in tensors]


def gpu_timer(rounds: int = 20) -> Timer:
    """Median seconds on the GPU, with a cold cache."""
    from ..bench.gpu.device import Cuda

    device = Cuda()
    return lambda call: float(device.time_kernel(call, rounds).to_json()["median"])


def tune_model(workloads: Iterable[str], timer: Timer | None = None, **options: Any) -> Tables:
    """Tune for the base model's training steps on the first GPU.

    Raises:
        InputError: there is no GPU, or no Triton.
    """
    from ..bench.step_calls import Place, step_calls
    from ..bench.workloads import config_for, workload
    from ..errors import InputError
    from .dispatch import architecture, has_triton

    if not (torch.cuda.is_available() and has_triton()):
        raise InputError("tuning needs a GPU that PyTorch can use, and Triton")
    place = Place(torch.device("cuda", torch.cuda.current_device()), torch.bfloat16, whole=True)
    kinds = [workload(name) for name in workloads]
    calls = (call for kind in kinds for call in step_calls(kind, config_for(kind), place))
    return tune(model_work(calls), architecture(place.device), timer or gpu_timer(), **options)
