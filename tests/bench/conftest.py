"""Tiny models run faster on one thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_worker_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pytest that a test starts is not a worker of pytest-xdist, even if the test runs in one."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
