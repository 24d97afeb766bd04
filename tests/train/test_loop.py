"""The loop on a toy task: exact resume, accumulation, divergence, files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kills import killed_at
from torch import nn

from lxmert_fast.data.batches import Batch, BatchKey
from lxmert_fast.errors import Diverged, InputError
from lxmert_fast.train.engine import Engine
from lxmert_fast.train.loop import fit
from lxmert_fast.train.metrics import MetricsLog, read_metrics
from lxmert_fast.train.settings import OptimisationSettings, RunSettings
from lxmert_fast.train.task import Task

EXAMPLES = torch.randn(50, 6, generator=torch.Generator().manual_seed(3))


class ToyModel(nn.Module):
    """Linear regression with dropout, so that the random state matters."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.linear(nn.functional.dropout(x, 0.3, self.training))
        return SimpleNamespace(loss=((y.squeeze(1) - x.sum(1)) ** 2).mean())


class ToyData(torch.utils.data.Dataset):
    poison: int | None = None

    def __getitem__(self, key: BatchKey) -> Batch:
        x = EXAMPLES[torch.from_numpy(key.rows)].clone()
        if self.poison is not None:
            x[torch.from_numpy(key.rows) == self.poison] = float("nan")
        return Batch({"x": x}, [f"example-{row}" for row in key.rows], {})


class ToyTask(Task):
    title = "Toy"

    def __init__(self, poison: int | None = None) -> None:
        torch.manual_seed(0)
        self.model = ToyModel()  # type: ignore[assignment]
        self.train = ToyData()
        self.train.poison = poison
        self.saved: list[Path] = []

    def num_examples(self) -> int:
        return len(EXAMPLES)

    def losses(self, output: Any) -> dict:
        return {"square": output.loss.detach()}

    def validate(self, epoch: int, engine: Engine) -> dict:
        self.model.eval()
        with torch.no_grad():
            return {"loss": self.model(EXAMPLES).loss.item()}

    def better(self, metrics: dict, best: dict) -> bool:
        return metrics["loss"] < best["loss"]

    def save_model(self, folder: Path, weights: dict) -> None:
        torch.save(weights, folder / "model.pt")


def settings(tmp_path: Path, **optimisation: Any) -> tuple[OptimisationSettings, RunSettings]:
    values = {"lr": 0.02, "epochs": 3, "batch_size": 8, **optimisation}
    run = RunSettings(output=tmp_path, workers=0, log_every=2, checkpoint_every=2, device="cpu")
    return OptimisationSettings(**values), run


def train_lines(folder: Path) -> list[dict]:
    """The metrics that do not depend on the clock."""
    timed = {
        "pairs_per_second", "tokens_per_second", "model_tflops_per_second", "data_wait_share", "memory_gib",
    }  # fmt: skip
    return [
        {k: v for k, v in line.items() if k not in timed} for line in read_metrics(folder / "metrics.jsonl")
    ]


def test_a_run_leaves_models_checkpoints_and_metrics(tmp_path):
    summary = fit(ToyTask(), *settings(tmp_path))
    assert summary["updates"] == 18
    assert summary["last_losses"]["square"] < summary["first_losses"]["square"]
    assert (tmp_path / "best" / "model.pt").is_file()
    assert (tmp_path / "last" / "model.pt").is_file()
    assert [path.name for path in sorted((tmp_path / "checkpoints").glob("step_*"))] == [
        "step_00000016",
        "step_00000018",
    ]
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["settings"]["optimisation"]["batch_size"] == 8
    assert (record["ranks"], record["versions"]["torch"]) == (1, torch.__version__)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if line["split"] == "valid"] == [6, 12, 18]
    assert set(lines[0]) == {
        "split", "step", "epoch", "losses", "lr", "grad_norm", "loss_scale", "skipped", "pairs_per_second",
        "tokens_per_second", "model_tflops_per_second", "data_wait_share", "memory_gib",
    }  # fmt: skip


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("steps", [1, 2, 5, 6, 7, 11])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, monkeypatch, steps, accumulation):
    whole, broken = ToyTask(), ToyTask()
    fit(whole, *settings(tmp_path / "whole", micro_batch_size=8 // accumulation))

    with killed_at(monkeypatch, steps):
        fit(broken, *settings(tmp_path / "broken", micro_batch_size=8 // accumulation))

    resumed = ToyTask()
    if any((tmp_path / "broken" / "checkpoints").glob("step_*")):
        with torch.no_grad():
            resumed.model.linear.weight.fill_(9.0)
    summary = fit(resumed, *settings(tmp_path / "broken", micro_batch_size=8 // accumulation))
    done = steps // accumulation
    assert summary["resumed_at"] == max(n for n in range(done + 1) if n % 2 == 0)
    assert torch.equal(resumed.model.linear.weight, whole.model.linear.weight)
    assert train_lines(tmp_path / "broken") == train_lines(tmp_path / "whole")


def test_accumulation_equals_a_larger_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(nn.functional, "dropout", lambda x, *_: x)
    large, small = ToyTask(), ToyTask()
    fit(large, *settings(tmp_path / "a", batch_size=16))
    fit(small, *settings(tmp_path / "b", batch_size=16, micro_batch_size=8))
    torch.testing.assert_close(small.model.linear.weight, large.model.linear.weight, rtol=1e-5, atol=1e-6)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = ToyTask()
    fit(first, *settings(tmp_path))
    again = ToyTask()
    summary = fit(again, *settings(tmp_path))
    assert summary["resumed_at"] == summary["updates"] == 18
    assert torch.equal(again.model.linear.weight, first.model.linear.weight)


def test_nan_names_update_examples_and_checkpoint(tmp_path):
    fit(ToyTask(), *settings(tmp_path, epochs=1))
    line = r"loss is nan at update \d+; batch: .*example-.*step_\d+"
    with pytest.raises(Diverged, match=line) as caught:
        fit(ToyTask(poison=7), *settings(tmp_path, epochs=2))
    assert "\n" not in str(caught.value)


def test_nan_in_the_first_epoch_says_that_there_is_no_checkpoint(tmp_path):
    optimisation, run = settings(tmp_path, batch_size=50)
    with pytest.raises(Diverged, match=r"update 1; .*no checkpoint had been written yet"):
        fit(ToyTask(poison=7), optimisation, run)


def test_infinite_gradients_stop_before_the_update(tmp_path, monkeypatch):
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    task = ToyTask()
    before = task.model.linear.weight.detach().clone()
    with pytest.raises(Diverged, match="gradient norm is inf"):
        fit(task, *settings(tmp_path))
    assert torch.equal(task.model.linear.weight, before)


def test_too_few_examples_are_an_error(tmp_path):
    with pytest.raises(InputError, match="has 50 examples, one update takes 64: lower"):
        fit(ToyTask(), *settings(tmp_path, batch_size=64))


def test_a_checkpoint_of_another_model_is_an_error(tmp_path):
    fit(ToyTask(), *settings(tmp_path))
    other = ToyTask()
    other.model.linear = nn.Linear(7, 1)
    with pytest.raises(InputError, match="does not fit this run's model"):
        fit(other, *settings(tmp_path))


def test_metrics_survive_a_line_cut_short(tmp_path):
    log = MetricsLog(tmp_path)
    log.write("train", 1, {"losses": {"a": 1.0}})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"split": "train", "step": 2})[:-4])
    log = MetricsLog(tmp_path, resumed_at=1)
    log.write("train", 2, {"losses": {"a": 2.0}})
    log.close()
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
