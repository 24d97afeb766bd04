"""Five kills at random moments; `make soak KILLS=50` is the long form, outside of CI."""

from __future__ import annotations

from pathlib import Path

from soak import soak


def test_nothing_is_lost(tmp_path: Path) -> None:
    result = soak(tmp_path, kills=5, steps=60)
    assert result.good, result.line()
    assert result.kills == 5
    assert result.steps == 60
    assert result.restarts == 5
