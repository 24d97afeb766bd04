"""Region files on the node's own disk: copied once a node, by whichever of its processes comes first.

Hundreds of readers of one file on a network disk share its bandwidth, and read images in random order, which
it likes least. One pass over the file, front to back, moves that to the node.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from lxmert_fast.commands.progress import Advance, progress
from lxmert_fast.data.region_writer import disk_error
from lxmert_fast.errors import InputError
from lxmert_fast.files import sync

_CHUNK = 16 << 20


def copy_to_node(paths: Sequence[str | Path], folder: str | Path) -> list[Path]:
    """Copies of `paths` in `folder`, in their order; to be called by every process of the node, at any time.

    A lock in the folder lets one copy while the others wait. A copy that is there already and has the size
    and the modification time of its source is taken as it is; one that differs is made anew. A copy has its
    name only once it is whole and on the disk; what a killed run left half-written is removed.

    Args:
        paths: files of any kind; two of the same name from different folders are told apart.
        folder: on the node's disk, made where it is missing.

    Raises:
        InputError: a file that is missing, or changes while it is copied; a disk with too little room (bytes
            wanted and free, before anything is copied); a folder that can't be written.
    """
    from filelock import FileLock

    folder = Path(folder)
    sources = [Path(path).absolute() for path in paths]
    for source in sources:
        if not source.is_file():
            raise InputError(f"{source}: no such file, wanted one to copy to {folder}")
    targets = [folder / _name(source) for source in sources]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".copying.lock"):
            pairs = zip(sources, targets, strict=True)
            missing = {source: target for source, target in pairs if not _same(source, target)}
            if missing:
                _copy_all(missing, folder)
    except OSError as error:
        raise disk_error(folder, error, 0) from error
    return targets


def _name(source: Path) -> str:
    return f"{source.stem}-{hashlib.sha256(os.fsencode(source)).hexdigest()[:12]}{source.suffix}"


def _same(source: Path, target: Path) -> bool:
    if not target.is_file():
        return False
    one, other = source.stat(), target.stat()
    return (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


def _copy_all(missing: dict[Path, Path], folder: Path) -> None:
    for target in missing.values():
        target.unlink(missing_ok=True)
        _partial(target).unlink(missing_ok=True)
    wanted, free = sum(source.stat().st_size for source in missing), shutil.disk_usage(folder).free
    if wanted > free:
        names = ", ".join(str(source) for source in missing)
        raise InputError(
            f"{folder}: no room for copies of {names}: {wanted:,} bytes wanted, {free:,} bytes free"
        )
    with progress("Copying to the node", wanted, "bytes") as advance:
        for source, target in missing.items():
            _copy(source, target, advance)
    sync(folder)


def _partial(target: Path) -> Path:
    return target.with_name(target.name + ".partial")


def _copy(source: Path, target: Path, advance: Advance) -> None:
    partial, before = _partial(target), source.stat()
    try:
        with open(source, "rb") as reader, open(partial, "wb") as writer:
            while chunk := reader.read(_CHUNK):
                writer.write(chunk)
                advance(len(chunk))
        copied, after = partial.stat().st_size, source.stat()
        if copied != before.st_size or after.st_mtime_ns != before.st_mtime_ns:
            raise InputError(
                f"{source}: changed while it was copied: found {copied:,} bytes, wanted {before.st_size:,}"
            )
        os.utime(partial, ns=(before.st_atime_ns, before.st_mtime_ns))
        sync(partial)
        partial.replace(target)
    except OSError as error:
        raise disk_error(partial, error, before.st_size) from error
    finally:
        partial.unlink(missing_ok=True)
