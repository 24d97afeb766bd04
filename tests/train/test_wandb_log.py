"""Weights & Biases through a module that stands in for it: what it is told, once, and by rank 0 alone."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lxmert_fast.errors import InputError
from lxmert_fast.train.launched import launch
from lxmert_fast.train.metrics import MetricsLog, read_metrics
from lxmert_fast.train.settings import OptimisationSettings, RunSettings
from lxmert_fast.train.wandb_log import RUN_ID, problem_with


class FakeWandb(ModuleType):
    """Writes down its calls."""

    class Error(Exception):
        pass

    def __init__(self, refuses: str | None = None) -> None:
        super().__init__("wandb")
        self.refuses = refuses
        self.started: list[dict[str, Any]] = []
        self.told: list[tuple[int, dict[str, float]]] = []
        self.ended: list[int] = []

    def init(self, **given: Any) -> FakeWandb:
        if self.refuses:
            raise self.Error(self.refuses)
        self.started.append(given)
        return self

    def log(self, scalars: dict[str, float], step: int) -> None:
        self.told.append((step, scalars))

    def finish(self, exit_code: int) -> None:
        self.ended.append(exit_code)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def write_one(folder: Path, resumed_at: int, step: int, **more: Any) -> None:
    with MetricsLog(folder, resumed_at, wandb="lxmert", config={"run": {"seed": 1}}, **more) as log:
        log.write("train", step, {"losses": {"total": 2.0, "qa": 0.5}, "problem": "words are no scalars"})


def test_it_is_told_what_the_file_has(wandb: FakeWandb, tmp_path: Path) -> None:
    write_one(tmp_path / "mine", 0, 3)
    (given,) = wandb.started
    assert (given["project"], given["name"], given["config"]) == ("lxmert", "mine", {"run": {"seed": 1}})
    assert given["dir"] == str(tmp_path / "mine")
    assert wandb.told == [(3, {"train/losses/total": 2.0, "train/losses/qa": 0.5})]
    assert read_metrics(tmp_path / "mine" / "metrics.jsonl")[0]["losses"] == {"total": 2.0, "qa": 0.5}
    assert wandb.ended == [0]


def test_a_resumed_run_is_the_same_run_and_a_new_one_another(wandb: FakeWandb, tmp_path: Path) -> None:
    for resumed_at in (0, 3, 0):
        write_one(tmp_path, resumed_at, resumed_at + 1)
    first, resumed, new = (given["id"] for given in wandb.started)
    assert first == resumed != new
    assert [given["resume"] for given in wandb.started] == ["allow"] * 3
    assert (tmp_path / RUN_ID).read_text() == new


def test_other_ranks_say_nothing(wandb: FakeWandb, tmp_path: Path) -> None:
    write_one(tmp_path, 0, 1, write=False)
    assert wandb.started == wandb.told == []
    assert not (tmp_path / RUN_ID).exists()


def test_a_run_that_fails_has_failed_there_too(wandb: FakeWandb, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), MetricsLog(tmp_path, wandb="lxmert"):
        raise RuntimeError
    assert wandb.ended == [1]


@pytest.mark.parametrize("there", [None, ModuleType("wandb")], ids=["nothing", "a folder of its runs"])
def test_asked_for_and_not_installed(
    there: ModuleType | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is built, written or trained."""
    from test_loop import ToyTask

    monkeypatch.setitem(sys.modules, "wandb", there)
    run = RunSettings(output=tmp_path / "run", device="cpu", wandb="lxmert")
    with pytest.raises(InputError, match=r"^run\.wandb: wandb is not installed; .*lxmert-fast\[wandb\]"):
        launch(ToyTask(), OptimisationSettings(batch_size=8), run)
    assert not (tmp_path / "run").exists()
    assert problem_with(None) is None


def test_it_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(refuses="api_key not configured\n(no-tty)"))
    with pytest.raises(InputError, match=r"did not start \(api_key not configured \(no-tty\)\); WANDB_MODE"):
        MetricsLog(tmp_path, wandb="lxmert")
