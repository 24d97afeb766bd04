"""What batch size and sharing do to the time of a pair: the points of the plots.

pytest bench/test_sizes.py [--whole]
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from lxmert_fast.bench.contenders import EAGER
from lxmert_fast.bench.rounds import measure
from lxmert_fast.bench.workloads import workload

WHOLE = pytest.mark.whole


@pytest.mark.parametrize("pairs", [1, 8, 32, pytest.param(256, marks=WHOLE)])
def test_batch_sizes(benchmark: BenchmarkFixture, pairs: int, tiny: bool, whole: bool) -> None:
    names = None if whole else EAGER
    measure(benchmark, workload("vqa").sized(pairs), "inference", tiny=tiny, names=names)


@pytest.mark.parametrize("per_image", [1, 16, *(pytest.param(n, marks=WHOLE) for n in (2, 8, 32))])
def test_sentences_an_image(benchmark: BenchmarkFixture, per_image: int, tiny: bool, whole: bool) -> None:
    sized = workload("vqa").sized(32, per_image)
    measure(benchmark, sized, "inference", tiny=tiny, names=None if whole else EAGER)
