"""From settings to an engine: one process by itself, or one of those that a launcher has started."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch

from lxmert_fast.data.batches import EpochBatches
from lxmert_fast.errors import InputError

from .caches import once_a_host, use_local_caches
from .engine import Engine, LocalEngine, pick_device
from .optim import make_optimizer, make_schedule, parameter_groups
from .ranks import Ranks, join_ranks, read_environment
from .same import check_same, code_facts, digest
from .settings import OptimisationSettings, RunSettings
from .task import Task
from .wandb_log import problem_with
from .warm import compiles, prepare, take_a_step


class Launched(NamedTuple):
    """What `fit` starts with."""

    engine: Engine
    ranks: Ranks
    batches: EpochBatches
    """Of training, of this rank."""
    updates_per_epoch: int


def launch(task: Task, optimisation: OptimisationSettings, run: RunSettings) -> Launched:
    """Meet the other ranks and put the model into an engine.

    Raises:
        InputError: settings that do not go together, too few examples, ranks that differ, Weights & Biases
            asked for and not installed.
        RanksLost: ranks that do not come.
    """
    use_local_caches()
    environment = read_environment()
    device = pick_device(run.device, environment[2] if environment else None)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    per_epoch = task.num_examples() // optimisation.batch_size
    if per_epoch == 0:
        raise InputError(
            f"the training set has {task.num_examples()} examples, one update takes "
            f"{optimisation.batch_size}: lower optimisation.batch_size"
        )
    size = environment[1] if environment else 1
    accumulation, micro_batch = cut(optimisation, size)
    _check_together(optimisation, launched=environment is not None)
    ranks = join_ranks(device, run.timeout, run.start_timeout)
    if ranks.size > 1:
        # before the engines meet, which would wait for each other over models that differ
        said = optimisation.model_dump_json() + run.model_dump_json(exclude={"device", "node_local"})
        check_same(ranks, code_facts() | task.facts() | {"settings": digest([said])})
    ranks.all_or_none(problem_with(run.wandb) if ranks.first else None)
    batches = EpochBatches(
        task.num_examples(),
        optimisation.batch_size,
        seed=run.seed,
        runs=task.runs(),
        rank=ranks.rank,
        num_ranks=ranks.size,
        accumulation=accumulation,
    )
    if ranks.size > 1:
        first = next(iter(batches))
        work = partial(take_a_step, task, first, optimisation, device)
        once_a_host(ranks, work if compiles(optimisation, device) else None)
    prepare(task.model, optimisation)
    groups = parameter_groups(task.model, task.late_parameters())
    optimizer = make_optimizer(optimisation.optimizer, groups, optimisation.lr, optimisation.weight_decay)
    schedule = make_schedule(optimizer, per_epoch * optimisation.epochs, optimisation.warmup)
    engine: Engine
    if environment is None:
        engine = LocalEngine(
            task.model,
            optimizer,
            schedule,
            accumulation=accumulation,
            clip=optimisation.clip,
            precision=optimisation.precision,
            device=device,
        )
    else:
        from .deepspeed_engine import DeepSpeedEngine

        engine = DeepSpeedEngine(
            task.model,
            optimizer,
            schedule,
            optimisation,
            ranks,
            accumulation=accumulation,
            micro_batch=micro_batch,
            device=device,
        )
    return Launched(engine, ranks, batches, per_epoch)


def cut(optimisation: OptimisationSettings, num_ranks: int) -> tuple[int, int]:
    """How an update is cut: forward passes on each rank, and the most pairs in one of them.

    Raises:
        InputError: more ranks, or more of their passes, than pairs.
    """
    pairs = optimisation.batch_size
    if num_ranks > pairs:
        raise InputError(
            f"optimisation.batch_size is {pairs}, fewer than the {num_ranks} ranks: wanted a pair for each"
        )
    most = optimisation.micro_batch_size or pairs
    passes = max(1, -(-pairs // (num_ranks * most)))
    if passes * num_ranks > pairs:
        raise InputError(
            f"optimisation.batch_size is {pairs}, fewer than the {passes * num_ranks} forward passes of "
            f"{num_ranks} ranks with optimisation.micro_batch_size {most}: wanted a pair for each"
        )
    return passes, -(-pairs // (num_ranks * passes))


def _check_together(optimisation: OptimisationSettings, *, launched: bool) -> None:
    if optimisation.precision == "fp16" and (not launched or optimisation.zero.stage == 0):
        raise InputError(
            "optimisation.precision: fp16 wants the deepspeed launcher and optimisation.zero.stage from 1 "
            "on; bf16 works everywhere"
        )
    if optimisation.compile and launched and optimisation.zero.stage == 3:
        raise InputError(
            "optimisation.compile: not with zero.stage 3, whose weights come and go as layers run"
        )
