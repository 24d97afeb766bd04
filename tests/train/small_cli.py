"""`lxmert-fast pretrain` on this rank, with a fault where the environment asks for one.

RANK=... python small_cli.py CONFIG section.key=value ...
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any


def _install(fault: str) -> None:
    """Make this rank's run go wrong: "nan:7", "die:7", "hang:7" at that forward pass; "data", "code", ..."""
    from lxmert_fast.models import LxmertForPreTraining
    from lxmert_fast.train import same

    kind, _, when = fault.partition(":")
    forward, calls = LxmertForPreTraining.forward, 0

    def faulty(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += self.training
        if self.training and calls == int(when):
            if kind == "die":
                os.kill(os.getpid(), 9)
            if kind == "hang":
                time.sleep(3600)
            kwargs["visual_feats"] = kwargs["visual_feats"] * float("nan" if kind == "nan" else 1e6)
        return forward(self, *args, **kwargs)

    if kind == "code":
        same.source_digest = lambda: "another"
    elif kind == "clock":
        clock = time.time
        time.time = lambda: clock() + 3600.0
    elif when:
        LxmertForPreTraining.forward = faulty  # type: ignore[method-assign]


if __name__ == "__main__":
    if os.environ.get("FAULT_RANK", "0") == os.environ.get("RANK", "0") and os.environ.get("FAULT"):
        _install(os.environ["FAULT"])
    from lxmert_fast.cli import main

    sys.argv = ["lxmert-fast", "pretrain", *sys.argv[1:]]
    main()
