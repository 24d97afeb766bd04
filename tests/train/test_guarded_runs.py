"""The loop's guard on the toy task: left out, gone back, ended; the same after a kill."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import killed_at
from test_loop import ToyData, ToyTask, settings, train_lines

from lxmert_fast.data.batches import Batch, BatchKey
from lxmert_fast.errors import Diverged
from lxmert_fast.train import launched
from lxmert_fast.train.loop import fit
from lxmert_fast.train.metrics import read_metrics

PER_EPOCH = 6
"""Updates of 8 of the 50 examples."""


class BadData(ToyData):
    """Some batches, by their number in the run from 1, are multiplied; all are written down."""

    def __init__(self, bad: dict[int, float], per_epoch: int, size: int) -> None:
        self.bad, self.per_epoch, self.size = bad, per_epoch, size
        self.seen: list[int] = []

    def __getitem__(self, key: BatchKey) -> Batch:
        number = key.epoch * self.per_epoch + key.first // self.size + 1
        self.seen.append(number)
        batch = super().__getitem__(key)
        batch.inputs["x"] *= self.bad.get(number, 1.0)
        return batch


def bad_task(bad: dict[int, float], per_epoch: int = PER_EPOCH, size: int = 8) -> ToyTask:
    task = ToyTask()
    task.train = BadData(bad, per_epoch, size)
    return task


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Weights, optimizer and random state before every update; only updates of one pass."""
    found: list[dict[str, torch.Tensor]] = []
    call = launched.LocalEngine.__call__

    def looking(engine: Any, **inputs: Any) -> Any:
        held = {"random": torch.get_rng_state()}
        for name, parameter in engine.module.named_parameters():
            held[name] = parameter.detach().clone()
            for key, value in engine.optimizer.state[parameter].items():
                held[f"{key}/{name}"] = torch.as_tensor(value).clone()
        held["lr"] = torch.tensor(engine.get_lr())
        found.append(held)
        return call(engine, **inputs)

    monkeypatch.setattr(launched.LocalEngine, "__call__", looking)
    return found


def assert_same_state(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], *but: str) -> None:
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if name not in but and not torch.equal(found[name], wanted[name])] == []


def test_a_bad_update_leaves_weights_and_optimizer_as_they_were(tmp_path, states):
    task, told = bad_task({5: math.nan}), []
    summary = fit(task, *settings(tmp_path, guard={"skip": 1}), report=told.append)
    assert_same_state(states[5], states[4], "random")
    assert not torch.equal(states[6]["linear.weight"], states[5]["linear.weight"])
    assert (summary["skipped"], summary["updates"], summary["rolled_back"]) == (1, 18, 0)
    (line,) = [line for line in told if line.startswith("left out: ")]
    assert line.startswith("left out: loss is nan at update 5; batch: example-")
    (bad,) = [line for line in read_metrics(tmp_path / "metrics.jsonl") if line["split"] == "bad"]
    assert (bad["step"], bad["problem"]) == (5, line.removeprefix("left out: "))


def test_what_was_left_out_is_no_part_of_the_logged_means(tmp_path):
    """A line holds the good updates' mean; JSON knows no NaN."""
    summary = fit(bad_task({6: math.nan, 17: math.nan, 18: math.nan}), *settings(tmp_path, guard={"skip": 2}))
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    assert all(map(math.isfinite, summary["last_losses"].values()))
    # updates 17 and 18 are the last line's only ones: there is none
    steps = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl") if line["split"] == "train"]
    assert steps == list(range(2, 17, 2))


def test_more_in_a_row_than_may_be_left_out_end_the_run(tmp_path):
    task = bad_task({3: math.nan, 9: math.nan, 10: math.inf})
    with pytest.raises(Diverged, match=r"at update 10; batch: example-\d+") as caught:
        fit(task, *settings(tmp_path, guard={"skip": 1}))
    _, _, named = str(caught.value).partition("last good checkpoint: ")
    assert Path(named).name == "step_00000008"
    assert (Path(named) / "manifest.json").is_file()
    assert task.train.seen[-1] == 10


def test_a_spike_is_left_out(tmp_path, states):
    values = {"batch_size": 2, "epochs": 2, "guard": {"skip": 1, "spike": 50.0}}
    summary = fit(bad_task({30: 1000.0}, per_epoch=25, size=2), *settings(tmp_path, **values))
    assert summary["skipped"] == 1
    assert_same_state(states[30], states[29], "random")


