"""`bench gpu` as a dry run: the whole way, resumed, out of time, and with an operator that is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lxmert_fast.bench.contenders import OURS_EAGER, REFERENCE
from lxmert_fast.bench.gpu import formulas, kernels, models, parity, steps
from lxmert_fast.bench.gpu import run as command
from lxmert_fast.bench.gpu.budget import Budget
from lxmert_fast.bench.gpu.cases import SMALL, cases
from lxmert_fast.bench.gpu.device import Cpu, Timing
from lxmert_fast.bench.gpu.environment import peak_flops
from lxmert_fast.bench.gpu.items import BrokenDevice, Item, carry_out
from lxmert_fast.bench.gpu.results import Results
from lxmert_fast.bench.gpu.right import require_right
from lxmert_fast.bench.gpu.table import DRY, summary
from lxmert_fast.bench.parity import ParityError
from lxmert_fast.bench.report import markdown, read_report
from lxmert_fast.bench.workloads import workload
from lxmert_fast.errors import InputError

REPO = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="tests what a machine without a GPU does")


def quick(part: str, out: Path, **options: Any) -> tuple[Results, list[str]]:
    """A part in this process, and what it said."""
    said: list[str] = []
    return command.run(out, parts=[part], say=said.append, **options), said


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[str, Path]:
    """Output and file of the whole command without options."""
    out = tmp_path_factory.mktemp("gpu")
    done = subprocess.run(
        [sys.executable, "-m", "lxmert_fast.bench.gpu", "--out", str(out)],
        cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, out / "results.json"


@pytest.mark.slow
def test_without_a_gpu_it_says_so_in_one_line_and_runs_dry(whole):
    text, path = whole
    assert text.splitlines()[0] == command.NO_GPU
    assert DRY in text
    content = json.loads(path.read_text())
    assert content["dry_run"] is True
    assert content["machine_info"]["lxmert_fast"]["dry_run"] is True
    assert content["not_run"] == []


@pytest.mark.slow
def test_every_part_has_rows_and_races_have_the_suites_shape(whole):
    content = json.loads(whole[1].read_text())
    extras = {benchmark["name"]: benchmark["extra_info"] for benchmark in content["benchmarks"]}
    assert all(row["fault"] is None for row in extras["parity"]["parity"])
    assert {row["operator"] for row in extras["parity"]["parity"]} == set(formulas.FORMULAS)
    for row in extras["kernels"]["kernels"]:
        assert row["median"] > 0, row
        assert "pytorch" in row["beside"]
    race = extras["vqa inference, 4 pairs"]["race"]
    entries = {entry["name"]: entry for entry in race["entries"]}
    assert race["counts"][OURS_EAGER]["flops"] < race["counts"][REFERENCE]["flops"]
    for name in (REFERENCE, OURS_EAGER, "huggingface sdpa", models.BY_REFERENCE):
        entry = entries[name]
        assert entry["p20"] <= entry["median"] <= entry["p80"]
        assert entry["pairs_a_second"] == pytest.approx(4 / entry["median"])
        assert entry["mfu"] is None
    assert {"vqa step, 4 pairs", "captions step, 4 pairs"} <= set(extras)


@pytest.mark.slow
def test_the_report_reads_it(whole):
    report = read_report(whole[1])
    assert [race.mode for race in report.races] == ["inference", "step", "step"]
    text = markdown(report)
    assert "bf16" in text
    assert "A tiny model: these times mean nothing." in text


def test_a_second_run_goes_on_where_the_first_stopped(tmp_path, monkeypatch):
    first, _ = quick("small", tmp_path, dry_run=True)
    monkeypatch.setattr(parity, "compare", lambda *_: pytest.fail("done before"))
    again, said = quick("small", tmp_path, dry_run=True)
    assert again.rows == first.rows
    assert any(f"goes on after {len(first.rows)} items" in line for line in said)


def test_other_code_starts_anew(tmp_path, monkeypatch):
    quick("small", tmp_path, dry_run=True)
    monkeypatch.setattr("lxmert_fast.bench.gpu.environment.code_version", lambda: "other")
    results, _ = quick("small", tmp_path, dry_run=True, minutes=0.0)
    assert not results.rows


def test_what_the_time_is_too_short_for_is_listed_and_left_for_later(tmp_path):
    results, said = quick("kernels", tmp_path, dry_run=True, minutes=0.0)
    assert not results.rows
    assert "rates/machine" in results.not_run
    assert "not run, the time was too short" in said[-2]
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["not_run"] == results.not_run
    later, _ = quick("kernels", tmp_path, dry_run=True)
    assert later.not_run == []
    assert set(results.not_run) == set(later.rows)


def test_time_that_a_part_leaves_is_the_next_ones():
    clock = [0.0]
    budget = Budget(10, {"a": 1, "b": 4}, lambda: clock[0])
    budget.begin("a")
    assert budget.allows("x", 120.0)
    assert not budget.allows("x", 121.0)
    budget.note("x", 200.0)
    assert not budget.allows("x", 1.0)
    clock[0] = 30.0
    budget.begin("b")
    assert budget.allows("y", 570.0)
    assert not budget.allows("y", 571.0)


def test_a_wrong_operator_has_no_speed(tmp_path, monkeypatch):
    right = formulas.FORMULAS["bias_gelu"]
    monkeypatch.setitem(formulas.FORMULAS, "bias_gelu", lambda given, drop: right(given, drop) * 1.5)
    results = command.run(tmp_path, parts=["small", "kernels"], dry_run=True, say=lambda line: None)
    rows = {row["id"]: row for row in results.of("kernels")}
    gelus = [row for row in rows.values() if "/gelu_" in row["id"]]
    assert len(gelus) == 6
    for row in gelus:
        assert row["failed"]
        assert "median" not in row
        assert "bias_gelu: result is" in row["fault"]
    assert "median" in rows["kernels/vqa/norm of texts/norm_forward"]
    assert "wrong, so without a time" in summary(results)


def test_a_contender_that_is_wrong_has_no_speed(tmp_path):
    setting = models.Setting(workload("vqa").sized(4), "inference", Cpu())
    off = {"scores": setting.wanted["scores"] * 1.2}
    with pytest.raises(ParityError, match="ours: scores is"):
        require_right(OURS_EAGER, off, setting.wanted, setting.yardstick)
    some = {"scores": setting.wanted["scores"] * 1.001}
    assert require_right(OURS_EAGER, some, setting.wanted, setting.yardstick) == pytest.approx(0.001, rel=0.1)


@pytest.mark.parametrize(
    ("error", "failed", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), False, "out of memory"),
        (ParityError("x: y is 1 off"), True, "y is 1 off"),
        (KeyError("odd"), True, "KeyError"),
    ],
)
def test_a_failing_item_leaves_a_row(error, failed, words):
    def fail() -> dict[str, Any]:
        raise error

    row = carry_out(Item("a", "b", 1.0, fail))
    assert row["failed"] is failed
    assert words in row["fault"]


def test_after_an_error_of_the_device_the_run_stops_with_its_row_written(tmp_path, monkeypatch):
    def fail(*_: object) -> Any:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(parity, "compare", fail)
    results, said = quick("small", tmp_path, dry_run=True)
    assert len(results.rows) == 1
    assert any("run it again to go on" in line for line in said)
    with pytest.raises(BrokenDevice):
        carry_out(Item("a", "b", 1.0, fail))


def test_unknown_parts_are_named(tmp_path):
    with pytest.raises(InputError, match="'speed'"):
        quick("speed", tmp_path)


def test_a_file_that_is_something_else_is_not_overwritten(tmp_path):
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(InputError, match="not a result file"):
        quick("small", tmp_path, dry_run=True)
    assert (tmp_path / "results.json").read_text() == "[]"


def test_every_case_has_its_formula_and_gradients_of_all_float_arguments():
    for case in cases(SMALL[0], 0.1):
        given = case.cast(torch.float64, torch.device("cpu"))
        y = formulas.FORMULAS[case.operator](given, formulas.own_masks(given))
        inputs = {k: v for k, v in given.items() if isinstance(v, torch.Tensor) and v.requires_grad}
        assert inputs
        grads = torch.autograd.grad(y.sum(), list(inputs.values()))
        assert all(g.isfinite().all() for g in grads), case


def test_percentiles_and_peaks():
    row = Timing([5.0, 1.0, 2.0, 3.0, 4.0, 6.0]).to_json()
    assert (row["fastest"], row["median"], row["p20"], row["p80"]) == (1.0, 3.5, 2.0, 5.0)
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA GeForce GTX 1080") is None


def test_step_and_kernel_names_are_unique():
    names = [item.name for item in steps.step_items(Cpu(), Results.__new__(Results))]
    names += [item.name for item in kernels.kernel_items(Cpu(), Results.__new__(Results))]
    names += [item.name for item in parity.small_items(Cpu())]
    assert len(names) == len(set(names))
