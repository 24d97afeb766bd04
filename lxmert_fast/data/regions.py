"""Read regions: any number of region files as one table of images, in constant memory.

HDF5 is asked once, at opening, where the datasets lie; after that images are read with `preadv`, which moves
neighbouring images with one call a dataset, needs no lock and shares no position, so a store may be used from
threads and inherited by forked workers. Memory-mapping would be as fast, but a mapped file counts towards the
process's resident memory as it is read, and a file that shrinks kills the process instead of raising.
HDF5's own locks are left alone: network disks refuse them, and hundreds of readers need none. Held in memory:
33 bytes an image, and the image ids (`image_ids`) once they are asked for.

`RegionWriter` writes these files; `region_format` describes them.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from lxmert_fast.data.image_ids import ImageIds
from lxmert_fast.data.region_format import (
    BOX_COLUMNS,
    FEATURE_DTYPES,
    FORMAT,
    FORMAT_VERSION,
    SMALL_COLUMNS,
    ImageRegions,
    Mark,
    checksum,
    find_fault,
)
from lxmert_fast.data.region_writer import RegionWriter
from lxmert_fast.errors import InputError

__all__ = ["RegionStore", "RegionWriter", "Regions"]

#: Buffers a `preadv` takes (Linux IOV_MAX is 1024), and bytes it moves (Linux stops just below 2 GiB).
_RUN_IMAGES = 512
_RUN_BYTES = 1 << 30


@dataclass(frozen=True)
class Regions:
    """Regions of I images, padded with zeros to the largest number of boxes O among them.

    features (I, O, F) float16 or float32, as stored; boxes (I, O, 4) float32, (x1/W, y1/H, x2/W, y2/H), which
    the original and this package keep within 1e-5 of [0, 1]; counts (I,) int64; object_ids and attribute_ids
    (I, O) int64; object_confidences and attribute_confidences (I, O) float32; sizes (I, 2) int64, (width,
    height) in pixels.
    """

    features: np.ndarray
    boxes: np.ndarray
    counts: np.ndarray
    object_ids: np.ndarray
    object_confidences: np.ndarray
    attribute_ids: np.ndarray
    attribute_confidences: np.ndarray
    sizes: np.ndarray

    @property
    def mask(self) -> np.ndarray | None:
        """(I, O) float32, 1 for a box and 0 for padding; None when every image has O boxes."""
        objects = self.features.shape[1]
        if (self.counts == objects).all():
            return None
        return (np.arange(objects) < self.counts[:, None]).astype(np.float32)


class RegionStore:
    """The images of one or several region files, in the order of the files.

    Opened at first use, so building one is free and it pickles as its paths: a spawned worker opens its own.
    Opening raises `InputError`, in one line, for a file that is missing, empty, not HDF5, truncated, not a
    region file, of a newer version or incomplete, for files that differ in feature size or type, and for an
    image id that occurs twice.
    """

    def __init__(self, *paths: str | Path) -> None:
        if not paths:
            raise InputError("no region file was named, wanted at least one .h5 file")
        self.paths = tuple(Path(path) for path in paths)

    def __reduce__(self) -> tuple[type[RegionStore], tuple[Path, ...]]:
        return type(self), self.paths

    @cached_property
    def _files(self) -> list[_RegionFile]:
        files: list[_RegionFile] = []
        try:
            for path in self.paths:
                files.append(_RegionFile(path))
                for what in ("feature_size", "dtype"):
                    found, wanted = getattr(files[-1], what), getattr(files[0], what)
                    if found != wanted:
                        raise InputError(
                            f"{path}: found {what.replace('_', ' ')} {found}, "
                            f"wanted {wanted} as in {files[0].path}"
                        )
            _require_distinct_ids(files)
        except InputError:
            for file in files:
                file.close()
            raise
        return files

    @cached_property
    def _starts(self) -> np.ndarray:
        """(files + 1,) the first row of each file, then the number of rows."""
        return np.cumsum([0] + [len(file.images) for file in self._files])

    @cached_property
    def _counts(self) -> np.ndarray:
        return np.concatenate([file.counts for file in self._files])

    @cached_property
    def image_ids(self) -> ImageIds:
        """I ids in file order."""
        return ImageIds(np.concatenate([file.image_ids() for file in self._files]))

    @cached_property
    def _distinct_ids(self) -> ImageIds:
        twice = self.image_ids.repeated()
        if twice:
            raise InputError(
                f"{self._names}: image id {self.image_ids[twice[0]]!r} occurs twice, wanted once"
            )
        return self.image_ids

    @property
    def _names(self) -> str:
        return ", ".join(str(path) for path in self.paths)

    @property
    def feature_size(self) -> int:
        """F."""
        return self._files[0].feature_size

    @property
    def dtype(self) -> np.dtype:
        """The stored feature type, float16 or float32."""
        return self._files[0].dtype

    @property
    def max_objects(self) -> int:
        """The largest number of boxes an image has."""
        return int(self._counts.max(initial=0))

    @property
    def counts(self) -> np.ndarray:
        """(I,) int64 boxes an image."""
        return self._counts

    @property
    def num_objects(self) -> int:
        """Object classes: ids are below this."""
        return max(file.num_objects for file in self._files)

    @property
    def num_attributes(self) -> int:
        """Attribute classes: ids are below this."""
        return max(file.num_attributes for file in self._files)

    @property
    def attributes(self) -> list[dict[str, Any]]:
        """The root attributes of each file."""
        return [file.attributes for file in self._files]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __contains__(self, image_id: object) -> bool:
        return self._distinct_ids.find(image_id) is not None

    def row(self, image_id: str) -> int:
        """The row of an image. Raises `InputError` naming the id and the files when there is none."""
        row = self._distinct_ids.find(image_id)
        if row is None:
            raise InputError(f"{self._names}: no regions for image {image_id!r}")
        return row

    def rows(self, image_ids: Iterable[str]) -> np.ndarray:
        """(n,) int64 rows of images, in the order asked. Raises like `row`."""
        return np.array([self.row(image_id) for image_id in image_ids], np.int64)

    def read(self, rows: np.ndarray) -> Regions:
        """The regions of `rows` (I,), any order, repeats allowed.

        Checksums are not compared (`verify` does): that takes three times as long as the reading. Classes are
        looked at, because one outside its range stops a model without a word about its image.

        Raises:
            IndexError: a row outside.
            InputError: bytes that can't be read, a class outside its range; names file, row and image.
        """
        rows = np.asarray(rows, np.int64).reshape(-1)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} wanted of a store of {len(self)} images")
        counts = self._counts[rows]
        objects = int(counts.max(initial=0))
        allocate = np.empty if (counts == objects).all() else np.zeros
        columns = {"features": allocate((len(rows), objects, self.feature_size), self.dtype)}
        for name, (dtype, numbers) in SMALL_COLUMNS.items():
            shape = (len(rows), objects, numbers) if numbers > 1 else (len(rows), objects)
            columns[name] = allocate(shape, dtype)
        sizes = np.empty((len(rows), 2), np.int64)

        # File order: neighbours become one read, and a cold disk is read forwards.
        order = np.argsort(rows, kind="stable")
        which = np.searchsorted(self._starts, rows[order], side="right") - 1
        for index in np.unique(which):
            file = self._files[index]
            places = order[which == index]
            local = rows[places] - self._starts[index]
            sizes[places] = file.sizes[local]
            try:
                file.read_into(local, places, columns)
            except InputError:
                self._name_unreadable(rows[places])
                raise
        self._require_classes(rows, columns)
        columns["boxes"] /= np.tile(sizes, 2)[:, None].astype(np.float32)
        return Regions(
            features=columns["features"],
            boxes=columns["boxes"],
            counts=counts,
            object_ids=columns["object_ids"].astype(np.int64),
            object_confidences=columns["object_confidences"],
            attribute_ids=columns["attribute_ids"].astype(np.int64),
            attribute_confidences=columns["attribute_confidences"],
            sizes=sizes,
        )

    def features_at(self, rows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Features (n, F) of single boxes: number `boxes[k]` of the image in row `rows[k]`, both (n,)."""
        found = np.empty((len(rows), self.feature_size), self.dtype)
        which = np.searchsorted(self._starts, rows, side="right") - 1
        for place, (index, row, box) in enumerate(zip(which, rows, boxes, strict=True)):
            try:
                self._files[index].read_feature(int(row - self._starts[index]), int(box), found[place])
            except InputError:
                self._name_unreadable(np.array([row]))
                raise
        return found

    def _name_unreadable(self, rows: np.ndarray) -> None:
        """Reads each alone, and raises `InputError` with the name of the first that fails."""
        for row in np.unique(rows).tolist():
            index = int(np.searchsorted(self._starts, row, side="right")) - 1
            local = row - int(self._starts[index])
            try:
                self._files[index].columns(local)
            except InputError as error:
                raise InputError(f"{error} in row {local + 1}, image {self._id_of(row)}") from error

    def _id_of(self, row: int) -> str:
        try:
            return repr(self.image_ids[row])
        except InputError:  # they lie at the end of the file, which a shorter one has lost
            return "unknown"

    def _require_classes(self, rows: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
        limits = {"object_ids": self.num_objects, "attribute_ids": self.num_attributes}
        for name, limit in limits.items():
            ids = columns[name]
            if ids.size and not 0 <= ids.min() <= ids.max() < limit:
                row = int(rows[((ids < 0) | (ids >= limit)).any(1)][0])
                try:
                    self.verify(row)
                except InputError as error:
                    names = "`lxmert-fast features check` names all such images"
                    raise InputError(f"{error}; {names}") from error

    def __getitem__(self, image_id: str) -> Regions:
        """The regions of one image (I = 1)."""
        return self.read(np.array([self.row(image_id)]))

    def image(self, row: int) -> ImageRegions:
        """One image as the detector gave it: boxes in pixels, no padding."""
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._files[index].image(row - int(self._starts[index]))

    def verify(self, row: int) -> None:
        """Raises `InputError`, naming file and image, when its bytes or its values are damaged."""
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        self._files[index].verify(row - int(self._starts[index]))

    def faults(self) -> Iterator[str | None]:
        """Verifies every image: for each in turn None, or the line that says what is wrong with it."""
        for row in range(len(self)):
            try:
                self.verify(row)
                yield None
            except InputError as error:
                yield str(error)

    def close(self) -> None:
        """Closes the files; the next use opens them again."""
        for file in self.__dict__.get("_files", ()):
            file.close()
        for name in ("_files", "_starts", "_counts", "image_ids", "_distinct_ids"):
            self.__dict__.pop(name, None)

    def __enter__(self) -> RegionStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _require_distinct_ids(files: list[_RegionFile]) -> None:
    if len(files) == 1:
        return
    ids = ImageIds(np.concatenate([file.image_ids() for file in files]))
    twice = ids.repeated()
    if twice:
        ends = np.cumsum([len(file.images) for file in files])
        first, second = (files[index].path for index in np.searchsorted(ends, twice, side="right"))
        raise InputError(f"{second}: image id {ids[twice[0]]!r} is also in {first}")


class _RegionFile:
    """One open region file. Rows are those of its complete images; `images` maps them to stored places."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise InputError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
        if not path.stat().st_size:
            raise InputError(f"{path}: the file is empty, wanted a region file")
        try:
            is_hdf5 = h5py.is_hdf5(path)
        except (OSError, RuntimeError):
            is_hdf5 = False
        if not is_hdf5:
            raise InputError(f"{path}: not an HDF5 file, wanted a region file")
        try:
            # Read-only and immutable once complete: HDF5's lock would only fail on network disks.
            with h5py.File(path, "r", locking=False) as file:
                self._open(file)
        except InputError:
            raise
        except Exception as error:  # h5py reports damage as OSError, RuntimeError, KeyError or ValueError
            raise InputError(
                f"{path}: truncated or damaged HDF5 file ({' '.join(str(error).split())})"
            ) from error
        self._fd = os.open(path, os.O_RDONLY)
        self.close = weakref.finalize(self, os.close, self._fd)

    def _open(self, file: h5py.File) -> None:
        attributes: dict[str, Any] = {
            key: value.item() if isinstance(value, np.generic) else value for key, value in file.attrs.items()
        }
        if attributes.get("format") != FORMAT:
            raise InputError(
                f"{self.path}: found an HDF5 file with format {attributes.get('format')!r}, wanted {FORMAT!r}"
            )
        version = attributes.get("format_version")
        if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
            raise InputError(
                f"{self.path}: found format version {version}, this lxmert-fast reads up to {FORMAT_VERSION}"
            )
        self.attributes = attributes
        self.feature_size = self._integer("feature_size")
        self.num_objects = self._integer("num_objects")
        self.num_attributes = self._integer("num_attributes")

        total = self._check_layout(file)
        self._places = {name: file[name].id.get_offset() for name in BOX_COLUMNS}
        self._ids_place, self._ids_dtype = file["image_ids"].id.get_offset(), file["image_ids"].dtype
        marks = file["marks"][...]
        if marks.max(initial=0) > max(Mark):
            raise InputError(f"{self.path}: dataset marks: found {marks.max()}, wanted at most {max(Mark)}")
        pending = int((marks == Mark.PENDING).sum())
        if pending:
            raise InputError(
                f"{self.path}: incomplete: {pending} of {len(marks)} images were never written; "
                "run the command that wrote it again to resume"
            )
        offsets = file["offsets"][...]
        if offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 1).any():
            raise InputError(f"{self.path}: dataset offsets: wanted rising numbers from 0 to {total}")
        self.images = np.flatnonzero(marks == Mark.WRITTEN)
        self._box_starts = offsets[self.images]
        self.counts = np.diff(offsets)[self.images]
        self.sizes = file["sizes"][...][self.images]
        self._checksums = file["checksums"][...][self.images]

    def _integer(self, key: str) -> int:
        value = self.attributes.get(key)
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{self.path}: root attribute {key}: found {value!r}, wanted a positive integer")
        return value

    def _check_layout(self, file: h5py.File) -> int:
        """Every dataset has the type and shape of the format and lies inside the file; returns N."""
        self.dtype = file["features"].dtype
        if self.dtype not in FEATURE_DTYPES:
            raise InputError(f"{self.path}: dataset features: found {self.dtype}, wanted float16 or float32")
        images, total = file["marks"].shape[0], file["features"].shape[0]
        wanted: Mapping[str, tuple[np.dtype, tuple[int, ...]]] = {
            "features": (self.dtype, (total, self.feature_size)),
            **{
                name: (dtype, (total, numbers) if numbers > 1 else (total,))
                for name, (dtype, numbers) in SMALL_COLUMNS.items()
            },
            "offsets": (np.dtype("<i8"), (images + 1,)),
            "sizes": (np.dtype("<i8"), (images, 2)),
            "image_ids": (np.dtype(f"S{file['image_ids'].dtype.itemsize}"), (images,)),
            "checksums": (np.dtype("<u4"), (images,)),
            "marks": (np.dtype("u1"), (images,)),
        }
        length = self.path.stat().st_size
        for name, (dtype, shape) in wanted.items():
            data = file[name]
            if data.dtype != dtype or data.shape != shape:
                raise InputError(
                    f"{self.path}: dataset {name}: found {data.dtype} {data.shape}, wanted {dtype} {shape}"
                )
            place = data.id.get_offset()
            if place is None:
                raise InputError(
                    f"{self.path}: dataset {name}: found a chunked or compressed layout, wanted contiguous"
                )
            if place + data.nbytes > length:
                raise InputError(
                    f"{self.path}: truncated: dataset {name} ends at byte {place + data.nbytes:,}, "
                    f"the file at {length:,}"
                )
        return total

    def image_ids(self) -> np.ndarray:
        """(I,) fixed-length UTF-8."""
        width = self._ids_dtype.itemsize
        stored = int(self.images[-1]) + 1 if len(self.images) else 0
        ids = np.empty(stored, self._ids_dtype)
        self._preadv([ids.data], self._ids_place, stored * width)
        ids = ids[self.images]
        try:
            b"\n".join(ids.tolist()).decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}: dataset image_ids: {error}") from error
        return ids

    def read_into(self, rows: np.ndarray, places: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
        """Reads ascending `rows` (n,) into the entries `places` (n,) of each padded column."""
        starts, counts = self._box_starts[rows], self.counts[rows]
        bytes_a_box = {name: data.itemsize * int(np.prod(data.shape[2:])) for name, data in columns.items()}
        longest = max(1, int(counts.max(initial=1)) * max(bytes_a_box.values()))
        limit = max(1, min(_RUN_IMAGES, _RUN_BYTES // longest))
        # A run ends where the next image does not begin at the end of this one.
        breaks = np.flatnonzero(starts[1:] != starts[:-1] + counts[:-1]) + 1
        for begin, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)], strict=True):
            for first in range(begin, end, limit):
                run = slice(first, min(first + limit, end))
                images = list(zip(places[run].tolist(), counts[run].tolist(), strict=True))
                box, boxes = int(starts[first]), int(counts[run].sum())
                for name, data in columns.items():
                    size = bytes_a_box[name]
                    buffers = [data[place, :count].data for place, count in images]
                    self._preadv(buffers, self._places[name] + box * size, boxes * size)

    def read_feature(self, row: int, box: int, out: np.ndarray) -> None:
        """Reads the feature of one box into `out` (F,)."""
        if not 0 <= box < self.counts[row]:
            raise IndexError(f"box {box} wanted of an image with {self.counts[row]}")
        place = self._places["features"] + int(self._box_starts[row] + box) * out.nbytes
        self._preadv([out.data], place, out.nbytes)

    def _preadv(self, buffers: list[memoryview], place: int, wanted: int) -> None:
        if not wanted:
            return
        try:
            found = os.preadv(self._fd, buffers, place)
        except OSError as error:
            raise InputError(f"{self.path}: cannot read {wanted:,} bytes at {place:,}: {error}") from error
        if found != wanted:
            raise InputError(
                f"{self.path}: truncated: found {found:,} of {wanted:,} bytes at {place:,} "
                "(the file shrank while it was open)"
            )

    def columns(self, row: int) -> dict[str, np.ndarray]:
        """The box datasets of one image, (1, O, ...) each."""
        count = int(self.counts[row])
        columns = {"features": np.empty((1, count, self.feature_size), self.dtype)}
        for name, (dtype, numbers) in SMALL_COLUMNS.items():
            columns[name] = np.empty((1, count, numbers) if numbers > 1 else (1, count), dtype)
        self.read_into(np.array([row]), np.array([0]), columns)
        return columns

    def image(self, row: int) -> ImageRegions:
        columns = self.columns(row)
        width, height = self.sizes[row].tolist()
        return ImageRegions(
            image_id=self._image_id(row),
            width=width,
            height=height,
            **{name: data[0] for name, data in columns.items()},
        )

    def _image_id(self, row: int) -> str:
        image_id = np.empty(1, self._ids_dtype)
        width = self._ids_dtype.itemsize
        self._preadv([image_id.data], self._ids_place + int(self.images[row]) * width, width)
        return image_id[0].decode(errors="backslashreplace")

    def verify(self, row: int) -> None:
        image = self.image(row)
        place = f"{self.path}: row {row + 1}, image {image.image_id!r}"
        columns = (getattr(image, name) for name in BOX_COLUMNS)
        found = checksum(image.image_id, columns, self.sizes[row])
        if found != self._checksums[row]:
            raise InputError(
                f"{place}: damaged bytes: found checksum {found:08x}, wanted {self._checksums[row]:08x}"
            )
        fault = find_fault(image, num_objects=self.num_objects, num_attributes=self.num_attributes)
        if fault:
            raise InputError(f"{place}, {fault}")
