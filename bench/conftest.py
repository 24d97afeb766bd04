"""Options of the benchmarks, and what every result file says about its machine."""

from __future__ import annotations

from typing import Any

import pytest

from lxmert_fast.bench.machine import describe


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
    """Leave out what is marked `whole`."""
    if config.getoption("--whole"):
        return
    for item in items:
        if item.get_closest_marker("whole"):
            item.add_marker(pytest.mark.skip(reason="only with --whole (make bench-all)"))


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Processor, threads, load and versions into the JSON."""
    machine_info["lxmert_fast"] = describe() | {"tiny": config.getoption("--tiny")}


@pytest.fixture(scope="session")
def tiny(request: pytest.FixtureRequest) -> bool:
    """Whether the model is the tiny one."""
    return bool(request.config.getoption("--tiny"))


@pytest.fixture(scope="session")
def whole(request: pytest.FixtureRequest) -> bool:
    """Whether everything is run."""
    return bool(request.config.getoption("--whole"))
