"""The trace: one line an update and rank, whole after a kill."""

from __future__ import annotations

import json
from pathlib import Path

from thread_ranks import together

from lxmert_fast.train.ranks import Ranks
from lxmert_fast.train.trace import Trace, read_trace


def write(folder: Path, size: int, resumed_at: int, last: int) -> None:
    """Updates resumed_at + 1 to last on so many ranks; "u<update>r<rank>" is the example of each."""

    def one(ranks: Ranks) -> None:
        trace = Trace(folder, ranks, resumed_at)
        for update in range(resumed_at + 1, last + 1):
            trace.write(update, update // 10, [f"u{update}r{ranks.rank}"])
        trace.close()

    together(size, one)


def test_all_ranks_examples_by_epoch_and_update(tmp_path: Path) -> None:
    write(tmp_path, 3, 8, 10)
    assert read_trace(tmp_path) == {
        (0, 9): ["u9r0", "u9r1", "u9r2"],
        (1, 10): ["u10r0", "u10r1", "u10r2"],
    }
    assert len(list((tmp_path / "trace").iterdir())) == 3


def test_what_is_done_again_is_dropped_first_on_other_ranks_too(tmp_path: Path) -> None:
    """Three ranks did six updates, two go on after the fourth; the last line was cut short."""
    write(tmp_path, 3, 0, 6)
    file = tmp_path / "trace" / "rank_00002.jsonl"
    file.write_text(file.read_text()[:-3])
    write(tmp_path, 2, 4, 7)
    found = read_trace(tmp_path)
    for update in range(1, 8):
        ranks = range(3 if update <= 4 else 2)
        assert found.pop((0, update)) == [f"u{update}r{rank}" for rank in ranks]
    assert found == {}


def test_a_run_without_a_trace_has_none(tmp_path: Path) -> None:
    assert read_trace(tmp_path) == {}


def test_a_line_is_on_the_disk_when_write_returns(tmp_path: Path) -> None:
    """A kill takes nothing that a checkpoint counts on."""
    trace = Trace(tmp_path, Ranks(), 0)
    trace.write(1, 0, ["a"])
    (line,) = (tmp_path / "trace" / "rank_00000.jsonl").read_text().splitlines()
    assert json.loads(line) == {"update": 1, "epoch": 0, "examples": ["a"]}
    trace.close()
