"""Write region files so that a kill, a full disk or a power cut loses nothing that was finished.

The work happens in `OUT.h5.partial`. Creating it writes and syncs all HDF5 metadata, the image ids and the
box offsets, and reserves the disk space; from then on only raw bytes at fixed places change. Images are
written data first; after every `sync_every` images the data is synced and only then are the images marked.
When every image is marked the file is synced and renamed to `OUT.h5`, so that name never holds half a file.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from lxmert_fast.data.region_format import (
    BOX_COLUMNS,
    FEATURE_DTYPES,
    FORMAT,
    FORMAT_VERSION,
    SMALL_COLUMNS,
    ImageRegions,
    Mark,
    checksum,
)
from lxmert_fast.errors import InputError
from lxmert_fast.files import lock, sync

_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
#: HDF5's own records: a few kilobytes in practice.
_METADATA_BYTES = 1 << 16


class RegionWriter:
    """Writes one region file; opening it again with the same source resumes where it stopped.

    Args:
        path: the finished file; the work is done in `path` + ".partial".
        image_ids: I distinct ids in file order. counts: (I,) boxes an image.
        feature_size: F. dtype: float16 or float32, the type features are stored in.
        num_objects, num_attributes: class counts, stored for those who read the file.
        source: what the regions are made from, in words. fingerprint: a digest of it; a partial file is
            resumed only when its fingerprint, ids and counts are these.
        attributes: further root attributes.
        overwrite: replace an existing `path` (it stays untouched until the new file is complete).
        sync_every: images between two syncs, which is the most that a power cut can lose.

    Raises:
        InputError: `path` exists, its folder does not, the partial file belongs to another source or another
            process, or the disk is full (the message gives bytes wanted and bytes free).

    As a context manager it finishes the file on a clean exit and keeps the partial file on an exception.
    """

    def __init__(
        self,
        path: str | Path,
        image_ids: Sequence[str],
        counts: np.ndarray,
        *,
        feature_size: int,
        dtype: Any = np.float16,
        num_objects: int,
        num_attributes: int,
        source: str,
        fingerprint: str,
        attributes: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        sync_every: int = 256,
    ) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self._ids = image_ids
        self._offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype("<i8")
        self._feature_size = feature_size
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._sync_every = sync_every
        self._unsynced: list[int] = []
        self._fd: int | None = None
        if self._dtype not in FEATURE_DTYPES:
            raise InputError(f"{self.path}: found feature type {self._dtype}, wanted float16 or float32")
        require_writable(self.path, overwrite)
        root = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "feature_size": feature_size,
            "num_objects": num_objects,
            "num_attributes": num_attributes,
            "source": source,
            "fingerprint": fingerprint,
            **(attributes or {}),
        }
        if not len(image_ids) or len(set(image_ids)) != len(image_ids):
            raise InputError(f"{self.path}: found no or repeated image ids, wanted distinct ones")
        self.resumed = self.partial.exists()
        if not self.resumed:
            self._create(root)
        self._open(root)

    def _layout(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        images, total = len(self._ids), int(self._offsets[-1])
        width = max((len(image_id.encode()) for image_id in self._ids), default=1)
        layout: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
            "features": (self._dtype, (total, self._feature_size))
        }
        for name, (dtype, numbers) in SMALL_COLUMNS.items():
            layout[name] = (dtype, (total, numbers) if numbers > 1 else (total,))
        layout["offsets"] = (np.dtype("<i8"), (images + 1,))
        layout["sizes"] = (np.dtype("<i8"), (images, 2))
        layout["image_ids"] = (np.dtype(f"S{width}"), (images,))
        layout["checksums"] = (np.dtype("<u4"), (images,))
        layout["marks"] = (np.dtype("u1"), (images,))
        return layout

    def _create(self, root: Mapping[str, Any]) -> None:
        layout = self._layout()
        wanted = _METADATA_BYTES + sum(
            dtype.itemsize * int(np.prod(shape)) for dtype, shape in layout.values()
        )
        scratch = self.partial.with_name(self.partial.name + ".new")
        try:
            # Tried before HDF5 sees the file: HDF5 cannot back out of a write that fails half way.
            _reserve(scratch, wanted)
            with h5py.File(
                scratch, "w", libver="v110", alignment_threshold=4096, alignment_interval=4096
            ) as file:
                file.attrs.update(root)
                for name, (dtype, shape) in layout.items():
                    _contiguous(file, name, dtype, shape)
                file["offsets"][...] = self._offsets
                file["image_ids"][...] = np.array([image_id.encode() for image_id in self._ids], "S")
                file["marks"][...] = np.zeros(len(self._ids), np.uint8)
            _reserve(scratch, scratch.stat().st_size)
            # Only a file whose metadata is on disk may carry the name that is resumed from.
            sync(scratch)
            os.replace(scratch, self.partial)
            sync(self.partial.parent)
        except OSError as error:
            scratch.unlink(missing_ok=True)
            raise disk_error(self.partial, error, wanted) from error
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise

    def _open(self, root: Mapping[str, Any]) -> None:
        try:
            self._fd = os.open(self.partial, os.O_RDWR)
            lock(self._fd, self.partial)
            # HDF5 would ask for a lock of its own and find ours.
            with h5py.File(self.partial, "r", locking=False) as file:
                self._require_same_source(file, root)
                self._places = {name: file[name].id.get_offset() for name in self._layout()}
                self._marks = file["marks"][...]
        except (OSError, KeyError, RuntimeError) as error:
            self.close()
            raise InputError(
                f"{self.partial}: cannot be resumed ({_one_line(error)}); delete it to start again"
            ) from error
        except BaseException:
            self.close()
            raise

    def _require_same_source(self, file: h5py.File, root: Mapping[str, Any]) -> None:
        for key, wanted in root.items():
            found = file.attrs.get(key)
            # The words may name a file that has since moved; the fingerprint tells whether it changed.
            if key != "source" and not np.array_equal(found, wanted):
                raise InputError(
                    f"{self.partial}: was begun with another source or other settings ({key}: found "
                    f"{found!r}, now {wanted!r}); delete it to start again, or name another output file"
                )
        for name, (dtype, shape) in self._layout().items():
            if file[name].dtype != dtype or file[name].shape != shape:
                raise InputError(
                    f"{self.partial}: was begun with another source or other settings ({name}: found "
                    f"{file[name].shape} {file[name].dtype}, now {shape} {dtype}); delete it to start again"
                )

    @property
    def pending(self) -> np.ndarray:
        """(n,) int64: rows still to be written, in order. Rejected rows count: their source may be mended."""
        return np.flatnonzero(self._marks != Mark.WRITTEN)

    def write(self, row: int, image: ImageRegions) -> None:
        """Writes the regions of image `row`. Values are not checked here (see `find_fault`), shapes are."""
        start, stop = int(self._offsets[row]), int(self._offsets[row + 1])
        size = np.array([image.width, image.height], "<i8")
        columns = []
        for name in BOX_COLUMNS:
            dtype, shape = self._column(name, stop - start)
            column = np.ascontiguousarray(getattr(image, name), dtype)
            if column.shape != shape or image.image_id != self._ids[row]:
                raise ValueError(
                    f"row {row} of {self.path} is {self._ids[row]!r} with {name} {shape}, "
                    f"got {image.image_id!r} with {column.shape}"
                )
            columns.append(column)
        for name, column in zip(BOX_COLUMNS, columns, strict=True):
            width = column.nbytes // max(stop - start, 1)
            self._put(name, start * width, column)
        self._put("sizes", row * size.nbytes, size)
        self._put("checksums", row * 4, np.array([checksum(image.image_id, columns, size)], "<u4"))
        self._unsynced.append(row)
        if len(self._unsynced) >= self._sync_every:
            self.sync()

    def reject(self, row: int) -> None:
        """Marks image `row` as bad: the finished file leaves it out."""
        self._marks[row] = Mark.REJECTED
        self._put("marks", row, self._marks[row : row + 1])

    def sync(self) -> None:
        """Brings the images written so far to disk, then marks them."""
        if not self._unsynced:
            return
        self._fsync()
        self._marks[self._unsynced] = Mark.WRITTEN
        first, last = min(self._unsynced), max(self._unsynced)
        self._put("marks", first, self._marks[first : last + 1])
        self._unsynced.clear()

    def finish(self) -> None:
        """Marks what is left and gives the file its name; `ValueError` when images are missing."""
        self.sync()
        missing = int((self._marks == Mark.PENDING).sum())
        if missing:
            raise ValueError(f"{self.partial}: {missing} of {len(self._ids)} images were never written")
        self._fsync()
        os.replace(self.partial, self.path)
        sync(self.path.parent)
        self.close()

    def close(self) -> None:
        """Lets go of the file; what was synced stays marked in the partial file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> RegionWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.finish()
            elif not (isinstance(error, InputError) and isinstance(error.__cause__, OSError)):
                # A disk that refused the data would refuse the marks as well.
                self.sync()
        finally:
            self.close()

    def _column(self, name: str, boxes: int) -> tuple[np.dtype, tuple[int, ...]]:
        if name == "features":
            return self._dtype, (boxes, self._feature_size)
        dtype, numbers = SMALL_COLUMNS[name]
        return dtype, (boxes, numbers) if numbers > 1 else (boxes,)

    def _put(self, name: str, place: int, values: np.ndarray) -> None:
        if not values.size:
            return
        assert self._fd is not None, "the writer is closed"
        data = values.data.cast("B")
        place += self._places[name]
        try:
            while data:
                written = os.pwrite(self._fd, data, place)
                data, place = data[written:], place + written
        except OSError as error:
            raise disk_error(self.partial, error, len(data)) from error

    def _fsync(self) -> None:
        assert self._fd is not None, "the writer is closed"
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise disk_error(self.partial, error, 0) from error


def require_writable(path: str | Path, overwrite: bool) -> None:
    """Raises `InputError` when `path` exists (unless `overwrite`) or its folder does not."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder, wanted the name of a file")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already, wanted a new file (or permission to overwrite)")
    if not path.parent.is_dir():
        raise InputError(f"{path}: folder {path.parent} does not exist")


def _contiguous(file: h5py.File, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """An unfilled contiguous dataset that has its place in the file from the start."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    # Creation times would make two conversions of one source differ.
    properties.set_obj_track_times(False)
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype), space, properties)


def _reserve(path: Path, size: int) -> None:
    """Gives `path` disk blocks for `size` bytes, or raises `OSError`."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        elif size > shutil.disk_usage(path).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)


def disk_error(path: Path, error: OSError, wanted: int) -> InputError:
    """The line about a file that can't be written; where the disk is full, bytes `wanted` and bytes free."""
    if error.errno in _FULL:
        free = shutil.disk_usage(path.parent).free
        limit = "" if error.errno == errno.ENOSPC else " (a limit on file size or a quota is in force)"
        return InputError(f"{path}: no room to write: {wanted:,} bytes wanted, {free:,} bytes free{limit}")
    return InputError(f"{path}: cannot write: {_one_line(error)}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
