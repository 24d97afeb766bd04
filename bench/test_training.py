"""Training steps (forward, loss, backward; the optimizer is the same for all and left out), with dropout.

    pytest bench/test_training.py [--whole]

Dropout's random numbers differ between contenders, so values are compared with the rate at 0: the loss and
gradients from every part of the model, once, before the timed rounds. The timed values must be finite.
Compiling a step takes minutes, once without dropout and once with: compiled contenders are for `--whole`.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from lxmert_fast.bench.contenders import EAGER, SWAP_IN
from lxmert_fast.bench.rounds import measure
from lxmert_fast.bench.workloads import workload

#: The original's batch in fine-tuning.
PAIRS = 32


def test_fine_tuning(benchmark: BenchmarkFixture, tiny: bool, whole: bool) -> None:
    """Questions grouped by image, as a batch that shares images wants them."""
    names = None if whole else (*EAGER, SWAP_IN)
    sized = workload("vqa").sized(PAIRS)
    measure(benchmark, sized, "step", tiny=tiny, names=names, counted=True)


@pytest.mark.whole
def test_fine_tuning_shuffled(benchmark: BenchmarkFixture, tiny: bool) -> None:
    """One question an image, as in a shuffled batch."""
    measure(benchmark, workload("vqa").sized(PAIRS, 1), "step", tiny=tiny)


@pytest.mark.whole
@pytest.mark.parametrize(("name", "pairs"), [("gqa", PAIRS), ("nlvr2", 2 * PAIRS)])
def test_fine_tuning_other_tasks(benchmark: BenchmarkFixture, name: str, pairs: int, tiny: bool) -> None:
    sized = workload(name).sized(pairs)
    measure(benchmark, sized, "step", tiny=tiny, counted=True)


@pytest.mark.parametrize("name", ["captions", "captions4"])
def test_pretraining(benchmark: BenchmarkFixture, name: str, tiny: bool, whole: bool) -> None:
    names = None if whole else EAGER
    measure(benchmark, workload(name), "step", tiny=tiny, names=names, counted=True)
