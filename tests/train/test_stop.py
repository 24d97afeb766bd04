"""SIGTERM and SIGUSR1: the update at hand, a checkpoint, the end; the same call goes on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import job, write_data
from test_loop import ToyData, ToyTask, settings

from lxmert_fast.data.batches import Batch, BatchKey
from lxmert_fast.train import pretraining
from lxmert_fast.train.checkpoints import CheckpointFolder
from lxmert_fast.train.engine import Engine
from lxmert_fast.train.loop import fit
from lxmert_fast.train.settings import PretrainSettings, check_settings
from lxmert_fast.train.stop import SIGNALS, leave_signals_to_the_trainer, signal_name, stop_on_signals

context = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[list[Any]]:
    """What the signals did before; what they do after a test that failed, too."""
    before = [signal.signal(number, lambda *_: None) for number in SIGNALS]
    mine = [signal.getsignal(number) for number in SIGNALS]
    yield mine
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_flag_within_and_the_old_handlers_behind(handlers: list[Any], number: int) -> None:
    with stop_on_signals() as request:
        assert request.number == 0
        os.kill(os.getpid(), number)
        assert request.number == number
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_the_old_handlers_are_back_after_an_error(handlers: list[Any]) -> None:
    with pytest.raises(KeyError), stop_on_signals():
        raise KeyError
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_outside_of_the_main_thread_nothing_is_touched(handlers: list[Any]) -> None:
    found: list[Any] = []

    def beside() -> None:
        with stop_on_signals() as request:
            found.append((request.number, [signal.getsignal(number) for number in SIGNALS]))

    thread = threading.Thread(target=beside)
    thread.start()
    thread.join()
    assert found == [(0, handlers)]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_worker_obeys_its_trainer_alone(number: int) -> None:
    """It works on under anybody else's signal; the trainer's SIGTERM ends it when Python leaves."""
    begun, end = context.Event(), context.Event()
    worker = context.Process(target=_work, args=(begun, end), daemon=True)
    worker.start()
    assert begun.wait(10)
    subprocess.run(["kill", f"-{int(number)}", str(worker.pid)], check=True)
    worker.join(0.2)
    assert worker.is_alive()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0


def _work(begun: Any, end: Any) -> None:
    leave_signals_to_the_trainer(3)
    begun.set()
    end.wait(60)


def test_names() -> None:
    assert [signal_name(number) for number in SIGNALS] == ["SIGTERM", "SIGUSR1", "SIGINT"]


class SignalledData(ToyData):
    """The signal comes while a batch is built."""

    def __init__(self, number: int, batch: int) -> None:
        self.number, self.left = number, batch

    def __getitem__(self, key: BatchKey) -> Batch:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
        return super().__getitem__(key)


class SignalledTask(ToyTask):
    """The signal comes in batch `batch` of the run, or in the validation of an epoch, from 0."""

    def __init__(self, number: int, *, batch: int = 0, epoch: int | None = None) -> None:
        super().__init__()
        self.number, self.epoch = number, epoch
        self.train = SignalledData(number, batch)

    def validate(self, epoch: int, engine: Engine) -> dict:
        if epoch == self.epoch:
            os.kill(os.getpid(), self.number)
        return super().validate(epoch, engine)


def run(task: ToyTask, folder: Path) -> dict[str, Any]:
    """18 updates of two passes each; no checkpoint but at the end of an epoch."""
    optimisation, settings_ = settings(folder, micro_batch_size=4)
    return fit(task, optimisation, settings_.model_copy(update={"checkpoint_every": 1000}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    task = ToyTask()
    run(task, tmp_path_factory.mktemp("whole"))
    return task.model.linear.weight


@pytest.mark.parametrize(
    ("when", "update"),
    [
        ({"batch": 1}, 1),
        ({"batch": 8}, 4),
        ({"batch": 9}, 5),
        ({"batch": 12}, 6),
        ({"batch": 36}, 18),
        ({"epoch": 1}, 12),
    ],
    ids=[
        "first pass",
        "second pass",
        "first pass of another",
        "end of an epoch",
        "last of all",
        "validation",
    ],
)
@pytest.mark.parametrize("number", SIGNALS)
def test_a_stopped_run_goes_on_bit_for_bit(
    tmp_path: Path, handlers: list[Any], whole: torch.Tensor, number: int, when: dict[str, int], update: int
) -> None:
    stopped = run(SignalledTask(number, **when), tmp_path)
    assert stopped["stopped"] == signal_name(number)
    assert stopped["updates"] == update
    assert not (tmp_path / "last").exists()
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    checkpoint = CheckpointFolder(tmp_path / "checkpoints").newest()
    assert checkpoint is not None
    assert checkpoint.manifest["update"] == update

    task = ToyTask()
    summary = run(task, tmp_path)
    assert (summary["resumed_at"], summary["stopped"], summary["updates"]) == (update, None, 18)
    assert torch.equal(task.model.linear.weight, whole)
    assert (tmp_path / "last" / "model.pt").is_file()


def test_a_signal_in_the_last_validation_finds_the_run_done(tmp_path: Path) -> None:
    summary = run(SignalledTask(signal.SIGTERM, epoch=2), tmp_path)
    assert (summary["stopped"], summary["updates"]) == (None, 18)
    assert (tmp_path / "last" / "model.pt").is_file()


def test_workers_of_a_validation_outlive_the_signal_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher's signal reaches every process of the tree while batches are still wanted."""
    make_loader = pretraining.make_loader

    def signalled(*args: Any, **kwargs: Any) -> Iterator[Batch]:
        loader = make_loader(*args, **kwargs)
        for batch in loader:
            # not by their parent, whose signal is a worker's ordinary end
            subprocess.run(
                ["kill", *(str(worker.pid) for worker in multiprocessing.active_children())], check=True
            )
            time.sleep(0.2)  # the end of a worker is an error here
            yield batch

    monkeypatch.setattr(pretraining, "make_loader", signalled)
    tree = job(write_data(tmp_path / "data"), tmp_path / "run", epochs=1, run={"workers": 1})
    assert pretraining.pretrain(check_settings(PretrainSettings, tree, "test"))["best"]["losses"]
