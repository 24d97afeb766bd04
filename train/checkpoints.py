"""Checkpoints on disk: whole or not there.

A checkpoint is one file, written beside its place, flushed to the disk and renamed; `latest` is replaced
last. A kill at any moment leaves the checkpoint before it. A model folder (`best`, `last`) is a link that
is swung to a finished folder.
"""

from __future__ import annotations

import os
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_file, save_tensors, sync

LATEST = "latest"


def write_checkpoint(folder: Path, tag: str, state: dict[str, Any], keep: int) -> Path:
    """Write `folder/tag.pt`, point `latest` to it and remove all but the `keep` newest."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{tag}.pt"
    save_tensors(path, state)
    replace_file(folder / LATEST, lambda beside: beside.write_text(path.name + "\n", encoding="utf-8"))
    for old in _newest_first(folder)[keep:]:
        if old != path:
            old.unlink()
    return path


def read_checkpoint(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """The newest checkpoint that can be read, and its content; (None, {}) where the folder has none.

    A damaged one is reported as a warning and the one before it is used.

    Raises:
        InputError: there are checkpoints, and not one is readable.
    """
    candidates = _newest_first(folder)
    named = (
        folder / (folder / LATEST).read_text(encoding="utf-8").strip()
        if (folder / LATEST).is_file()
        else None
    )
    if named in candidates:
        candidates.remove(named)
        candidates.insert(0, named)
    for path in candidates:
        try:
            return path, torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"{path}: damaged checkpoint passed over: {reason}", stacklevel=2)
    if candidates:
        raise InputError(f"{folder}: none of its {len(candidates)} checkpoints can be read")
    return None, {}


def publish_folder(link: Path, step: int, write: Callable[[Path], None]) -> Path:
    """Write a folder `<link>-<step>` with `write(folder)`, then swing the symbolic link `link` to it.

    Readers of `link` see the old folder or the new one, never half of one; the old one is removed.
    """
    target = link.with_name(f"{link.name}-{step:08d}")
    while target.exists():  # left by a run that was killed after this step and has come here again
        target = target.with_name(f"{target.name}.again")
    beside = link.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    write(beside)
    for file in beside.iterdir():
        sync(file)
    beside.rename(target)
    swing = link.with_name(f".{link.name}.link")
    swing.unlink(missing_ok=True)
    swing.symlink_to(target.name)
    swing.replace(link)
    sync(link.parent)
    for old in link.parent.glob(f"{link.name}-*"):
        if old.name != target.name:
            shutil.rmtree(old, ignore_errors=True)
    return link


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pt"), key=lambda path: path.name, reverse=True)
