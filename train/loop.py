"""The one training loop: pre-training and fine-tuning, one process or many.

It owns the order of things (position in the data, updates, validation, checkpoints, logs); the engine owns
the arithmetic (`engine.py`), the task owns what is learnt (`task.py`). Every rank runs it, and what decides
about the order (losses, signals) is made known to all ranks first, so that they stay together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from lxmert_fast.commands.progress import progress
from lxmert_fast.data.batches import Batch, make_loader
from lxmert_fast.errors import Diverged, InputError

from .checkpoints import CheckpointFolder, publish_folder
from .guard import Guard
from .launched import Launched, launch
from .metrics import MetricsLog
from .optim import decay_from_first_epoch
from .settings import OptimisationSettings, RunSettings
from .shares import Counts, shares
from .stop import StopRequest, leave_signals_to_the_trainer, signal_name, stop_on_signals
from .task import Task
from .trace import Trace
from .watchdog import watch
from .window import Window, known_peak, memory_gib


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

    Under a launcher all its processes call this together. Rank 0 writes under `run.output`: `checkpoints/`
    (resumable, every rank a file), `best` and `last` (models), `metrics.jsonl`, `tensorboard/` and `wandb/`.
    Every line of metrics is also given to `report`, in words.

    SIGTERM, SIGUSR1 or Ctrl-C end the run after the update at hand, with a checkpoint; the same call goes on.

    Returns:
        "updates", "seconds", "first_losses" and "last_losses" (means over a logging interval, by task),
        "best" (metrics of the best validation, {} without one), "resumed_at", "skipped" and "rolled_back"
        (updates the guard left out, returns to a checkpoint), "stopped" (the signal, or None).

    Raises:
        InputError: fewer training examples than one update takes, a checkpoint of another model, ranks that
            differ, a disk that is full.
        Diverged: a loss or gradient that is not finite, where the guard may not go on.
        RanksLost: another rank is gone.
    """
    launched = launch(task, optimisation, run)
    with stop_on_signals() as request, watch(launched.ranks, run.heartbeat):
        return _Run(task, optimisation, run, launched, request, report).go()


