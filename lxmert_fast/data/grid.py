"""Regions without a detector: the cells of a CNN's feature map.

A picture is squeezed to S x S pixels (bicubic, aspect ratio given up so that the grid covers all of it), a
pre-trained CNN makes a feature map of it, and average pooling brings the map to rows x cols cells. A cell is
a region: its pooled vector is the feature, its rectangle in the picture the box. Grid features rival detected
regions for question answering (Jiang et al., "In Defense of Grid Features for VQA", CVPR 2020).

Object and attribute ids are PSEUDO-LABELS, recorded as such in the file: objects are k-means clusters of the
cells' features, attributes k-means clusters of the cells' colours (mean and spread of red, green and blue),
fitted with a seed on a bounded sample of the pictures. See `pseudo_labels` for the confidences.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import nn
from torch.nn import functional

from lxmert_fast.data.backbone import DEFAULT_BACKBONE, load_backbone
from lxmert_fast.data.pseudo_labels import Clusters
from lxmert_fast.data.region_format import ImageRegions
from lxmert_fast.data.region_writer import RegionWriter, require_writable
from lxmert_fast.errors import InputError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
#: EXIF orientations that lie on their side.
_TURNED = {5, 6, 7, 8}
#: Cells the clusters are fitted on: 40 MB of EfficientNet-Lite0 features in float16.
_SAMPLE_CELLS = 16_384
#: Batches a thread may be ahead of the writer.
_AHEAD = 2


def pictures_in(folder: str | Path) -> dict[str, Path]:
    """The pictures of a folder in order of name: image id (the file's stem) -> path.

    Raises `InputError` for a folder that is missing or without pictures and for two pictures of one stem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: {'is not a folder' if folder.exists() else 'no such folder'}")
    pictures: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        if path.stem in pictures:
            raise InputError(
                f"{path}: image id {path.stem!r} is also that of {pictures[path.stem].name}, "
                "wanted distinct stems"
            )
        pictures[path.stem] = path
    if not pictures:
        raise InputError(f"{folder}: found no pictures, wanted {' '.join(sorted(SUFFIXES))}")
    return pictures


def grid_regions(
    images: Mapping[str, str | Path],
    out: str | Path,
    rows: int = 4,
    cols: int = 4,
    *,
    size: int = 128,
    backbone: str | nn.Module = DEFAULT_BACKBONE,
    objects: int = 64,
    attributes: int = 32,
    dtype: Any = np.float16,
    seed: int = 0,
    batch_size: int = 16,
    workers: int = 2,
    device: str = "cpu",
    report: Callable[[InputError], None] | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[int, int]:
    """Writes rows x cols regions of every picture to the region file `out`; resumes after a kill.

    Args:
        images: image id -> picture, in the order of the file.
        size: S, the pixels a side that the CNN sees. backbone: a name for `load_backbone`, or a module.
        objects, attributes: numbers of pseudo-classes. dtype: float16 or float32, of the stored features.
        seed: of the sample and the clusters. batch_size: pictures a CNN call; small ones stay in the cache.
        workers: threads that decode and view pictures. device: where the CNN runs.
        report: called with each unreadable picture's error, and the picture is left out; None raises it.
        overwrite: replace `out` if it exists. progress: called with the number of pictures viewed.

    Returns:
        Pictures written (by this run and those it resumed) and pictures left out.

    Raises:
        InputError: naming the picture, the backbone or the file.
    """
    if min(rows, cols, size, objects, attributes, batch_size, workers) < 1:
        raise InputError(f"{out}: rows, cols, size, classes, batch size and workers must be at least 1")
    require_writable(out, overwrite)
    if not images:
        raise InputError(f"{out}: no pictures to make regions of")
    ids, paths = list(images), [Path(path) for path in images.values()]
    name = backbone if isinstance(backbone, str) else type(backbone).__qualname__
    network = load_backbone(backbone) if isinstance(backbone, str) else backbone.eval()
    viewer = _Viewer(network, name, rows, cols, size, np.dtype(dtype), workers, device)
    writer = RegionWriter(
        out,
        ids,
        np.full(len(ids), rows * cols),
        feature_size=viewer.feature_size,
        dtype=dtype,
        num_objects=objects,
        num_attributes=attributes,
        source=f"{rows} x {cols} cells of the feature map of {name} at {size} pixels",
        fingerprint=_fingerprint(paths, network, batch_size),
        attributes={
            "grid": [rows, cols],
            "input_size": size,
            "backbone": name,
            "labels": "pseudo-labels: objects are k-means clusters of features, attributes of colours",
            "seed": seed,
        },
        overwrite=overwrite,
    )
    with writer, viewer:
        pending = set(writer.pending.tolist())
        progress(len(ids) - len(pending))
        rejected = 0

        def without_unreadable(stream: Iterable[_Cells]) -> Iterator[_Cells]:
            nonlocal rejected
            for cells in stream:
                for row, error in cells.unreadable:
                    if report is None:
                        raise error
                    report(error)
                    writer.reject(row)
                    rejected += 1
                progress(len(pending.intersection(cells.rows)) + len(cells.unreadable))
                yield cells

        # Cut before the finished pictures are left out: a resumed run sees the same batches, and so computes
        # the same features to the last bit and, from the same sample, the same clusters.
        batches = [list(range(i, min(i + batch_size, len(ids)))) for i in range(0, len(ids), batch_size)]
        sampled = _sample(len(batches), -(-_SAMPLE_CELLS // (rows * cols * batch_size)), seed)
        others = [b for i, b in enumerate(batches) if i not in sampled and not pending.isdisjoint(b)]
        sample = deque(
            without_unreadable(viewer.look([batches[i] for i in sampled], paths)) if pending else ()
        )
        if rejected < len(ids) and pending:
            labels = _PseudoLabels.fit(sample, objects, attributes, seed)
            stream = itertools.chain(_drain(sample), without_unreadable(viewer.look(others, paths)))
            for row, regions in (pair for cells in stream for pair in viewer.regions(cells, ids, labels)):
                if row in pending:
                    writer.write(row, regions)
        if rejected == len(ids):
            raise InputError(f"{out}: none of the {len(ids)} pictures could be read")
    return len(ids) - rejected, rejected


@dataclass(frozen=True)
class _Cells:
    """The cells of a batch: rows (I,), sizes (width, height), features (I, O, F), colours (I, O, 6)."""

    rows: list[int]
    sizes: list[tuple[int, int]]
    features: np.ndarray
    colours: np.ndarray
    unreadable: list[tuple[int, InputError]]


@dataclass(frozen=True)
class _PseudoLabels:
    objects: Clusters
    attributes: Clusters

    @classmethod
    def fit(cls, sample: Iterable[_Cells], objects: int, attributes: int, seed: int) -> _PseudoLabels:
        cells = list(sample)
        features = np.concatenate([c.features.reshape(-1, c.features.shape[-1]) for c in cells])
        colours = np.concatenate([c.colours.reshape(-1, c.colours.shape[-1]) for c in cells])
        return cls(Clusters.fit(features, objects, seed), Clusters.fit(colours, attributes, seed))


class _Viewer:
    """Pictures in, cells out, with one batch a thread.

    All threads on one batch would be as fast on an idle machine, but every operation would wait for the
    slowest of them on a busy one, and results would depend on the number of cores.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        rows: int,
        cols: int,
        size: int,
        dtype: np.dtype,
        workers: int,
        device: str,
    ) -> None:
        self._network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._name, self._grid = name, (rows, cols)
        self._size, self._dtype, self._workers, self._device = size, dtype, workers, device
        found = self._map(np.zeros((1, size, size, 3), np.uint8))[0]
        if not isinstance(found, torch.Tensor) or found.ndim != 4 or found.shape[0] != 1:
            shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise InputError(f"backbone {name!r}: found output {shape} for one picture, wanted (1, F, h, w)")
        self.feature_size = found.shape[1]
        height, width = found.shape[2:]
        if rows > height or cols > width:
            raise InputError(
                f"backbone {name!r} makes a map of {height} x {width} cells at {size} pixels, "
                f"wanted at least {rows} x {cols}: use fewer rows and columns or a larger size"
            )

    def __enter__(self) -> _Viewer:
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(self._workers, initializer=torch.set_num_threads, initargs=(1,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads)

    def look(self, batches: Sequence[list[int]], paths: Sequence[Path]) -> Iterator[_Cells]:
        """The cells of batches of rows, in order; must be entered as a context."""
        waiting: deque[Future[_Cells]] = deque()
        for batch in batches:
            waiting.append(self._pool.submit(self._cells, batch, paths))
            if len(waiting) > _AHEAD * self._workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _cells(self, batch: list[int], paths: Sequence[Path]) -> _Cells:
        decoded = [_decode(paths[row], self._size) for row in batch]
        unreadable = [(r, d) for r, d in zip(batch, decoded, strict=True) if isinstance(d, InputError)]
        readable = [(r, d) for r, d in zip(batch, decoded, strict=True) if not isinstance(d, InputError)]
        objects = self._grid[0] * self._grid[1]
        if not readable:
            empty = np.empty((0, objects, self.feature_size), self._dtype)
            return _Cells([], [], empty, np.empty((0, objects, 6), np.float32), unreadable)
        feature_map, pixels = self._map(np.stack([picture for _, (picture, _, _) in readable]))
        with np.errstate(over="ignore"):
            pooled = _by_cell(functional.adaptive_avg_pool2d(feature_map, self._grid))
            features = pooled.astype(self._dtype)
        finite = np.isfinite(features).all(axis=(1, 2))
        if not finite.all():
            row = readable[int(finite.argmin())][0]
            raise InputError(
                f"{paths[row]}: backbone {self._name!r} makes features that {self._dtype.name} cannot hold "
                f"(largest {np.abs(pooled).max()}), wanted finite numbers"
            )
        return _Cells(
            rows=[row for row, _ in readable],
            sizes=[(width, height) for _, (_, width, height) in readable],
            features=features,
            colours=_by_cell(self._colours(pixels)),
            unreadable=unreadable,
        )

    @torch.inference_mode()
    def _map(self, pictures: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """(I, S, S, 3) uint8 -> the feature map (I, F, h, w) and the network's input (I, 3, S, S)."""
        pixels = torch.from_numpy(pictures).to(self._device).permute(0, 3, 1, 2)
        pixels = (pixels.float() - 127) / 128
        return self._network(pixels), pixels

    def _colours(self, pixels: torch.Tensor) -> torch.Tensor:
        """Mean and standard deviation of the three channels in each cell: (I, 6, rows, cols)."""
        mean = functional.adaptive_avg_pool2d(pixels, self._grid)
        variance = functional.adaptive_avg_pool2d(pixels.square(), self._grid) - mean.square()
        return torch.cat([mean, variance.clamp_min(0).sqrt()], dim=1)

    def regions(
        self, cells: _Cells, ids: Sequence[str], labels: _PseudoLabels
    ) -> Iterator[tuple[int, ImageRegions]]:
        """(row, regions) of each readable picture of a batch."""
        rows, cols = self._grid
        objects = labels.objects.assign(cells.features.reshape(-1, self.feature_size))
        attributes = labels.attributes.assign(cells.colours.reshape(-1, 6))
        object_ids, object_confidences, attribute_ids, attribute_confidences = (
            values.reshape(-1, rows * cols) for values in (*objects, *attributes)
        )
        y, x = np.divmod(np.arange(rows * cols, dtype=np.float32), np.float32(cols))
        unit = np.stack([x / cols, y / rows, (x + 1) / cols, (y + 1) / rows], axis=1)
        for i, (row, (width, height)) in enumerate(zip(cells.rows, cells.sizes, strict=True)):
            yield (
                row,
                ImageRegions(
                    image_id=ids[row],
                    width=width,
                    height=height,
                    features=cells.features[i],
                    boxes=unit * np.array([width, height, width, height], np.float32),
                    object_ids=object_ids[i],
                    object_confidences=object_confidences[i],
                    attribute_ids=attribute_ids[i],
                    attribute_confidences=attribute_confidences[i],
                ),
            )


def _by_cell(map_: torch.Tensor) -> np.ndarray:
    """(I, D, rows, cols) -> (I, rows * cols, D), cells in reading order."""
    return map_.flatten(2).transpose(1, 2).float().cpu().numpy()


def _decode(path: Path, size: int) -> tuple[np.ndarray, int, int] | InputError:
    """An upright picture as (S, S, 3) uint8 RGB, with its own width and height."""
    try:
        with Image.open(path) as file:
            width, height = file.size
            if file.getexif().get(ExifTags.Base.Orientation, 1) in _TURNED:
                width, height = height, width
            # A JPEG decodes at the smallest of its scales that is still large enough.
            file.draft("RGB", (size, size))
            upright = ImageOps.exif_transpose(file).convert("RGB")
            picture = upright.resize((size, size), Image.Resampling.BICUBIC)
            return np.asarray(picture), width, height
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return InputError(f"{path}: cannot be read as a picture: {' '.join(str(error).split())}")


def _drain(cells: deque[_Cells]) -> Iterator[_Cells]:
    while cells:
        yield cells.popleft()


def _sample(batches: int, wanted: int, seed: int) -> list[int]:
    drawn = np.random.default_rng(seed).choice(batches, min(batches, wanted), replace=False)
    return sorted(drawn.tolist())


def _fingerprint(paths: Sequence[Path], network: nn.Module, batch_size: int) -> str:
    """Of the pictures (length and time of change), the network's weights and how batches are cut."""
    digest = hashlib.sha256(str(batch_size).encode())
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error
        digest.update(f"{status.st_size} {status.st_mtime_ns};".encode())
    for key, values in network.state_dict().items():
        digest.update(key.encode())
        digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
