"""A kill of a rank that trains and one of a rank that starts; `make soak KILLS=50` is the long form, outside
of CI."""

from __future__ import annotations

from pathlib import Path

from soak import soak

#: A kill 0.2 s after an update of the first start, and one 3.2 s after the ranks of the second one came.
SEED = 7


def test_nothing_is_lost(tmp_path: Path) -> None:
    result = soak(tmp_path, kills=2, steps=60, seed=SEED)
    assert result.good, result.line()
    assert result.kills == 2
    assert result.steps == 60
    assert result.restarts == 2
