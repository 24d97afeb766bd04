"""Two hosts, one `deepspeed` command on each; the plug is pulled, and one host finishes the run alone."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_runs import job, run_ranks, write_data
from two_hosts import TwoHosts, two_hosts  # noqa: F401 (a fixture is used by its name)

from lxmert_fast.train.metrics import read_metrics
from lxmert_fast.train.pretraining import pretrain
from lxmert_fast.train.settings import PretrainSettings, check_settings
from lxmert_fast.train.supervisor import TRAIN
from lxmert_fast.train.trace import read_trace

UPDATES = 60


def losses(run: Path) -> list[float]:
    lines = read_metrics(run / "metrics.jsonl")
    return [line["losses"]["total"] for line in lines if line["split"] == "train"]


def test_a_run_outlives_a_host(two_hosts: TwoHosts, tmp_path: Path) -> None:  # noqa: F811
    """Two ranks on two hosts at stage 2, then two on one at stage 1: the run of one process.

    Losses within 1e-4: sixty updates instead of the twenty of `test_many_ranks.py`, whose differences grow.
    """
    base = write_data(tmp_path / "data")
    asked: dict[str, Any] = {"epochs": UPDATES // 5, "run": {"heartbeat": 6.0, "checkpoint_every": 3}}
    tree = job(base, tmp_path / "run", zero={"stage": 2}, **asked)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(tree | {"task": "pretrain"}))
    runs = two_hosts.deepspeed(tmp_path, [TRAIN / "pretrain.py", "--config", config])
    logs = [tmp_path / f"host{number}.log" for number in range(2)]

    def told() -> str:
        return "\n".join(log.read_text(errors="replace") for log in logs)

    until = time.monotonic() + 60
    while not list((tmp_path / "run" / "checkpoints").glob("step_*")):
        assert time.monotonic() < until, told()
        assert all(run.poll() is None for run in runs), told()
        time.sleep(0.01)
    second = two_hosts.hosts[1]
    subprocess.run(["ip", "-n", second.namespace, "link", "set", second.interface, "down"], check=True)
    pulled = time.monotonic()
    codes = [run.wait(timeout=60) for run in runs]
    assert time.monotonic() - pulled < 60
    assert all(codes), told()
    assert "lost another rank" in told() or "has not been heard of" in told() or "is gone" in told()

    summary = run_ranks(2, [job(base, tmp_path / "run", zero={"stage": 1}, **asked)])[0]
    assert 0 < summary["resumed_at"] < UPDATES
    assert summary["updates"] == UPDATES
    pretrain(check_settings(PretrainSettings, job(base, tmp_path / "alone", **asked), "test"))
    assert read_trace(tmp_path / "run") == read_trace(tmp_path / "alone")
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)
