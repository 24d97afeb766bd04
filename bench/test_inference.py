"""Answers a second: Hugging Face's LXMERT in its forms and ours, on the same batches, in turns.

pytest bench/test_inference.py [--whole]
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from lxmert_fast.bench.contenders import EAGER
from lxmert_fast.bench.rounds import measure
from lxmert_fast.bench.workloads import workload


def test_vqa(benchmark: BenchmarkFixture, tiny: bool) -> None:
    measure(benchmark, workload("vqa"), "inference", tiny=tiny, counted=True)


@pytest.mark.parametrize("name", ["gqa", "nlvr2"])
def test_other_tasks(benchmark: BenchmarkFixture, name: str, tiny: bool, whole: bool) -> None:
    names = None if whole else EAGER
    measure(benchmark, workload(name), "inference", tiny=tiny, names=names, counted=True)
