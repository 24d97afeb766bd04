"""One rank of a small training under DeepSpeed, case after case, beside the same training in plain PyTorch.

    RANK=0 WORLD_SIZE=2 ... python zero_ranks.py OUTPUT NAME...

`test_zero.py` starts the ranks and reads what each wrote: how far apart losses and weights were.
"""

from __future__ import annotations

import functools
import gc
import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from cases import make_batch, make_config, pretraining_labels, scatter
from torch import Tensor, nn

from lxmert_fast.losses import IGNORE
from lxmert_fast.models import LxmertForPreTraining, LxmertForQuestionAnswering
from lxmert_fast.train.optim import make_optimizer
from lxmert_fast.train.segments import share_norms
from lxmert_fast.train.zero3 import prepare_for_zero3
from lxmert_fast.unused import unused_parameters

PAIRS, STEPS = 4, 5
OFFLOAD = {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}


@dataclass(frozen=True)
class Case:
    task: str
    optimizer: str
    stage: int
    zero: dict[str, Any] = field(default_factory=dict)
    checkpointing: bool = False
    bf16: bool = False
    prepared: bool = True
    frozen: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


CASES: dict[str, Case] = {
    "stage 0, pre-training": Case("pretraining", "bertadam", 0),
    "stage 0, questions": Case("questions", "lamb", 0),
    "stage 1, pre-training": Case("pretraining", "bertadam", 1),
    "stage 1, questions": Case("questions", "lamb", 1),
    "stage 2, pre-training, checkpointing": Case("pretraining", "bertadam", 2, checkpointing=True),
    # which share of the buffer is whose: in another order here, in many pieces below
    "stage 2, questions, round robin": Case("questions", "lamb", 2, {"round_robin_gradients": True}),
    "stage 3, pre-training": Case("pretraining", "bertadam", 3),
    "stage 3, questions, small groups": Case("questions", "lamb", 3, {"sub_group_size": 5000}),
    "stage 3, offload, pre-training": Case("pretraining", "lamb", 3, OFFLOAD),
    "stage 3, offload, questions": Case("questions", "adamw", 3, OFFLOAD),
    "stage 3, checkpointing": Case("pretraining", "adamw", 3, checkpointing=True),
    "stage 3, modules as they are": Case("pretraining", "bertadam", 3, prepared=False),
    "stage 3, first layers frozen": Case(
        "questions", "bertadam", 3, frozen=("lxmert.embeddings.", "lxmert.encoder.visn_fc.")
    ),
    "stage 1, bf16": Case(
        "questions", "lamb", 1, bf16=True, settings={"data_types": {"grad_accum_dtype": "fp32"}}
    ),
    "stage 3, bf16": Case("pretraining", "bertadam", 3, bf16=True),
}


def make_model(case: Case) -> nn.Module:
    config = make_config(hidden_size=32, intermediate_size=48, l_layers=1, r_layers=1)
    if case.task == "pretraining":
        model: Any = LxmertForPreTraining(config)
        model.loss_only = True
    else:
        model = LxmertForQuestionAnswering(config)
    scatter(model)
    if case.checkpointing:
        model.activation_checkpointing_enable()
    unused = unused_parameters(model)
    for name, p in model.named_parameters():
        p.requires_grad_(name not in unused and not name.startswith(case.frozen or "nothing"))
    return model.train()


