"""Ends a run inside of a test's process, as a kill would at that moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lxmert_fast.train import launched


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, steps: int) -> Iterator[None]:
    """Within, a run of one process ends at its engine's call `steps` of `step`, from 0; it must."""

    class Killed(BaseException):
        pass

    step, done = launched.LocalEngine.step, 0

    def dying_step(self: Any) -> bool:
        nonlocal done
        if done == steps:
            raise Killed
        done += 1
        return step(self)

    monkeypatch.setattr(launched.LocalEngine, "step", dying_step)
    with pytest.raises(Killed):
        yield
    monkeypatch.undo()
    for thread in threading.enumerate():
        if thread.name == "checkpoint":  # would have ended too, at a moment that a test can't choose
            thread.join()
