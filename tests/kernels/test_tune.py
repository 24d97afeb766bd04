"""Tuning with a clock of its own: the fastest settings are kept, installed, and shared by a group."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing

from lxmert_fast.bench.step_calls import Place, step_calls
from lxmert_fast.bench.workloads import config_for, workload
from lxmert_fast.kernels.configs import Settings, install, read_table, settings, write_table
from lxmert_fast.kernels.tune import TOLERANCE, Work, candidates, model_work, tune, tune_model


@pytest.fixture(autouse=True)
def nothing_installed():
    yield
    install({})


def attention(run: Callable[[], object] = lambda: torch.ones(2)) -> Work:
    return Work("attention_forward", (64, 64, 2), run)


def seconds_if(fast: Settings, kernel: str = "attention_forward", key: tuple[int, ...] = (64, 64, 2)) -> Any:
    """A timer that finds one of the settings fast, whatever it is given to run."""
    return lambda call: 1.0 if settings(kernel, 90, *key) == fast else 2.0


def test_the_fastest_is_kept_and_installed():
    default = settings("attention_forward", 90, 64, 64, 2)
    fast = Settings(32, 2, 2)
    said: list[str] = []
    table = tune([attention()], 90, seconds_if(fast), said.append)
    assert table == {90: {"attention_forward": {(64, 64, 2): fast}}}
    assert settings("attention_forward", 90, 64, 64, 2) == fast
    assert settings("attention_forward", 80, 64, 64, 2) == default
    assert "2.00 x the default" in said[0]


def test_without_a_faster_one_the_default_stays():
    default = settings("attention_forward", 90, 64, 64, 2)
    assert tune([attention()], 90, lambda call: 1.0)[90]["attention_forward"] == {(64, 64, 2): default}


def test_settings_that_change_the_result_or_fail_are_not_taken():
    default = settings("attention_forward", 90, 64, 64, 2)

    def run() -> torch.Tensor:
        chosen = settings("attention_forward", 90, 64, 64, 2)
        if chosen.stages == 2:
            raise RuntimeError("out of resource: shared memory")
        off = 1.0 if chosen == default else 1.0 + 2 * TOLERANCE
        return torch.full((3,), off)

    times = lambda call: 2.0 if settings("attention_forward", 90, 64, 64, 2) == default else 1.0  # noqa: E731
    assert tune([attention(run)], 90, times)[90]["attention_forward"] == {(64, 64, 2): default}


def test_a_default_that_fails_is_an_error():
    def run() -> torch.Tensor:
        raise RuntimeError("no kernel image")

    with pytest.raises(RuntimeError, match="no kernel image"):
        tune([attention(run)], 90, lambda call: 1.0)


def test_candidates_are_around_the_default_and_attention_keeps_whole_tiles():
    default = Settings(16, 4)
    for kernel in ("attention_backward", "norm_forward", "sum_readers"):
        found = list(candidates(kernel, default))
        assert found[0] == default
        assert len(found) == len(set(found))
    assert min(choice.rows for choice in candidates("attention_backward", default)) == 16
    assert {choice.rows for choice in candidates("sum_readers", default)} == {16}
    assert {choice.stages for choice in candidates("norm_forward", default)} == {1}


def test_every_key_of_the_base_models_shape_is_in_the_default_table():
    """The tiny model has the calls of the base model; a key that no table has would be an error here."""
    kind = workload("captions4").sized(8)
    place = Place(dtype=torch.bfloat16, whole=True)
    work = list(model_work(step_calls(kind, config_for(kind, tiny=True), place)))
    kernels = {one.kernel for one in work}
    assert {"attention_forward", "attention_backward", "norm_backward", "sum_partials"} <= kernels
    assert {"gelu_forward", "text_backward", "visual_forward", "sum_readers"} <= kernels
    for one in work:
        assert settings(one.kernel, 90, *one.key)


def test_a_written_table_says_the_same(tmp_path):
    table = tune([attention()], 90, seconds_if(Settings(32, 8, 1)))
    write_table(tmp_path / "table.json", table)
    assert read_table(tmp_path / "table.json") == table


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU is told")
def test_without_a_gpu_it_is_said():
    with pytest.raises(Exception, match="tuning needs a GPU"):
        tune_model(["vqa"])


def _one_of_two(rank: int, folder: str) -> None:
    """Both would choose differently if they were asked."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    fast = (Settings(32, 2, 2), Settings(128, 8, 1))[rank]
    asked: list[object] = []

    def timer(call: object) -> float:
        asked.append(call)
        return seconds_if(fast)(call)

    table = tune([attention()], 90, timer)
    used = settings("attention_forward", 90, 64, 64, 2)
    torch.save((table, tuple(used), len(asked)), os.path.join(folder, str(rank)))
    distributed.destroy_process_group()


def test_all_processes_take_the_choice_of_the_first(tmp_path: Path):
    multiprocessing.spawn(_one_of_two, (str(tmp_path),), nprocs=2)
    (table, used, asked), (other, others, others_asked) = (
        torch.load(tmp_path / str(rank), weights_only=False) for rank in range(2)
    )
    assert table == other
    # rows, warps, stages and columns
    assert used == others == (32, 2, 2, 0)
    assert asked > 0
    assert others_asked == 0
