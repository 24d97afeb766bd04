"""Answers a second: Hugging Face's LXMERT in its forms and ours, on the same batches, in turns.

pytest bench/test_inference.py [--whole]
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from lxmert_fast.bench.contenders import OURS_EAGER, REFERENCE
from lxmert_fast.bench.rounds import measure
from lxmert_fast.bench.workloads import workload

#: Quick to make ready: no compiling, no export.
EAGER = [REFERENCE, OURS_EAGER]


def test_vqa(benchmark: BenchmarkFixture, tiny: bool) -> None:
    measure(benchmark, workload("vqa"), "inference", tiny=tiny, counted=True)


@pytest.mark.parametrize("name", ["gqa", "nlvr2"])
def test_other_tasks(benchmark: BenchmarkFixture, name: str, tiny: bool, whole: bool) -> None:
    names = None if whole else EAGER
    measure(benchmark, workload(name), "inference", tiny=tiny, names=names, counted=True)


@pytest.mark.parametrize("pairs", [1, 8, 32, pytest.param(256, marks=pytest.mark.whole)])
def test_batch_sizes(benchmark: BenchmarkFixture, pairs: int, tiny: bool, whole: bool) -> None:
    names = None if whole else EAGER
    measure(benchmark, workload("vqa").sized(pairs), "inference", tiny=tiny, names=names)


@pytest.mark.parametrize("per_image", [1, 4, 16, pytest.param(32, marks=pytest.mark.whole)])
def test_sentences_an_image(benchmark: BenchmarkFixture, per_image: int, tiny: bool, whole: bool) -> None:
    names = None if whole else EAGER
    sized = workload("vqa").sized(32, per_image)
    measure(benchmark, sized, "inference", tiny=tiny, names=names)