def test_going_back_restores_the_checkpoint_and_goes_on_behind_the_bad_data(tmp_path, states):
    """Bad is batch 11; the checkpoint is after 8; batch 12 is the next, and update 9 in the count."""
    task, told = bad_task({11: math.nan}), []
    optimisation, run = settings(tmp_path, guard={"roll_backs": 1})
    summary = fit(task, optimisation, run.model_copy(update={"checkpoint_every": 4}), report=told.append)
    assert task.train.seen == list(range(1, 19))
    # `states[n]` is before batch n + 1
    assert_same_state(states[11], states[8])
    assert (summary["rolled_back"], summary["skipped"], summary["updates"]) == (1, 0, 15)
    (line,) = [line for line in told if line.startswith("rolled back")]
    assert line.startswith("rolled back to step_00000008, going on behind the bad data: loss is nan")
    assert torch.isfinite(task.model.linear.weight).all()


def test_more_than_may_be_gone_back_end_the_run(tmp_path):
    task = bad_task({7: math.nan, 11: math.nan})
    with pytest.raises(Diverged, match=r"loss is nan at update 10; .*last good checkpoint: ") as caught:
        fit(task, *settings(tmp_path, guard={"roll_backs": 1}))
    named = Path(str(caught.value).partition("last good checkpoint: ")[2])
    assert (named / "manifest.json").is_file()


def test_going_back_without_a_checkpoint_ends_the_run(tmp_path):
    with pytest.raises(Diverged, match="no checkpoint had been written yet"):
        fit(bad_task({2: math.nan}), *settings(tmp_path, guard={"roll_backs": 1}))


def test_the_named_checkpoint_is_one_that_there_is(tmp_path):
    """The run went back to update 6's and wrote it once more, only the newest is kept."""
    optimisation, run = settings(tmp_path, guard={"roll_backs": 1})
    with pytest.raises(Diverged) as caught:
        fit(bad_task({7: math.nan, 8: math.nan}), optimisation, run.model_copy(update={"keep": 1}))
    named = Path(str(caught.value).partition("last good checkpoint: ")[2])
    assert (named / "manifest.json").is_file()


CASES: dict[str, tuple[dict[int, float], dict[str, Any], int, Callable[[dict], bool]]] = {
    "a spike by the losses before the kill": (
        {30: 1000.0},
        {"skip": 1, "spike": 50.0},
        29,
        lambda summary: summary["skipped"] == 1,
    ),
    "updates left out before the kill": (
        {20: math.nan, 31: math.nan},
        {"skip": 1},
        28,
        lambda summary: summary["skipped"] == 2,
    ),
    "gone back before the kill": (
        {27: math.nan},
        {"roll_backs": 1},
        36,
        lambda summary: summary["rolled_back"] == 1,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_decides_as_an_unbroken_one(tmp_path, monkeypatch, case):
    bad, guard, kill, as_wanted = CASES[case]

    def run(folder: Path) -> tuple[torch.Tensor, dict]:
        task = bad_task(bad, per_epoch=25, size=2)
        optimisation, run = settings(folder, batch_size=2, epochs=2, guard=guard)
        summary = fit(task, optimisation, run.model_copy(update={"checkpoint_every": 8}))
        return task.model.linear.weight, summary

    whole, wanted = run(tmp_path / "whole")
    with killed_at(monkeypatch, kill):
        run(tmp_path / "broken")
    weight, found = run(tmp_path / "broken")
    assert found["resumed_at"] > 20
    assert as_wanted(wanted)
    assert as_wanted(found)
    assert torch.equal(weight, whole)
    assert train_lines(tmp_path / "broken") == train_lines(tmp_path / "whole")


@pytest.mark.parametrize(
    ("guard", "bad", "kill"),
    [({"skip": 1}, (9, 10), 9), ({"roll_backs": 1}, (9, 12), 10)],
    ids=["in a row", "gone back"],
)
def test_what_is_used_up_stays_used_up(tmp_path, monkeypatch, guard, bad, kill):
    """Killed between one bad update and the next, with a checkpoint between them."""
    values = settings(tmp_path, guard=guard)
    values = (values[0], values[1].model_copy(update={"checkpoint_every": 1}))
    with killed_at(monkeypatch, kill):
        fit(bad_task(dict.fromkeys(bad, math.nan)), *values)
    with pytest.raises(Diverged):
        fit(bad_task(dict.fromkeys(bad, math.nan)), *values)
