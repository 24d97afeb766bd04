"""What a run was started with, beside its metrics: `run.json`, written again at every start."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lxmert_fast.commit import commit
from lxmert_fast.doctor.software import version
from lxmert_fast.files import replace_text, writing

RECORD_FILE = "run.json"
PACKAGES = ("lxmert-fast", "torch", "transformers", "numpy", "triton", "deepspeed")


def write_record(folder: Path, settings: Mapping[str, Any], ranks: int, resumed_at: int) -> None:
    """Write settings, commit, versions and time.

    Raises:
        InputError: it cannot be written.
    """
    content = {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "resumed_at": resumed_at,
        "ranks": ranks,
        "commit": commit(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "settings": settings,
    }
    path = folder / RECORD_FILE
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(content, indent=2) + "\n")
