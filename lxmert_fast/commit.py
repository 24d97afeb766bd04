"""The commit that this code is at, where it runs from a clone."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def commit() -> dict[str, Any]:
    """id: its hash, "unknown" outside a clone; dirty: whether tracked files differ from it."""
    unknown = {"id": "unknown", "dirty": False}
    # an installed package may lie within somebody else's clone
    if not (ROOT / ".git").exists():
        return unknown
    try:
        head, changes = (
            subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return unknown
    return {"id": head.strip(), "dirty": bool(changes.strip())}
