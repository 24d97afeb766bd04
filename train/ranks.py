"""The processes of a run: who they are, and the few numbers that they tell each other.

The launcher (`deepspeed`, `torchrun`, SLURM) sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.
Without them a run is one process, and everything here is trivial.

Gradients travel on the engine's own group (NCCL on GPUs). What is said here stays on the host, over gloo, so
that nobody waits for a GPU to learn how many words were masked.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.distributed.distributed_c10d import _set_pg_timeout

from lxmert_fast.errors import InputError, RanksLost

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class Ranks:
    """This process among W.

    Args:
        rank: 0 to W - 1. size: W. local_rank: place on this host.
        timeout: seconds after which a rank that does not answer is given up.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, *, timeout: float = 600.0) -> None:
        self.rank = rank
        self.size = size
        self.local_rank = local_rank
        self._group = None
        if distributed.is_initialized():
            self._group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout))

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0

    @property
    def place(self) -> str:
        """How messages call this process."""
        return f"rank {self.rank} of {self.size} ({socket.gethostname()})"

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over all ranks, in fp64, equal to the last bit on all of them."""
        if self._group is None:
            return [float(value) for value in values]
        row = torch.tensor(values, dtype=torch.float64)
        rows = [torch.empty_like(row) for _ in range(self.size)]
        # gathered and added in the order of the ranks: a reduction's order depends on the backend
        self._talk(lambda: distributed.all_gather(rows, row, group=self._group))
        return torch.stack(rows).sum(0).tolist()

    def gather(self, value: Any) -> list[Any]:
        """What every rank says, in order, known to all; anything that pickles."""
        if self._group is None:
            return [value]
        found: list[Any] = [None] * self.size
        self._talk(lambda: distributed.all_gather_object(found, value, group=self._group))
        return found

    def from_first(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self._group is None:
            return value
        box = [value]
        self._talk(lambda: distributed.broadcast_object_list(box, src=0, group=self._group))
        return box[0]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self._group is not None:
            self._talk(lambda: distributed.barrier(group=self._group))

    def all_or_none(self, problem: str | None) -> None:
        """Go on together or fail together.

        Raises:
            InputError: on every rank, the first problem of any rank.
        """
        for rank, found in enumerate(self.gather(problem)):
            if found is not None:
                raise InputError(found if self.size == 1 else f"rank {rank}: {found}")

    def _talk(self, say: Any) -> None:
        try:
            say()
        except RuntimeError as error:
            raise lost(self, error) from None


def is_loss(error: Exception) -> bool:
    """Whether a backend's error says that another rank is gone, and not that the call was wrong."""
    if isinstance(error, distributed.DistBackendError):
        return True
    return any(word in str(error) for word in ("gloo", "NCCL", "Connection closed", "Connection reset"))


def lost(ranks: Ranks, error: Exception) -> RanksLost:
    """What a collective's failure means."""
    reason = " ".join(str(error).split())[:200]
    return RanksLost(f"{ranks.place}: lost another rank ({reason})")


def join_ranks(device: torch.device, timeout: float = 600.0, start_timeout: float = 300.0) -> Ranks:
    """Meet the other processes that the launcher has started; one process where it has started none.

    Args:
        device: decides how gradients travel: NCCL for GPUs, gloo for CPUs.
        timeout: seconds after which a silent rank is given up, in the run.
        start_timeout: the same at the start, while hosts come up one after another.

    Raises:
        InputError: variables that contradict each other.
        RanksLost: not all ranks came.
    """
    env = read_environment()
    if env is None:
        return Ranks()
    rank, size, local_rank, address = env
    if not distributed.is_initialized():
        try:
            distributed.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=start_timeout),
            )
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise RanksLost(
                f"rank {rank} on {socket.gethostname()}: the {size} ranks did not meet at {address} within "
                f"{start_timeout:.0f} s; wanted one process a slot of the hostfile, all with the same "
                f"MASTER_ADDR and MASTER_PORT ({reason})"
            ) from None
        # gradients wait longer: for a rank that compiles or validates
        _set_pg_timeout(timedelta(seconds=timeout), None)
    return Ranks(rank, size, local_rank, timeout=timeout)


def read_environment() -> tuple[int, int, int, str] | None:
    """RANK, WORLD_SIZE, LOCAL_RANK and the meeting place, or None where no launcher has set them.

    Raises:
        InputError: some are missing or are no numbers, or a rank outside 0 to WORLD_SIZE - 1.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return None
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise InputError(f"environment: {', '.join(missing)} not set beside RANK and WORLD_SIZE")
    try:
        rank, size, local_rank, port = (
            int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
        )
    except ValueError as error:
        raise InputError(f"environment: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_PORT: {error}") from None
    if not 0 <= rank < size:
        raise InputError(f"environment: RANK is {rank}, wanted 0 to WORLD_SIZE - 1 = {size - 1}")
    return rank, size, local_rank, f"{os.environ['MASTER_ADDR']}:{port}"
