"""The kernels of the first step, compiled by one rank of each host."""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers import PreTrainedModel

from lxmert_fast.compiled import compile_model
from lxmert_fast.data.batches import BatchKey
from lxmert_fast.kernels.dispatch import use_operators
from lxmert_fast.modeling import LxmertPreTrainedModel
from lxmert_fast.unused import unused_parameters

from .engine import HALF, to_device
from .settings import OptimisationSettings
from .task import Task


def compiles(optimisation: OptimisationSettings, device: torch.device) -> bool:
    """Whether a first step compiles anything that another rank would find in the caches.

    Not at stage 3, whose GPUs may have no room for a whole model: there each rank compiles for itself, which
    takes its time once more but is safe, since Triton puts its files in place whole.
    """
    if optimisation.zero.stage == 3:
        return False
    return optimisation.compile or use_operators(torch.empty(0, device=device))


def take_a_step(task: Task, key: BatchKey, optimisation: OptimisationSettings, device: torch.device) -> None:
    """Forward and backward of a batch in a copy of the task's model, prepared as the engine's will be.

    The copy knows no other rank, so nothing in it is a collective. Model and random states are left as they
    are. Not warmed, and so compiled by each rank: what validation alone runs, and what torch.compile compiles
    anew because a later batch has other sizes than its graph allows.

    Args:
        key: of the batch, of a size that the run has.
    """
    half = HALF.get(optimisation.precision) if optimisation.zero.stage else None
    batch = task.train[key]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        copied = copy.deepcopy(task.model)
        prepare(copied, optimisation)
        model: nn.Module = copied
        model.to(device, half).train()
        share = dict.fromkeys(task.counts(batch), 1.0)
        autocast = optimisation.precision == "bf16" and half is None
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            output = model(**to_device(batch.inputs, device), **task.forward_options(0, share))
        task.weighed(output, share).backward()
    if optimisation.compile:
        torch.compiler.reset()  # what is in memory holds on to the copy; what is on disk stays
    if device.type == "cuda":
        del copied, model, output
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def prepare(model: PreTrainedModel, optimisation: OptimisationSettings) -> None:
    """Make a model, in place, what the settings train."""
    if isinstance(model, LxmertPreTrainedModel):
        unused = set(unused_parameters(model))
        for name, parameter in model.named_parameters():
            if name in unused:
                parameter.requires_grad_(False)
    if optimisation.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if not optimisation.share_in_training:
        model.base_model.share_in_training = False  # type: ignore[assignment]
    if optimisation.compile:
        compile_model(model)
