"""DeepSpeed behind the loop's engine: ZeRO 0 to 3, offload, half precision.

DeepSpeed does forward, backward, reduction and update; checkpoints are ours (`shards.py`), because a run
shall go on with another number of ranks and another stage without a conversion.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lxmert_fast.errors import Diverged, InputError

from .config_files import merged
from .engine import HALF, Engine, clip_gradients, to_device
from .memory import BUCKET
from .ranks import Ranks, is_loss, lost
from .segments import share_norms
from .settings import OptimisationSettings
from .shards import Piece, sharded_pieces, whole_pieces

_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


class DeepSpeedEngine(Engine):
    """One of W processes under ZeRO.

    Args:
        model: returns an output with `.loss`.
        optimizer, schedule: stepped once an update.
        settings: stage, precision, clipping and DeepSpeed's own options.
        ranks: this process among the others.
        accumulation: backward passes an update.
        micro_batch: pairs in one of them at most; DeepSpeed only reports it.
        device: where the model runs.

    Raises:
        InputError: DeepSpeed is not installed, or does not take the settings.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        schedule: LambdaLR,
        settings: OptimisationSettings,
        ranks: Ranks,
        *,
        accumulation: int,
        micro_batch: int,
        device: torch.device,
    ) -> None:
        deepspeed = import_deepspeed()
        self.stage = settings.zero.stage
        self.layout = f"zero-{self.stage}" if self.stage else "whole"
        self.device = device
        self.ranks = ranks
        self.accumulation = accumulation
        self.clip = settings.clip
        # stage 0 keeps fp32 weights, as one process does; the other stages keep fp32 masters of half weights
        self.autocast = settings.precision == "bf16" and self.stage == 0
        self.half = HALF.get(settings.precision) if self.stage else None
        self._grad_norm: float | None = None
        if self.stage == 3:
            from .zero3 import prepare_for_zero3

            prepare_for_zero3(model)
        try:
            self._engine, *_ = deepspeed.initialize(
                model=model,
                optimizer=optimizer,
                lr_scheduler=schedule,
                config=deepspeed_config(settings, accumulation, micro_batch, device),
                dist_init_required=False,
            )
        except (AssertionError, ValueError, RuntimeError) as error:
            if is_loss(error):
                raise lost(ranks, error) from None
            raise InputError(
                f"optimisation: DeepSpeed does not take these settings ({' '.join(str(error).split())[:200]})"
            ) from None
        share_norms(optimizer, self._engine)
        self.module = self._engine.module
        self.optimizer = optimizer
        self.lr_scheduler = schedule

    @property
    def global_steps(self) -> int:  # type: ignore[override]
        return self._engine.global_steps

    @property
    def zero(self) -> Any:
        """DeepSpeed's optimizer, which holds the partitions."""
        return self._engine.optimizer

    def __call__(self, **inputs: Any) -> Any:
        inputs = to_device(inputs, self.device)
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)
        with self._reaching_all(), autocast:
            return self._engine(**inputs)

    def backward(self, loss: Tensor) -> None:
        with self._reaching_all():
            self._engine.backward(loss)

    def is_gradient_accumulation_boundary(self) -> bool:
        return self._engine.is_gradient_accumulation_boundary()

    def step(self) -> bool:
        with self._reaching_all():
            return self._step()

    @contextmanager
    def _reaching_all(self) -> Iterator[None]:
        """DeepSpeed's collectives fail with what the backend says; which is that a rank is lost."""
        try:
            yield
        except RuntimeError as error:
            if is_loss(error):
                raise lost(self.ranks, error) from None
            raise
        except Exception as error:
            if "loss scale already at minimum" not in str(error):  # DeepSpeed raises a plain Exception
                raise
            raise Diverged(
                f"gradients overflow fp16 at update {self.global_steps + 1} even with the smallest loss "
                "scale; optimisation.precision=bf16 has the range that they need"
            ) from None

    def _step(self) -> bool:
        if not self.is_gradient_accumulation_boundary():
            self._engine.step()
            return True
        if self.stage:
            self._engine.step()
            self._grad_norm = float(self.zero._global_grad_norm)
            return self._engine.was_step_applied()
        # here the gradients are whole and reduced, and DeepSpeed would apply them whatever they are
        self._grad_norm = clip_gradients(self.module, self.clip)
        if math.isfinite(self._grad_norm):
            self._engine.step()
            return True
        self._engine.zero_grad()
        self._engine.micro_steps += 1
        self._engine.global_steps += 1
        return False

    def get_global_grad_norm(self) -> float | None:
        return self._grad_norm

    def loss_scale(self) -> float:
        return float(self.zero.cur_scale) if self.half is torch.float16 else 1.0

    def pieces(self) -> list[Piece]:
        if self.stage == 0:
            return whole_pieces(self.module)
        if self.stage == 3:
            self.zero.checkpoint_event_prologue()  # parameters that are kept whole between steps go back
        return sharded_pieces(self.module, self.zero, self.ranks.rank)

    def frozen(self) -> dict[str, Tensor]:
        if self.stage < 3:
            return super().frozen()
        from deepspeed.runtime.zero import GatheredParameters

        names = {name: p for name, p in self.module.named_parameters() if not p.requires_grad}
        with GatheredParameters(list(names.values())):
            found = {name: p.detach().clone() for name, p in names.items()}
        return found | dict(self.module.named_buffers())

    def weights(self) -> dict[str, Tensor] | None:
        if self.stage == 0:
            return super().weights()
        from deepspeed.utils import safe_get_full_fp32_param

        whole: dict[str, Tensor] = dict(self.frozen())
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                value = safe_get_full_fp32_param(parameter)  # every rank takes part
                if self.ranks.first:
                    whole[name] = value.reshape(
                        parameter.ds_shape if self.stage == 3 else parameter.shape
                    ).cpu()
        return whole if self.ranks.first else None

    def _set_counters(self, global_steps: int) -> None:
        self._engine.global_steps = global_steps
        self._engine.micro_steps = global_steps * self.accumulation

    def _set_frozen(self, values: dict[str, Tensor]) -> None:
        if self.stage < 3:
            return super()._set_frozen(values)
        from deepspeed.runtime.zero import GatheredParameters

        held = {name: p for name, p in self.module.named_parameters() if name in values}
        with GatheredParameters(list(held.values()), modifier_rank=0), torch.no_grad():
            if self.ranks.first:
                for name, parameter in held.items():
                    parameter.copy_(values[name])
        return None

    @torch.no_grad()
    def _after_restore(self) -> None:
        if self.stage in (1, 2):
            self.zero.update_lp_params()
            self.zero._link_all_hp_params()
        elif self.stage == 3:
            for whole, held, parts in zip(
                self.zero.fp16_partitioned_groups_flat,
                self.zero.fp32_partitioned_groups_flat,
                self.zero.fp16_partitioned_groups,
                strict=True,
            ):
                whole.data.copy_(held.data)
                for part, value in zip(parts, self.zero.unflatten(whole, parts), strict=True):
                    part.data = value.data
            self.zero.checkpoint_event_epilogue()

    def _scaler_state(self) -> dict[str, float]:
        scaler = getattr(self.zero, "loss_scaler", None)
        return {name: float(getattr(scaler, name)) for name in _SCALER if hasattr(scaler, name)}

    def _load_scaler(self, state: dict[str, float]) -> None:
        scaler = getattr(self.zero, "loss_scaler", None)
        for name, value in state.items():
            if hasattr(scaler, name):
                setattr(scaler, name, type(getattr(scaler, name))(value))


