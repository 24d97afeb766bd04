"""Bytes counted in Triton's interpreter are those counted by hand; limits hold and are enforced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lxmert_fast.bench.operators import LAUNCHES
from lxmert_fast.bench.step_calls import step_calls
from lxmert_fast.bench.traffic import Traffic, counting
from lxmert_fast.bench.traffic_report import SHARED, calls_table, kernels_table, rows_of
from lxmert_fast.bench.workloads import config_for, workload
from lxmert_fast.errors import InputError
from lxmert_fast.kernels.configs import VARIABLE, Settings, write_table
from lxmert_fast.kernels.dispatch import interprets

pytest.importorskip("triton")

REPO = Path(__file__).resolve().parents[2]
HALF, FLOAT, INDEX = 2, 4, 8
H = 48


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def by_hand() -> dict[str, Any]:
    script = Path(__file__).with_name("traffic_by_hand.py")
    done = run(str(script), TRITON_INTERPRET="1", PYTHONPATH=str(REPO))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_norm(by_hand):
    forward, backward = by_hand["norm"]
    # x, residual and y; bias, weight and shift; two statistics a row
    assert forward == {"norm_forward": HALF * H * (3 * 5 + 3) + 2 * FLOAT * 5}
    # dy, y and one gradient, since dx is that of the residual; one program's three sums, written and read
    sums = FLOAT * 3 * H
    assert backward == {
        "norm_backward": HALF * H * (3 * 5 + 2) + FLOAT * 5 + sums,
        "sum_partials": sums + HALF * 3 * H,
    }


def test_norm_of_two_streams_with_dropout(by_hand):
    forward, backward = by_hand["dropping norm of two streams"]
    # a tile a stream reads its own parameters and the seed
    assert forward == {"norm_forward": HALF * H * (3 * 5 + 2 * 3) + 2 * FLOAT * 5 + 2 * INDEX}
    sums = 2 * FLOAT * 3 * H
    assert backward == {
        "norm_backward": HALF * H * (4 * 5 + 2 * 2) + FLOAT * 5 + 2 * INDEX + sums,
        "sum_partials": sums + 2 * HALF * 3 * H,
    }


def test_attention(by_hand):
    forward, backward = by_hand["attention"]
    width, programs = 2 * 4, 2 * 2
    # query, key, value and context of 8 rows; five of a meeting's six columns, for each head
    assert forward == {"attention_forward": HALF * width * 4 * 8 + programs * 5 * INDEX}
    assert backward == {"attention_backward": HALF * width * 7 * 8 + programs * 6 * INDEX}


def test_sum_of_readers(by_hand):
    assert by_hand["readers"] == {"sum_readers": HALF * H * (5 + 2) + INDEX * (2 * 2 + 5)}


@pytest.mark.parametrize(
    ("whole", "half"), [("attention", "attention of one head"), ("gelu", "gelu of half the columns")]
)
def test_one_slice_is_exactly_its_share(by_hand, whole, half):
    for one, other in zip(by_hand[whole], by_hand[half], strict=True):
        assert one == {kernel: 2 * number for kernel, number in other.items()}


def test_launches_are_those_that_the_counts_assume(by_hand):
    of_pytorch = {"lxmert_fast::text_embedding_backward": 3, "lxmert_fast::repeat_rows": 1}
    assert {name.split()[0] for name in by_hand["launches"]} == LAUNCHES.keys()
    for name, (started, assumed) in by_hand["launches"].items():
        assert started + of_pytorch.get(name.split()[0], 0) == assumed, name


@pytest.mark.parametrize(("name", "shares"), [("vqa", True), ("nlvr2", True), ("captions", False)])
def test_calls_of_a_step(name, shares):
    """Every layer's, whatever texts and images the pairs share."""
    sized = workload(name).sized(8)
    config = config_for(sized, tiny=True)
    times: Counter[str] = Counter()
    for call in step_calls(sized, config):
        times[call.kernel] += call.times
        assert call.shared == (shares and "first cross attention" in call.what)
    alone, crossed = config.l_layers + config.r_layers, config.x_layers
    assert times["attention_forward"] == times["attention_backward"] == alone + 2 * crossed
    assert times["norm_forward"] == times["norm_backward"] == 2 * alone + 3 * crossed
    assert times["gelu_forward"] == times["gelu_backward"] == alone + crossed
    assert times["sum_readers"] == shares


def call(kernel: str, moved: int, *, times: int = 1, shared: bool = False) -> Traffic:
    return Traffic("vqa", "here", kernel, shared, times, moved, 100)


def test_a_step_weighs_its_calls_and_shows_shared_rows_apart():
    found = [call("attention_forward", 100, times=9), call("attention_forward", 300, shared=True)]
    whole, part = rows_of(found)
    assert (whole.calls, whole.ratio, whole.limit, whole.over) == (10, 1.2, 1.3, False)
    assert (part.part, part.ratio, part.limit, part.over) == (SHARED, 3.0, None, False)
    assert f"| vqa | of these, {SHARED} | 1 |" in kernels_table(found)
    assert f"here ({SHARED})" in calls_table(found)


def test_a_kernel_over_its_limit_is_named():
    (row,) = rows_of([call("norm_backward", 116)])
    assert row.over
    assert row.title.startswith("vqa, norm_backward: 1.160")


@pytest.mark.skipif(interprets(), reason="this process interprets")
def test_counting_needs_the_interpreter():
    with pytest.raises(InputError, match="TRITON_INTERPRET"), counting():
        pass


COMMAND = ("-m", "lxmert_fast.cli", "bench", "traffic", "--tiny", "--workload", "vqa", "--pairs", "2")


def test_command_as_json():
    done = run(*COMMAND, "--json", "-")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    kernels = {row["kernel"]: row for row in found["kernels"] if not row["part"]}
    assert kernels["norm_forward"]["calls"] == 2 * (2 + 1) + 3 * 2
    assert kernels["attention_backward"]["calls"] == 2 + 1 + 2 + 2
    assert {"workload", "bytes", "least", "ratio", "limit", "over"} <= kernels["gelu_backward"].keys()
    assert all(call["bytes"] >= call["least"] > 0 for call in found["calls"])
    assert {call["what"] for call in found["calls"] if call["shared"]} == {
        "first cross attention",
        "residual of the first cross attention",
    }


def test_command_fails_where_tiles_load_parameters_too_often(tmp_path):
    tuned, out = tmp_path / "tuned.json", tmp_path / "out.json"
    write_table(tuned, {80: {"norm_forward": {(64,): Settings(1, 4)}}})
    done = run(*COMMAND, "--json", str(out), **{VARIABLE: str(tuned)})
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("vqa, norm_forward: 1.9")
    assert done.stderr.count("\n") == 1
    over = [row["kernel"] for row in json.loads(out.read_text())["kernels"] if row["over"]]
    assert over == ["norm_forward"]


def test_an_unknown_workload_is_one_line():
    done = run("-m", "lxmert_fast.cli", "bench", "traffic", "--workload", "coco")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