class _Run:
    """One call of `fit`."""

    def __init__(
        self,
        task: Task,
        optimisation: OptimisationSettings,
        run: RunSettings,
        launched: Launched,
        request: StopRequest,
        report: Callable[[str], None],
    ) -> None:
        self.task, self.optimisation, self.settings = task, optimisation, run
        self.engine, self.ranks = launched.engine, launched.ranks
        self.request = request
        self.report = report if self.ranks.first else lambda line: None
        self.batches = launched.batches
        self.per_epoch = launched.updates_per_epoch
        self.updates = self.per_epoch * optimisation.epochs
        self.folder = CheckpointFolder(run.output / "checkpoints", self.ranks, keep=run.keep)
        self.stopped: str | None = None
        self.description = task.description()
        self.window = Window(known_peak(self.engine.device, optimisation.precision, self.ranks.size))

    def go(self) -> dict[str, Any]:
        self._resume()
        for note in () if self.resumed_at else self.task.notes:
            self.report(note)
        self.began = time.perf_counter()
        with ExitStack() as stack:
            self.log = stack.enter_context(
                MetricsLog(
                    self.settings.output,
                    self.resumed_at,
                    write=self.ranks.first,
                    wandb=self.settings.wandb,
                    config={
                        "optimisation": self.optimisation.model_dump(mode="json"),
                        "run": self.settings.model_dump(mode="json"),
                    },
                )
            )
            self.trace = (
                Trace(self.settings.output, self.ranks, self.resumed_at) if self.settings.trace else None
            )
            if self.trace:
                stack.callback(self.trace.close)
            self.advance = stack.enter_context(
                progress(
                    self.task.title, self.updates, "updates", done=self.resumed_at, show=self.ranks.first
                )
            )
            self.loader = make_loader(
                self.task.train,
                self.batches,
                num_workers=self.settings.workers,
                start_worker=leave_signals_to_the_trainer,
            )
            for epoch in range(self.epoch, self.optimisation.epochs):
                self._train(epoch)
                if not self.stopped:
                    self._end(epoch)
                if self.stopped:
                    break
            self.folder.wait()
            if not self.stopped:
                self._publish("last")
            self.ranks.barrier()
        return self._summary()

    def _resume(self) -> None:
        # dropout follows from the seed, however the model came about; each rank has its own
        torch.manual_seed(self.settings.seed + self.ranks.rank)
        checkpoint, state = self.engine.load_checkpoint(self.folder)
        if self.ranks.first:
            self.folder.clear_partial()
        if checkpoint is not None:
            self._check_plan(checkpoint.folder, state["plan"])
        self.epoch, self.update = state.get("epoch", 0), state.get("update", 0)
        self.best: dict[str, Any] = state.get("best", {})
        self.first_losses: dict[str, float] = state.get("first_losses", {})
        self.last_losses: dict[str, float] = state.get("last_losses", {})
        self.seconds: float = state.get("seconds", 0.0)
        self.skipped: int = state.get("skipped", 0)
        self.guard = Guard(self.optimisation.guard, **state.get("guard", {}))
        self.resumed_at = self.engine.global_steps
        if checkpoint is not None and checkpoint.num_ranks != self.ranks.size:
            self.report(
                f"going on with {self.ranks.size} ranks after update {self.resumed_at}; the checkpoint is of "
                f"{checkpoint.num_ranks}"
            )
        self.engine.reserve(self.folder)

    def _plan(self) -> dict[str, Any]:
        """What the position in the data depends on."""
        return {
            "optimisation.batch_size": self.optimisation.batch_size,
            "run.seed": self.settings.seed,
            "number of examples": self.task.num_examples(),
        }

    def _check_plan(self, folder: Path, found: dict[str, Any]) -> None:
        for name, value in self._plan().items():
            if found[name] != value:
                raise InputError(
                    f"{folder}: {name} was {found[name]} there and is {value} here; wanted the same, "
                    "or another run.output for a new run"
                )

    def _train(self, epoch: int) -> None:
        """The rest of an epoch's updates."""
        self.epoch = epoch
        passes = self.engine.accumulation
        self.batches.set_position(epoch, self.update * passes)
        decay_from_first_epoch(self.engine.optimizer, epoch)
        self.engine.module.train()
        self.window.reset()
        batches = islice(self.window.timed(self.loader), (self.per_epoch - self.update) * passes)
        while self.update < self.per_epoch and not self.stopped:
            self._one_update([next(batches) for _ in range(passes)])
            self._after_update()

    def _one_update(self, parts: list[Batch]) -> None:
        """Forward and backward of this rank's passes; the step, unless the update would do harm."""
        counts = [self.task.counts(batch) for batch in parts]
        divisors = [self.task.divisors(batch, found) for batch, found in zip(parts, counts, strict=True)]
        each, totals = shares(counts, divisors, self.ranks)
        if self.optimisation.loss_mean == "pass":
            each = [dict.fromkeys(found, 1.0) for found in each]
        sums: Counts = {"total": 0.0}
        problem = None
        for batch, share in zip(parts, each, strict=True):
            output = self.engine(**batch.inputs, **self.task.forward_options(self.epoch, share))
            loss = self.task.weighed(output, share)
            sums["total"] += float(loss.detach())
            for name, value in self.task.losses(output).items():
                weight = share.get(name, share.get("loss", 1.0))
                sums[name] = sums.get(name, 0.0) + weight * float(value)
            if batch is parts[-1]:
                # before the last backward: here an update can still be made one that no engine applies
                losses = self._exchange(sums, totals)
                problem = self.guard.judge(losses["total"])
                if problem:
                    loss = loss * float("nan")
                else:
                    self.window.add_losses(losses)
            self.engine.backward(loss)
            applied = self.engine.step()
        self.update += 1
        if self.trace:
            ids = [name for batch in parts for name in batch.example_ids]
            self.trace.write(self.engine.global_steps, self.epoch, ids)
        if applied:
            self.guard.good(losses["total"])
        elif problem or self.optimisation.precision != "fp16":
            # (in half precision a gradient that overflows is how the loss scale is found)
            self._bad_update(problem or f"gradient norm is {self.engine.get_global_grad_norm()}", parts, sums)

    def _exchange(self, sums: Counts, totals: Counts) -> Counts:
        """The losses of the whole update; and whether some rank was asked to stop."""
        names = sorted(sums)
        passes = self.engine.accumulation * self.ranks.size
        told = self.ranks.total(
            [sums[name] / passes for name in names]
            + [self.window.waited / self.ranks.size, self.request.number]
            + [self.request.number > 0, self.folder.writer.failed]
        )
        *values, waited, signals, signalled, failed = told
        self.window.waited = 0.0
        losses = dict(zip(names, values, strict=True))
        self.window.add(totals, waited)
        if signalled:
            self.stopped = signal_name(round(signals / signalled))
        if failed:
            self.folder.wait()  # raises what a rank could not write
        return losses

    def _after_update(self) -> None:
        """Log and save where it is time to."""
        done, run = self.engine.global_steps, self.settings
        last = self.update == self.per_epoch
        self.advance(1, f"epoch {self.epoch + 1}/{self.optimisation.epochs} loss {self.window.last_loss:.3f}")
        due = (done % run.checkpoint_every == 0 and not last) or self.stopped is not None
        # a line at every checkpoint too, so that a resumed run averages over the same updates
        if done % run.log_every == 0 or last or due:
            self._write_line()
        if due:
            self._save(self.epoch, self.update)

    def _write_line(self) -> None:
        losses = self.window.mean_losses()
        if not losses:
            return
        self.last_losses = losses
        self.first_losses = self.first_losses or losses
        rates = self.window.rates()
        values = {
            "epoch": self.epoch,
            "losses": losses,
            "lr": self.engine.get_lr()[0],
            "grad_norm": _finite(self.engine.get_global_grad_norm()),
            "loss_scale": self.engine.loss_scale(),
            "skipped": self.skipped,
            **rates,
            "memory_gib": memory_gib(self.ranks),
        }
        self.log.write("train", self.engine.global_steps, values)
        self.report(
            f"update {self.engine.global_steps:>5}/{self.updates}  {_in_words(losses)}  "
            f"{rates['pairs_per_second']:.0f} pairs/s"
        )
        self.window.reset()

    def _bad_update(self, problem: str, parts: list[Batch], sums: Counts) -> None:
        """Leave it out, go back, or end."""
        update = self.engine.global_steps
        names = [name for batch in parts for name in batch.example_ids]
        told = self.ranks.gather((math.isfinite(sums["total"]), names[:8], len(names)))
        rank = next((rank for rank, (finite, *_) in enumerate(told) if not finite), 0)
        _, shown, count = told[rank]
        where = f"rank {rank}, batch" if self.ranks.size > 1 else "batch"
        more = f" and {count - len(shown)} more" if count > len(shown) else ""
        line = f"{problem} at update {update}; {where}: {', '.join(shown)}{more}"
        self.log.write("bad", update, {"epoch": self.epoch, "problem": line})
        if self.guard.may_skip():
            self.skipped += 1
            self.report(f"left out: {line}")
            return
        if self.optimisation.guard.roll_backs and self.guard.may_roll_back():
            self.folder.wait()
            checkpoint, _ = self.engine.load_checkpoint(self.folder)
            if checkpoint is not None:
                self.report(f"rolled back to {checkpoint.folder.name}, going on behind the bad data: {line}")
                return
        self.folder.wait()  # for a checkpoint that is being written
        last = self.folder.last()
        back = f"last good checkpoint: {last}" if last else "no checkpoint had been written yet"
        raise Diverged(f"{line}; {back}")

    def _end(self, epoch: int) -> None:
        """Validation, the best model, and a checkpoint at the start of the next epoch."""
        metrics = self.task.validate(epoch, self.engine)
        if metrics:
            self.log.write("valid", self.engine.global_steps, {"epoch": epoch, **metrics})
            self.report(f"validation after epoch {epoch + 1}  {_in_words(metrics)}")
        if not metrics or not self.best or self.task.better(metrics, self.best):
            self.best = {"epoch": epoch, **metrics} if metrics else {}
            self._publish("best")
        self.update = 0
        self._save(epoch + 1, 0)
        signals, signalled = self.ranks.total([self.request.number, self.request.number > 0])
        if signalled and epoch + 1 < self.optimisation.epochs:
            self.stopped = signal_name(round(signals / signalled))

    def _publish(self, name: str) -> None:
        weights = self.engine.weights()
        problem = None
        if weights is not None:
            try:
                publish_folder(
                    self.settings.output / name,
                    self.engine.global_steps,
                    lambda folder: self.task.save_model(folder, weights),
                )
            except (OSError, SafetensorError) as error:
                reason = " ".join(str(getattr(error, "strerror", None) or error).split())
                problem = f"{self.settings.output / name}: cannot be written ({reason})"
        self.ranks.all_or_none(problem)

    def _save(self, epoch: int, update: int) -> None:
        self.engine.save_checkpoint(
            self.folder,
            {
                "plan": self._plan(),
                "model": self.description,
                "epoch": epoch,
                "update": update,
                "best": self.best,
                "first_losses": self.first_losses,
                "last_losses": self.last_losses,
                "seconds": self.seconds + time.perf_counter() - self.began,
                "skipped": self.skipped,
                "guard": {
                    "losses": list(self.guard.losses),
                    "in_a_row": self.guard.in_a_row,
                    "rolled_back": self.guard.rolled_back,
                },
            },
        )

    def _summary(self) -> dict[str, Any]:
        return {
            "updates": self.engine.global_steps,
            "seconds": self.seconds + time.perf_counter() - self.began,
            "first_losses": self.first_losses,
            "last_losses": self.last_losses,
            "best": self.best,
            "resumed_at": self.resumed_at,
            "skipped": self.skipped,
            "rolled_back": self.guard.rolled_back,
            "stopped": self.stopped,
        }


def _finite(value: float | None) -> float | None:
    """A number that JSON can hold, or None."""
    return value if value is not None and math.isfinite(value) else None


def _in_words(values: dict[str, Any]) -> str:
    parts = [
        f"{name}: {_in_words(value)}" if isinstance(value, dict) else f"{name} {value:.4f}"
        for name, value in values.items()
    ]
    return "  ".join(parts)
