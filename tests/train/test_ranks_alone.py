"""What a process learns of its ranks from the environment, and what it says when that is wrong."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
import torch
from small_runs import free_port
from thread_ranks import together
from torch import distributed

from lxmert_fast.errors import InputError, RanksLost
from lxmert_fast.train.engine import pick_device
from lxmert_fast.train.ranks import VARIABLES, Ranks, join_ranks, read_environment

RIGHT = {
    "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
}  # fmt: skip


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the launcher's variables, but for the changes; None leaves one out."""

    def put(**changes: str | None) -> None:
        for name, value in (RIGHT | changes).items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    put(**dict.fromkeys(VARIABLES))
    return put


def test_without_a_launcher_a_run_is_one_process(environment: Callable[..., None]) -> None:
    assert read_environment() is None
    ranks = join_ranks(torch.device("cpu"))
    assert (ranks.rank, ranks.size, ranks.first) == (0, 1, True)
    assert ranks.total([1, 2.5]) == [1.0, 2.5]
    assert ranks.gather("a") == ["a"]
    assert ranks.from_first("a") == "a"
    ranks.barrier()


def test_a_launcher_says_who_and_where(environment: Callable[..., None]) -> None:
    environment()
    assert read_environment() == (1, 2, 0, "127.0.0.1:29500")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"MASTER_ADDR": None}, "environment: MASTER_ADDR not set beside RANK and WORLD_SIZE"),
        ({"RANK": None, "MASTER_PORT": None}, "environment: RANK, MASTER_PORT not set"),
        ({"WORLD_SIZE": "two"}, "environment: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_PORT: .*'two'"),
        ({"RANK": "2"}, "environment: RANK is 2, wanted 0 to WORLD_SIZE - 1 = 1"),
        ({"RANK": "-1"}, "environment: RANK is -1, wanted 0 to"),
    ],
)
def test_variables_that_contradict_each_other(
    environment: Callable[..., None], changes: dict[str, str | None], line: str
) -> None:
    environment(**changes)
    with pytest.raises(InputError, match=line):
        read_environment()


def test_ranks_that_do_not_come(environment: Callable[..., None]) -> None:
    port = str(free_port())
    environment(MASTER_PORT=port)
    with pytest.raises(RanksLost) as caught:
        join_ranks(torch.device("cpu"), start_timeout=1.0)
    place = f"rank 1 on {socket.gethostname()}: the 2 ranks did not meet at 127.0.0.1:{port} within 1 s; "
    assert str(caught.value).startswith(place)
    assert "\n" not in str(caught.value)
    assert not distributed.is_initialized()


def test_one_problem_is_everybodys() -> None:
    def one(ranks: Ranks) -> str:
        with pytest.raises(InputError) as caught:
            ranks.all_or_none(None if ranks.rank != 1 else "disk: full")
        return str(caught.value)

    assert together(3, one) == ["rank 1: disk: full"] * 3
    together(2, lambda ranks: ranks.all_or_none(None))
    with pytest.raises(InputError, match=r"^disk: full$"):
        Ranks().all_or_none("disk: full")


def test_a_collective_that_fails_is_a_lost_rank() -> None:
    def say() -> None:
        raise RuntimeError("Connection closed\n  by peer [10.0.0.2]")

    line = rf"rank 1 of 2 \({socket.gethostname()}\): lost another rank \(Connection closed by peer \[10"
    with pytest.raises(RanksLost, match=line):
        Ranks(1, 2, 1)._talk(say)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_each_place_of_a_host_has_its_gpu(two_gpus: None) -> None:
    assert [str(pick_device("auto", place)) for place in (0, 1)] == ["cuda:0", "cuda:1"]
    assert str(pick_device("cuda:1", 0)) == "cuda:1"
    assert str(pick_device("auto")) == "cuda"
    assert str(pick_device("cpu", 1)) == "cpu"


def test_more_places_than_gpus(two_gpus: None) -> None:
    with pytest.raises(InputError, match="LOCAL_RANK is 2, but this host has 2 GPUs: too many slots"):
        pick_device("auto", 2)


def test_a_gpu_that_there_is_not(two_gpus: None) -> None:
    with pytest.raises(InputError, match=r"run\.device: 'cuda:2' asked for, but this host has 2 GPUs"):
        pick_device("cuda:2")


def test_devices_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert str(pick_device("auto", 3)) == "cpu"
    with pytest.raises(InputError, match=r"run\.device: 'cuda:0' asked for, but PyTorch sees no GPU"):
        pick_device("cuda:0")
    with pytest.raises(
        InputError, match=r"run\.device: 'gpu' is no device, wanted auto, cpu, cuda or cuda:N"
    ):
        pick_device("gpu")
