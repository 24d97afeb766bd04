"""Checkpoints on disk: whole or not there, and found again whatever happened.

    checkpoints/step_00000200/
        manifest.json            who wrote it; size and checksum of every file; where each range lies
        rank_00000.safetensors   a rank's ranges of the weights and the optimizer, its random states
        run.pt                   counters, schedule, loss scale, position in the data
    checkpoints/latest           the name of the newest

Every rank writes its file into a folder beside; when all are on the disk, rank 0 adds the manifest, renames
the folder and replaces `latest` last. A kill at any moment leaves the checkpoint before it. All ranks see one
file system.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lxmert_fast
from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_text, save_tensors, sync

from .checkpoint_writer import BackgroundWriter, seal, write_json, write_tensors
from .ranks import Ranks

LATEST = "latest"
MANIFEST = "manifest.json"
RUN_STATE = "run.pt"
FORMAT = 1
_KEYS = ("update", "num_ranks", "layout", "files", "ranges")
_PARTIAL = ".partial"
_POLL = 0.05
_SEEN_AFTER = 30.0


def shard_name(rank: int) -> str:
    """The file of a rank."""
    return f"rank_{rank:05d}.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def num_ranks(self) -> int:
        """How many ranks wrote it."""
        return int(self.manifest["num_ranks"])

    @property
    def layout(self) -> str:
        """How the ranks had cut the parameters."""
        return str(self.manifest["layout"])

    def run_state(self) -> dict[str, Any]:
        """What is not a tensor of the model or the optimizer."""
        return torch.load(self.folder / RUN_STATE, map_location="cpu", weights_only=True)

    def damage(self, files: list[str]) -> str | None:
        """What is wrong with some of its files, None if nothing is."""
        for name in files:
            wanted, path = self.manifest["files"].get(name), self.folder / name
            if wanted is None:
                return f"{path}: not in its manifest"
            if not path.is_file():
                return f"{path}: missing"
            if path.stat().st_size != wanted["bytes"]:
                return f"{path}: {path.stat().st_size} bytes, its manifest says {wanted['bytes']}"
            found = seal(path)
            if found != wanted:
                return f"{path}: checksum {found['crc32']:08x}, its manifest says {wanted['crc32']:08x}"
        return None


class CheckpointFolder:
    """The checkpoints of a run, the `keep` newest of them.

    Args:
        folder: of the run's checkpoints.
        ranks: all of them call every method.
        keep: how many stay.
    """

    def __init__(self, folder: Path, ranks: Ranks | None = None, *, keep: int = 2) -> None:
        self.folder = folder
        self.ranks = ranks or Ranks()
        self.keep = keep
        self.writer = BackgroundWriter()

    def save(
        self,
        update: int,
        tensors: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        state: dict[str, Any],
        *,
        layout: str,
    ) -> Path:
        """Begin to write a checkpoint; it is there when `wait` returns, or at the next `save`.

        Args:
            update: how many there have been; names the checkpoint.
            tensors: this rank's; copied before this returns.
            facts: about them, JSON (see `shards.collect`).
            state: of the run, kept from rank 0.
            layout: how the parameters are cut, in a word.

        Raises:
            InputError: the checkpoint before, or the folder of this one, cannot be written.
        """
        self.wait()
        path = self.folder / f"step_{update:08d}"
        partial = self.folder / f".{path.name}{_PARTIAL}"
        problem = None
        if self.ranks.first:
            try:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            except OSError as error:
                problem = f"{partial}: cannot be made ({error.strerror or error})"
        self.ranks.all_or_none(problem)
        self.ranks.all_or_none(
            None
            if _comes(partial)
            else f"{partial}: made by rank 0 and not seen here; "
            "wanted run.output on a file system that all ranks share"
        )
        copies = self.writer.snapshot(tensors)
        name = shard_name(self.ranks.rank)

        def write() -> None:
            try:
                files = {name: write_tensors(partial / name, copies, facts)}
                if self.ranks.first:
                    save_tensors(partial / RUN_STATE, state)
                    files[RUN_STATE] = seal(partial / RUN_STATE)
                done = {"files": files, "starts": facts["starts"], "sizes": _sizes(copies)}
                write_json(partial / f"{name}.json", done)
            except (InputError, OSError):
                if partial.is_dir():  # else it was another rank that failed, and took the folder away
                    shutil.rmtree(partial, ignore_errors=True)
                    raise
            if self.ranks.first:
                self._publish(partial, path, update, layout)

        self.writer.start(write)
        return path

    def wait(self) -> None:
        """Until the checkpoint that is being written is there, on every rank.

        Raises:
            InputError: on every rank, what one of them could not write. What was written of it is removed.
        """
        problem = None
        try:
            self.writer.wait()
        except (InputError, OSError) as error:
            problem = str(error)
        self.ranks.all_or_none(problem)

    def clear_partial(self) -> None:
        """Remove what a run that died while writing has left."""
        for partial in self.folder.glob(f".*{_PARTIAL}"):
            shutil.rmtree(partial, ignore_errors=True)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint without damage, None where there is none at all.

        Each rank reads what it wrote itself; where there are other ranks than then, they share the files.
        A damaged checkpoint is reported as a warning, and the one before it is used.

        Raises:
            InputError: there are checkpoints, and all are damaged.
        """
        names, problem = self.ranks.from_first(self._names_or_problem() if self.ranks.first else None)
        if problem:
            raise InputError(problem)
        for name in names:
            checkpoint, problem = self._open(self.folder / name)
            if checkpoint is not None:
                problem = checkpoint.damage(self._share(checkpoint))
            problems = [found for found in self.ranks.gather(problem) if found]
            if not problems:
                return checkpoint
            if self.ranks.first:
                warnings.warn(f"damaged checkpoint passed over: {problems[0]}", stacklevel=2)
        if names:
            raise InputError(f"{self.folder}: none of its {len(names)} checkpoints can be read")
        return None

    def last(self) -> Path | None:
        """Where the newest finished one lies, None without any; `newest` says whether it is whole."""
        names = self._names()
        return self.folder / names[0] if names else None

    def _share(self, checkpoint: Checkpoint) -> list[str]:
        files = sorted(checkpoint.manifest["files"])
        if checkpoint.num_ranks == self.ranks.size:
            return [RUN_STATE, shard_name(self.ranks.rank)]
        return files[self.ranks.rank :: self.ranks.size]

    def _names(self) -> list[str]:
        """Newest first: the one that `latest` names before all others."""
        if not self.folder.is_dir():
            return []
        old = sorted(file.name for file in self.folder.glob("step_*.pt"))
        if old:
            raise InputError(
                f"{self.folder / old[-1]}: a checkpoint of an earlier version, which this one can't read; "
                "finish the run with that version, or start a new one from its `best` or `last`"
            )
        names = sorted(
            (path.name for path in self.folder.glob("step_*") if path.is_dir()),
            reverse=True,
        )
        named = latest_name(self.folder)
        if named in names:
            names.remove(named)
            names.insert(0, named)
        return names

    def _names_or_problem(self) -> tuple[list[str], str | None]:
        try:
            return self._names(), None
        except InputError as error:
            return [], str(error)

    def _open(self, folder: Path) -> tuple[Checkpoint | None, str | None]:
        try:
            return open_checkpoint(folder), None
        except InputError as error:
            return None, str(error)

    def _publish(self, partial: Path, path: Path, update: int, layout: str) -> None:
        parts = [partial / f"{shard_name(rank)}.json" for rank in range(self.ranks.size)]
        while not all(part.is_file() for part in parts):
            if not partial.is_dir():  # a rank could not write; it says so in `wait`
                return
            time.sleep(_POLL)
        told = [json.loads(part.read_text(encoding="utf-8")) for part in parts]
        manifest = {
            "format": FORMAT,
            "update": update,
            "num_ranks": self.ranks.size,
            "layout": layout,
            "files": {name: seals for part in told for name, seals in part["files"].items()},
            "ranges": [{"starts": part["starts"], "sizes": part["sizes"]} for part in told],
            "written_by": {
                "lxmert_fast": lxmert_fast.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
        write_json(partial / MANIFEST, manifest)
        for part in parts:
            part.unlink()
        while path.exists():  # by a run that was killed after this update, or rolled back, and is here again
            path = path.with_name(f"{path.name}.again")
        partial.rename(path)
        sync(self.folder)
        replace_text(self.folder / LATEST, path.name + "\n")
        for old in [name for name in self._names() if name != path.name][self.keep - 1 :]:
            shutil.rmtree(self.folder / old, ignore_errors=True)


def latest_name(folder: Path) -> str | None:
    """What `latest` of a run's checkpoints says; None without it."""
    latest = folder / LATEST
    return latest.read_text(encoding="utf-8").strip() if latest.is_file() else None


def open_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint by its folder; its files are not read yet.

    Raises:
        InputError: no manifest, a damaged one, or one of another version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder}: no checkpoint, it has no {MANIFEST}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({' '.join(str(error).split())[:80]})") from None
    if version != FORMAT:
        raise InputError(f"{path}: format {version}, this version reads {FORMAT}")
    missing = [key for key in _KEYS if key not in manifest]
    if missing:
        raise InputError(f"{path}: damaged (lacks {', '.join(missing)})")
    return Checkpoint(folder, manifest)


def _comes(folder: Path) -> bool:
    """Whether a folder is there, or will be: a network file system may show it seconds later."""
    until = time.monotonic() + _SEEN_AFTER
    while not folder.is_dir():
        if time.monotonic() > until:
            return False
        time.sleep(_POLL)
    return True


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: x.numel() for name, x in tensors.items()}


def publish_folder(link: Path, step: int, write: Callable[[Path], None]) -> Path:
    """Write a folder `<link>-<step>` with `write(folder)`, then swing the symbolic link `link` to it.

    Readers of `link` see the old folder or the new one, never half of one; the old one is removed.
    """
    target = link.with_name(f"{link.name}-{step:08d}")
    while target.exists():  # left by a run that was killed after this step and has come here again
        target = target.with_name(f"{target.name}.again")
    beside = link.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        write(beside)
        for file in beside.iterdir():
            sync(file)
        beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    swing = link.with_name(f".{link.name}.link")
    swing.unlink(missing_ok=True)
    swing.symlink_to(target.name)
    swing.replace(link)
    sync(link.parent)
    for old in link.parent.glob(f"{link.name}-*"):
        if old.name != target.name:
            shutil.rmtree(old, ignore_errors=True)
    return link
