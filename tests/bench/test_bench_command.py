"""The whole way with a tiny model: pytest's JSON, the report, the comparison, the counts, and mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import call

REPO = Path(__file__).resolve().parents[2]
#: Small models run faster so, and leave the rest to the tests beside them.
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """What `make bench` would write of three benchmarks, of a tiny model."""
    path = tmp_path_factory.mktemp("bench") / "run.json"
    names = ["test_sizes.py::test_batch_sizes", "test_inference.py::test_other_tasks", "test_data.py"]
    tests = [f"bench/{name}" for name in names]
    options = ["--tiny", "-q", f"--benchmark-json={path}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *tests, *options],
        cwd=REPO,
        env=ONE_THREAD,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return path


def test_report_writes_tables_and_plots(results, tmp_path):
    done = call("bench", "report", results, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    written = [Path(line).name for line in done.stdout.split()]
    assert written == ["report.md", "vqa_inference_batch.png"]
    text = (tmp_path / "report.md").read_text()
    assert "A tiny model" in text
    assert "| gqa inference, 96 pairs, 31.6 an image | ours |" in text
    assert "TSV in memory" in text


def test_compare_with_itself_finds_nothing(results):
    done = call("bench", "compare", results, results)
    assert done.stdout == "nothing moved by more than 5%\n"


def test_counts_as_json_and_as_a_table():
    done = call("bench", "counts", "--workload", "captions4", "--pairs", 8, "--tiny", "--json")
    found = json.loads(done.stdout)
    assert (found["workload"], found["pairs"], found["per_image"]) == ("captions4", 8, 4)
    rows = found["modes"]["step"]
    assert rows["ours"]["flops"] < rows["huggingface eager"]["flops"]
    assert 0 < rows["ours"]["saved_bytes"] < rows["huggingface eager"]["saved_bytes"]
    table = call("bench", "counts", "--workload", "nlvr2", "--pairs", 8, "--tiny").stdout
    assert "| nlvr2 training step, 8 pairs | ours |" in table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("counts", "--workload", "coco"), "unknown workload 'coco'"),
        (("counts", "--workload", "nlvr2", "--pairs", "3", "--tiny"), "even number"),
        (("report", "none.json"), "none.json"),
        (("report", str(REPO / "bench" / "histograms.json")), "not a result"),
        (("compare", str(REPO / "setup.py"), str(REPO / "setup.py")), "not JSON"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, words):
    done = call("bench", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
