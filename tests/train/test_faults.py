"""What goes wrong on real ranks: one line that says what, an end in a minute, the last checkpoint intact."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from small_runs import job, run_ranks, start_ranks, write_data

from lxmert_fast.train.checkpoints import CheckpointFolder

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_data(tmp_path_factory.mktemp("data"))


def start(
    base: dict[str, Any],
    folder: Path,
    fault: str = "",
    *,
    run: dict[str, Any] | None = None,
    **optimisation: Any,
) -> list[subprocess.Popen[str]]:
    """The command on two ranks; rank 1 has the fault."""
    tree = job(base, folder / "run", run={"heartbeat": 5.0} | (run or {}), **optimisation)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(tree | {"task": "pretrain"}))
    words = [str(HERE / "small_cli.py"), str(config)]
    return start_ranks(2, words, FAULT=fault, FAULT_RANK="1")


def ends(ranks: list[subprocess.Popen[str]], timeout: float = 60) -> tuple[list[int], str]:
    """Exit codes and what was printed; a rank that does not end in a minute fails the test."""
    told = [rank.communicate(timeout=timeout)[0] for rank in ranks]
    return [rank.returncode for rank in ranks], "\n".join(told)


def newest(folder: Path) -> str:
    """The name of the last checkpoint; all its files are as they were written."""
    found = CheckpointFolder(folder / "run" / "checkpoints").newest()
    assert found is not None
    assert found.damage(sorted(found.manifest["files"])) is None
    return found.folder.name


def wait_for(what: Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not what.exists():
        assert time.monotonic() < until, f"{what} did not come in {seconds} s"
        time.sleep(0.02)


def test_nan_from_one_rank_ends_all(base: dict[str, Any], tmp_path: Path) -> None:
    codes, told = ends(start(base, tmp_path, "nan:7"))
    assert codes == [1, 1], told
    assert "loss is nan at update 7; rank 1, batch: " in told
    assert "last good checkpoint: " in told
    assert "Traceback" not in told
    assert newest(tmp_path) == "step_00000005"


def test_a_rank_that_dies_takes_the_others_with_it(base: dict[str, Any], tmp_path: Path) -> None:
    began = time.monotonic()
    codes, told = ends(start(base, tmp_path, "die:7", zero={"stage": 2}))
    assert codes == [3, -signal.SIGKILL], told
    assert "rank 0 of 2" in told
    assert "lost another rank" in told
    assert time.monotonic() - began < 60
    assert newest(tmp_path) == "step_00000005"


def test_a_rank_that_falls_silent_is_named(base: dict[str, Any], tmp_path: Path) -> None:
    """A pulled plug sends no message: here the process is stopped, and its connections stay open."""
    ranks = start(base, tmp_path, run={"checkpoint_every": 1}, epochs=2000)
    wait_for(tmp_path / "run" / "checkpoints" / "step_00000003")
    os.kill(ranks[1].pid, signal.SIGSTOP)
    told = ranks[0].communicate(timeout=60)[0]
    ranks[1].kill()
    ranks[1].communicate()
    assert ranks[0].returncode == 3, told
    assert "rank 1 (" in told
    assert "has not been heard of for" in told
    newest(tmp_path)


def test_a_rank_with_other_code_is_named(base: dict[str, Any], tmp_path: Path) -> None:
    codes, told = ends(start(base, tmp_path, "code"))
    assert codes == [2, 2], told
    assert "rank 1 (" in told
    assert "has another source of lxmert-fast than rank 0" in told
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_ranks_that_do_not_come_are_missed(base: dict[str, Any], tmp_path: Path) -> None:
    """As with a hostfile that names a host nobody started."""
    ranks = start(base, tmp_path, run={"start_timeout": 3.0})
    ranks[1].kill()
    told = ranks[0].communicate(timeout=60)[0]
    ranks[1].communicate()
    assert ranks[0].returncode == 3, told
    assert "the 2 ranks did not meet at 127.0.0.1:" in told
    assert "hostfile" in told


def test_a_signal_to_one_rank_stops_all_and_the_run_goes_on(base: dict[str, Any], tmp_path: Path) -> None:
    """SIGUSR1 with the clocks an hour apart; the two halves are the unbroken run, to the last bit."""
    dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    asked = {"epochs": 8, "model": dropout, "zero": {"stage": 2}}
    ranks = start(base, tmp_path, "clock", run={"checkpoint_every": 1000}, **asked)
    wait_for(tmp_path / "run" / "best")
    ranks[1].send_signal(signal.SIGUSR1)
    codes, told = ends(ranks)
    assert codes == [0, 0], told
    assert "stopped by SIGUSR1 after update" in told
    stopped = int(newest(tmp_path)[5:])
    assert 5 <= stopped < 40
    again = job(base, tmp_path / "run", run={"checkpoint_every": 1000}, **asked)
    whole = job(base, tmp_path / "whole", run={"checkpoint_every": 1000}, **asked)
    summaries = run_ranks(2, [again, whole])
    assert [summary["resumed_at"] for summary in summaries] == [stopped, 0]
    found, wanted = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("run", "whole"))
    assert all(found[name].equal(weight) for name, weight in wanted.items())