def deepspeed_config(
    settings: OptimisationSettings, accumulation: int, micro_batch: int, device: torch.device
) -> dict[str, Any]:
    """DeepSpeed's configuration for our settings; `optimisation.deepspeed` goes on top, key by key."""
    zero = settings.zero
    pinned = device.type == "cuda"
    partition: dict[str, Any] = {
        "stage": zero.stage,
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
    }
    if zero.offload_optimizer:
        partition["offload_optimizer"] = {"device": "cpu", "pin_memory": pinned}
    if zero.offload_parameters:
        partition["offload_param"] = {"device": "cpu", "pin_memory": pinned}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        # of stage 0 the engine clips itself
        "gradient_clipping": settings.clip if zero.stage else 0.0,
        "zero_optimization": partition,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": settings.precision == "bf16" and zero.stage > 0},
        "fp16": {"enabled": settings.precision == "fp16", "initial_scale_power": 16},
    }
    return merged(config, settings.deepspeed)


def import_deepspeed() -> Any:
    """DeepSpeed, without its lines about every tensor it moves.

    Raises:
        InputError: it is not installed.
    """
    try:
        import deepspeed
    except ImportError as error:
        raise InputError(
            f"several ranks want DeepSpeed, which can't be imported ({error}); install lxmert-fast[deepspeed]"
        ) from None
    # an all-reduce for CPUs that DeepSpeed compiles when it starts, for 45 s and with a compiler that may be
    # missing; gloo's is there
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # of the names by which DeepSpeed calls torch's collectives
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    return deepspeed
