"""Options of the benchmarks, and what every result file says about its machine."""

from __future__ import annotations

import time
from typing import Any

import pytest

from lxmert_fast.bench.machine import describe

ORDER = [
    "test_inference.py",
    "test_training.py",
    "test_data.py",
    "test_loader.py",
    "test_evaluation.py",
    "test_sizes.py",
    "test_scale.py",
]
#: Seconds after which no further benchmark begins: the one that runs has until the tenth minute.
BUDGET = 480.0
_BEGAN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--whole` and `--tiny`."""
    group = parser.getgroup("lxmert-fast")
    group.addoption("--whole", action="store_true", help="every workload, contender and size")
    group.addoption(
        "--tiny", action="store_true", help="a tiny model: tests the benchmarks, measures nothing"
    )


def pytest_configure(config: pytest.Config) -> None:
    """The mark for what `make bench` leaves out."""
    config.addinivalue_line("markers", "whole: only with --whole (make bench-all)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What matters most first, and what is marked `whole` only when it is wanted."""
    items.sort(key=lambda item: ORDER.index(item.path.name) if item.path.name in ORDER else len(ORDER))
    if config.getoption("--whole"):
        return
    for item in items:
        if item.get_closest_marker("whole"):
            item.add_marker(pytest.mark.skip(reason="only with --whole (make bench-all)"))


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Processor, threads, load and versions into the JSON."""
    machine_info["lxmert_fast"] = describe() | {"tiny": config.getoption("--tiny")}


@pytest.fixture(autouse=True)
def within_budget(whole: bool) -> None:
    """On a slow or busy machine the last benchmarks give way, and say so."""
    if not whole and time.monotonic() - _BEGAN > BUDGET:
        pytest.skip(f"{BUDGET / 60:.0f} minutes of `make bench` are over; `make bench-all` has no limit")


@pytest.fixture(scope="session")
def tiny(request: pytest.FixtureRequest) -> bool:
    """Whether the model is the tiny one."""
    return bool(request.config.getoption("--tiny"))


@pytest.fixture(scope="session")
def whole(request: pytest.FixtureRequest) -> bool:
    """Whether everything is run."""
    return bool(request.config.getoption("--whole"))
