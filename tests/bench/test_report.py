"""The report and what moved between two of them, from result files made by hand."""

from __future__ import annotations

import copy
import json

import pytest

from lxmert_fast.bench.compare import compare, warnings
from lxmert_fast.bench.plots import draw
from lxmert_fast.bench.report import MARK, markdown, put_into, read_report, summary
from lxmert_fast.errors import InputError

COUNTS = {"operations": 100, "bytes_moved": 8e6, "saved_bytes": 0, "peak_bytes": 4e6, "unknown": []}


def entry(name, fastest, **more):
    # another's work was in the second round
    timed = {"seconds": [fastest, 2 * fastest, fastest], "fastest": fastest, "median": fastest}
    row = {"name": name, "fault": None, "failed": False, "same_top": 1.0, "prepared": 1.0}
    return row | timed | {"difference": 1e-6} | more


def race(pairs=96, per_image=5.3, **changes):
    entries = [
        entry("huggingface eager", 0.96),
        entry("huggingface compiled", 0.80),
        entry("openvino", 0.60),
        {"name": "onnxruntime", "fault": "no onnx here", "failed": False},
        entry("ours", 0.48),
        entry("ours int8", 0.24, difference=0.02, same_top=0.97),
        {"name": "swap-in", "fault": "swap-in: scores is 1.0e-03 off", "failed": True},
    ]
    counts = {"huggingface eager": COUNTS | {"flops": 96e9}, "ours": COUNTS | {"flops": 48e9}}
    extra = {"workload": "vqa", "mode": "inference", "pairs": pairs, "per_image": per_image}
    extra |= {"matrix_rate": 200e9, "entries": entries, "counts": counts}
    return {"name": "test_vqa", "extra_info": {"race": extra | changes}}


CONTENT = {
    "datetime": "2026-11-24T12:00:00.123",
    "commit_info": {"id": "0123456789abcdef", "dirty": False},
    "machine_info": {
        "lxmert_fast": {
            "processor": "P",
            "cores": 2,
            "threads": 2,
            "memory_gb": 8,
            "load": 0.1,
            "versions": {"torch": "2"},
        }
    },
    "benchmarks": [race(), race(pairs=32, counts={}), race(pairs=32, per_image=4, counts={})],
}


@pytest.fixture
def write(tmp_path):
    def write(content, name="run.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_ratios_and_shares_are_those_of_the_run(write):
    row = next(line for line in summary(read_report(write(CONTENT))).splitlines() if "| ours |" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    # 0.48 s for 96 pairs; 2 times HF eager, 1.67 compiled, 1.25 OpenVINO, 48 GFLOP in 0.48 s of 200 a second
    assert cells[2:] == ["5.00", "2.00", "1.67", "1.25", "50%", "all"]


def test_the_report_names_machine_commit_and_faults_and_no_speed_beside_them(write):
    text = markdown(read_report(write(CONTENT)))
    assert "2026-11-24 12:00 UTC at commit 0123456" in text
    assert "| ours int8 | 2.50 | 4.00 | 3.33 | 2.50 |  | 97% |" in text
    for name in ("swap-in | swap-in: scores is 1.0e-03 off", "onnxruntime | no onnx here"):
        assert f"| {name} |  |  |  |  |  |" in text


def test_a_race_that_was_disturbed_is_marked(write):
    content = copy.deepcopy(CONTENT)
    content["benchmarks"][0]["extra_info"]["race"]["matrix_rate"] = 100e9
    text = markdown(read_report(write(content)))
    assert "| vqa inference, 96 pairs, 5.3 an image † | ours |" in text
    assert "† Other work took part" in text
    assert "the machine at 50% of its best" in text
    # shares are of the machine's best, wherever in the run it was measured
    assert "| 5.00 | 2.00 | 1.67 | 1.25 | 50% |" in text
    assert "†" not in markdown(read_report(write(CONTENT)))


def test_plots_of_both_kinds(write, tmp_path):
    drawn = draw(read_report(write(CONTENT)), tmp_path)
    assert [path.name for path in drawn] == ["vqa_inference_batch.png", "vqa_inference_sentences.png"]
    assert all(path.stat().st_size > 5000 for path in drawn)


def test_a_table_is_put_between_the_marks(write, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{MARK}\nold\n{MARK}\nafter\n")
    put_into(readme, read_report(write(CONTENT)))
    text = readme.read_text()
    assert text.startswith(f"before\n{MARK}\nMeasured 2026-11-24")
    assert text.endswith(f"{MARK}\nafter\n")
    assert "old" not in text
    readme.write_text("no marks")
    with pytest.raises(InputError, match="wanted two"):
        put_into(readme, read_report(write(CONTENT)))


def test_compare_shows_what_moved_and_nothing_else(write):
    old = read_report(write(CONTENT))
    assert compare(old, old) == []
    content = copy.deepcopy(CONTENT)
    moved = content["benchmarks"][0]["extra_info"]["race"]
    # everything twice as slow is the machine; ours a fifth slower than that is ours
    for row in moved["entries"]:
        if "fastest" in row:
            row["fastest"] *= 2.4 if row["name"] == "ours" else 2.0
    moved["counts"]["ours"]["operations"] = 99
    moved["entries"] = [row for row in moved["entries"] if row["name"] != "openvino"]
    lines = [change.line() for change in compare(old, read_report(write(content, "new.json")))]
    assert len(lines) == 3
    assert "ours, times as fast as huggingface eager: 2 -> 1.667 (-16.7%, worse)" in lines[0]
    assert "ours, operations: 100 -> 99 (-1.0%, better)" in lines[1]
    assert "openvino" in lines[2]
    assert lines[2].endswith("1.6 -> none")


def test_another_machine_is_said(write):
    content = copy.deepcopy(CONTENT)
    content["machine_info"]["lxmert_fast"]["threads"] = 8
    old, new = read_report(write(CONTENT)), read_report(write(content, "new.json"))
    assert warnings(old, new) == ["threads differs: 2 and 8"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not a result"),
        ("{}", "not a result"),
        (CONTENT | {"benchmarks": []}, "no benchmark"),
        (CONTENT | {"benchmarks": [{"extra_info": {"race": {}}}]}, "not a result"),
        (CONTENT | {"machine_info": {}}, "not a result"),
    ],
)
def test_what_is_no_report_is_an_input_error(write, content, words):
    with pytest.raises(InputError, match=words):
        read_report(write(content))


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"none\.json"):
        read_report(tmp_path / "none.json")