def batch_of(task: str, step: int, rank: int, ranks: int) -> dict[str, Any]:
    """A rank's share. In odd steps the last pairs (all that rank 1 has) have no answer and no masked word."""
    config = make_config()
    batch = make_batch(config, pairs=PAIRS)
    batch["attention_mask"] = (torch.arange(9) < torch.tensor([[9], [5], [7], [2]])).long()
    batch["visual_feats"] = batch["visual_feats"] + 0.1 * step
    if task == "pretraining":
        batch |= pretraining_labels(config, pairs=PAIRS)
        if step % 2:
            for name in ("labels", "ans"):
                batch[name][PAIRS // 2 :] = IGNORE
    else:
        batch["labels"] = torch.rand(PAIRS, config.num_qa_labels, generator=torch.Generator().manual_seed(7))
    each = PAIRS // ranks
    share = slice(rank * each, (rank + 1) * each)
    return {
        name: {key: (x[share], y[share]) for key, (x, y) in value.items()}
        if isinstance(value, dict)
        else value[share]
        for name, value in batch.items()
    }


def optimizer_of(case: Case, model: nn.Module) -> torch.optim.Optimizer:
    return make_optimizer(case.optimizer, [p for p in model.parameters() if p.requires_grad], 1e-3, 0.01)


@torch.no_grad()
def evaluate(model: nn.Module, task: str, rank: int, ranks: int) -> float:
    model.eval()
    loss = model(**batch_of(task, 0, rank, ranks)).loss
    model.train()
    return loss.item()


Numbers = tuple[list[float], dict[str, Tensor]]


@functools.lru_cache
def plainly(task: str, optimizer: str, frozen: tuple[str, ...], rank: int, ranks: int) -> Numbers:
    """Losses of this rank, two of them without gradients, and the weights after the last step."""
    case = Case(task, optimizer, 0, frozen=frozen)
    model = make_model(case)
    steps = optimizer_of(case, model)
    losses = [evaluate(model, task, rank, ranks)]
    for step in range(STEPS):
        steps.zero_grad()
        each = [model(**batch_of(task, step, r, ranks)).loss for r in range(ranks)]
        (sum(each) / ranks).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        steps.step()
        losses.append(each[rank].item())
    losses.append(evaluate(model, task, rank, ranks))
    return losses, {name: p.detach().clone() for name, p in model.named_parameters()}


def by_deepspeed(case: Case, rank: int, ranks: int) -> Numbers:
    import deepspeed

    model = make_model(case)
    if case.prepared:
        prepare_for_zero3(model)
    optimizer = optimizer_of(case, model)
    settings = {
        "train_micro_batch_size_per_gpu": PAIRS // ranks,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": case.stage, "stage3_param_persistence_threshold": 0, **case.zero},
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": case.bf16},
        **case.settings,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    share_norms(optimizer, engine)
    losses = [evaluate(engine, case.task, rank, ranks)]
    for step in range(STEPS):
        loss = engine(**batch_of(case.task, step, rank, ranks)).loss
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    losses.append(evaluate(engine, case.task, rank, ranks))
    with deepspeed.zero.GatheredParameters(list(model.parameters()), enabled=case.stage == 3):
        weights = {name: p.detach().float().clone() for name, p in model.named_parameters()}
    engine.destroy()
    return losses, weights


def compared(found: Numbers, wanted: Numbers) -> dict[str, Any]:
    """How far apart, over the largest value of each tensor.

    Without the biases of keys: their gradient is zero by construction, and Adam makes steps of its rounding.
    """
    losses = max(abs(a - b) / abs(b) for a, b in zip(found[0], wanted[0], strict=True))
    apart = {
        name: float((found[1][name] - p).abs().max() / p.abs().max())
        for name, p in wanted[1].items()
        if not name.endswith("key.bias")
    }
    worst = max(apart, key=apart.__getitem__)
    finite = all(p.isfinite().all() for p in found[1].values())
    return {"losses": losses, "weights": apart[worst], "worst": worst, "finite": bool(finite)}


class Listener(logging.Handler):
    """Collects what DeepSpeed warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def run(names: Iterable[str], rank: int, ranks: int) -> Mapping[str, Any]:
    import deepspeed
    from deepspeed.utils import logger

    # a C++ operator for all-reduce in shared memory, whose build takes most of a minute
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo", verbose=False)
    # DeepSpeed collects garbage at each start, and would look through all that was imported
    gc.freeze()
    results = {}
    for name in names:
        case, listener = CASES[name], Listener()
        logger.addHandler(listener)
        found = by_deepspeed(case, rank, ranks)
        logger.removeHandler(listener)
        wanted = plainly(case.task, case.optimizer, case.frozen, rank, ranks)
        results[name] = compared(found, wanted) | {"warnings": listener.lines}
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    output, *names = sys.argv[1:]
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    results = run(names, rank, ranks)
    Path(output, f"{rank}.json").write_text(json.dumps(results))
    torch.distributed.destroy_process_group()
