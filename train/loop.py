"""The one training loop: pre-training and fine-tuning, one process or many.

It owns the order of things (position in the data, updates, validation, checkpoints, logs); the engine owns
the arithmetic (`engine.py`), the task owns what is learnt (`pretrain.py`, `finetune.py`).
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lxmert_fast.commands.progress import progress
from lxmert_fast.compiled import compile_model
from lxmert_fast.data.batches import Batch, EpochBatches, make_loader
from lxmert_fast.data.sharing import Runs
from lxmert_fast.errors import Diverged, InputError

from .checkpoints import publish_folder
from .engine import LocalEngine
from .metrics import MetricsLog
from .optim import make_optimizer, make_schedule
from .settings import OptimisationSettings, RunSettings


class Task(ABC):
    """What is trained: a model, its examples and how well it does."""

    title: str
    """Two words for the progress bar."""
    model: PreTrainedModel
    train: Any
    """A map-style data set whose items are whole `Batch`es, see `lxmert_fast.data.batches`."""

    @abstractmethod
    def num_examples(self) -> int:
        """Training examples in an epoch."""

    def runs(self) -> Runs | None:
        """Training examples that stand together in an epoch; None shuffles each on its own."""
        return None

    def forward_options(self, epoch: int) -> dict[str, Any]:
        """Arguments of the model that depend on the epoch, such as loss weights."""
        return {}

    @abstractmethod
    def losses(self, output: Any) -> dict[str, Tensor]:
        """Detached losses of one batch by name, for the log."""

    @abstractmethod
    def validate(self, epoch: int) -> dict[str, Any]:
        """Metrics on the validation examples, {} where there are none."""

    @abstractmethod
    def better(self, metrics: dict[str, Any], best: dict[str, Any]) -> bool:
        """Whether one validation beats another."""

    @abstractmethod
    def save_model(self, folder: Path) -> None:
        """Write the model and whatever is needed to use it again."""


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)


def fit(
    task: Task,
    optimisation: OptimisationSettings,
    run: RunSettings,
    report: Callable[[str], None] = say,
) -> dict[str, Any]:
    """Train `task` to the end, from its newest checkpoint where the output folder holds one.

    Writes under `run.output`: `checkpoints/` (resumable), `best` and `last` (models), `metrics.jsonl`,
    `tensorboard/`. Every line of metrics is also given to `report`, in words.

    Returns:
        "updates", "seconds", "first_losses" and "last_losses" (means over a logging interval, by task),
        "best" (metrics of the best validation, {} without one), "resumed_at".

    Raises:
        InputError: fewer training examples than one update takes, or a checkpoint of another model.
        Diverged: a loss or gradient that is not finite.
    """
    output = run.output
    per_epoch = task.num_examples() // optimisation.batch_size // optimisation.accumulation
    per_epoch *= optimisation.accumulation
    if per_epoch == 0:
        raise InputError(
            f"the training set has {task.num_examples()} examples, one update takes "
            f"{optimisation.batch_size} x {optimisation.accumulation}: lower optimisation.batch_size"
        )
    batches = EpochBatches(
        task.num_examples(),
        optimisation.batch_size * optimisation.accumulation,
        seed=run.seed,
        runs=task.runs(),
        accumulation=optimisation.accumulation,
    )
    updates = per_epoch // optimisation.accumulation * optimisation.epochs
    if optimisation.gradient_checkpointing:
        task.model.gradient_checkpointing_enable()
    if not optimisation.share_in_training:
        task.model.base_model.share_in_training = False  # type: ignore[assignment]
    if optimisation.compile:
        compile_model(task.model)
    optimizer = make_optimizer(
        optimisation.optimizer, task.model.parameters(), optimisation.lr, optimisation.weight_decay
    )
    engine = LocalEngine(
        task.model,
        optimizer,
        make_schedule(optimizer, updates, optimisation.warmup),
        accumulation=optimisation.accumulation,
        clip=optimisation.clip,
        precision=optimisation.precision,
        device=run.device,
        keep=run.keep,
    )
    torch.manual_seed(run.seed)  # dropout follows from the seed, however the model came about
    checkpoint, state = engine.load_checkpoint(output / "checkpoints")
    start_epoch, start_step = state.get("epoch", 0), state.get("step", 0)
    best: dict[str, Any] = state.get("best", {})
    first_losses: dict[str, float] = state.get("first_losses", {})
    last_losses: dict[str, float] = state.get("last_losses", {})
    seconds: float = state.get("seconds", 0.0)
    resumed_at = engine.global_steps
    log = MetricsLog(output, resumed_at)
    loader = make_loader(task.train, batches, num_workers=run.workers)

    def save(epoch: int, step: int) -> Path:
        client_state = {
            "epoch": epoch,
            "step": step,
            "best": best,
            "first_losses": first_losses,
            "last_losses": last_losses,
            "seconds": seconds + time.perf_counter() - began,
        }
        return engine.save_checkpoint(output / "checkpoints", f"step_{engine.global_steps:08d}", client_state)

    began = time.perf_counter()
    with progress(task.title, updates, "updates", done=resumed_at) as advance:
        for epoch in range(start_epoch, optimisation.epochs):
            batches.set_position(epoch, start_step)
            task.model.train()
            window = _Window()
            options = task.forward_options(epoch)
            steps = islice(window.timed(loader), per_epoch - start_step)
            for step, batch in enumerate(steps, start=start_step + 1):
                result = engine(**batch.inputs, **options)
                window.add(result.loss, task.losses(result), len(batch.example_ids))
                if not math.isfinite(window.last_loss):
                    raise _diverged(f"loss is {window.last_loss}", engine, batch, checkpoint)
                engine.backward(result.loss)
                updates_now = engine.is_gradient_accumulation_boundary()
                try:
                    engine.step()
                except FloatingPointError as error:
                    raise _diverged(str(error), engine, batch, checkpoint) from None
                if not updates_now:
                    continue
                advance(1, f"epoch {epoch + 1}/{optimisation.epochs} loss {window.last_loss:.3f}")
                due = engine.global_steps % run.checkpoint_every == 0 and step < per_epoch
                # a line at every checkpoint too, so that a resumed run averages over the same updates
                if engine.global_steps % run.log_every == 0 or step == per_epoch or due:
                    last_losses = window.mean_losses()
                    first_losses = first_losses or last_losses
                    rates = window.rates()
                    log.write(
                        "train",
                        engine.global_steps,
                        {
                            "epoch": epoch,
                            "losses": last_losses,
                            "lr": engine.get_lr()[0],
                            "grad_norm": engine.get_global_grad_norm(),
                            **rates,
                        },
                    )
                    report(
                        f"update {engine.global_steps:>5}/{updates}  {_in_words(last_losses)}  "
                        f"{rates['pairs_per_second']:.0f} pairs/s"
                    )
                    window.reset()
                if due:
                    checkpoint = save(epoch, step)
            start_step = 0

            metrics = task.validate(epoch)
            if metrics:
                log.write("valid", engine.global_steps, {"epoch": epoch, **metrics})
                report(f"validation after epoch {epoch + 1}  {_in_words(metrics)}")
            if not metrics or not best or task.better(metrics, best):
                best = {"epoch": epoch, **metrics} if metrics else {}
                publish_folder(output / "best", engine.global_steps, task.save_model)
            checkpoint = save(epoch + 1, 0)
    publish_folder(output / "last", engine.global_steps, task.save_model)
    log.close()
    return {
        "updates": engine.global_steps,
        "seconds": seconds + time.perf_counter() - began,
        "first_losses": first_losses,
        "last_losses": last_losses,
        "best": best,
        "resumed_at": resumed_at,
    }


def _in_words(values: dict[str, Any]) -> str:
    parts = [
        f"{name}: {_in_words(value)}" if isinstance(value, dict) else f"{name} {value:.4f}"
        for name, value in values.items()
    ]
    return "  ".join(parts)


class _Window:
    """Sums over one logging interval."""

    def __init__(self) -> None:
        self.last_loss = math.nan
        self.reset()

    def reset(self) -> None:
        self._sums: dict[str, float] = {}
        self._batches = self._pairs = 0
        self._waited = 0.0
        self._began = time.perf_counter()

    def timed(self, loader: Any) -> Iterator[Batch]:
        """The loader's batches; time spent waiting for them is counted."""
        iterator = iter(loader)
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            self._waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def add(self, loss: Tensor, losses: dict[str, Tensor], pairs: int) -> None:
        self.last_loss = float(loss.detach())
        values = {"total": self.last_loss} | {name: value.item() for name, value in losses.items()}
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._batches += 1
        self._pairs += pairs

    def mean_losses(self) -> dict[str, float]:
        return {name: value / self._batches for name, value in self._sums.items()}

    def rates(self) -> dict[str, float]:
        elapsed = time.perf_counter() - self._began
        return {"pairs_per_second": self._pairs / elapsed, "data_wait_share": self._waited / elapsed}


def _diverged(reason: str, engine: LocalEngine, batch: Batch, checkpoint: Path | None) -> Diverged:
    ids = ", ".join(batch.example_ids[:8])
    more = f" and {len(batch.example_ids) - 8} more" if len(batch.example_ids) > 8 else ""
    back = f"last good checkpoint: {checkpoint}" if checkpoint else "no checkpoint had been written yet"
    return Diverged(f"{reason} at update {engine.global_steps + 1}; batch: {ids}{more}; {back}")
