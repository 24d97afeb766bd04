"""Tiny models run faster on one thread."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

# a pytest that a test starts is no worker of pytest-xdist, even if the test runs in one
os.environ.pop("PYTEST_XDIST_WORKER", None)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
