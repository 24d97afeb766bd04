"""Regions of an NLVR image, rendered from its structure: no detector, the drawing is exact.

A grey box is a region, and so is each object. The feature of a region is what a detector would pool from the
picture, and where the region lies in its box:

    what    the window around it, WINDOW pixels wide for an object, the whole box for a box, as CELLS x CELLS
            cells of four channels: the share of the cell that is black, yellow, blue, and outside the box
    where   its left, right, top and bottom edge in the box, each as a hat function of knots 10 pixels apart:
            1 at the edge's knot, 0 two knots away, linear between (no projection of one number separates
            "touches the wall" from "almost touches it")

Which of the three boxes a region belongs to, only the coordinates tell, as in any image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from lxmert_fast.commands.progress import progress
from lxmert_fast.data.region_format import ImageRegions
from lxmert_fast.data.region_writer import RegionWriter

BOX, PITCH, BOXES = 100, 150, 3
"""Pixels of a side of a box, from one box's left edge to the next one's, and boxes of an image."""
WIDTH, HEIGHT = PITCH * (BOXES - 1) + BOX, BOX
TYPES = ("square", "circle", "triangle")
COLOURS = ((0, 0, 0), (255, 255, 0), (0, 153, 255))
SIZES = (10, 20, 30)
GREY, WHITE = (211, 211, 211), (255, 255, 255)

WINDOW, CELLS = 40, 8
CHANNELS = len(COLOURS) + 1
KNOTS = np.arange(0, BOX + 1, 10)
FEATURE_SIZE = CELLS * CELLS * CHANNELS + 4 * len(KNOTS)
OBJECT_CLASSES = (*TYPES, "box")
ATTRIBUTE_CLASSES = ("black", "yellow", "blue", "grey")
_MARGIN = WINDOW // 2


@dataclass(frozen=True)
class Scene:
    """One image. `boxes`: three arrays (n, 5) int64, an object a row: x, y, size, type, colour."""

    identifier: str
    boxes: tuple[np.ndarray, ...]

    def ordered(self, order: Sequence[int], image_id: str) -> Scene:
        """The same image with its boxes in another order."""
        return Scene(image_id, tuple(self.boxes[box] for box in order))


def draw(boxes: Sequence[np.ndarray]) -> Image.Image:
    """The picture, 400 x 100, RGB."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), WHITE)
    for number, objects in enumerate(boxes):
        left = number * PITCH
        ImageDraw.Draw(picture).rectangle((left, 0, left + BOX - 1, BOX - 1), fill=GREY)
        for x, y, size, kind, colour in objects.tolist():
            picture.paste(COLOURS[colour], (left + x, y), Image.fromarray(_shape(kind, size) * np.uint8(255)))
    return picture


def regions_of(scene: Scene) -> ImageRegions:
    """Each box followed by its objects: O regions, their features (O, FEATURE_SIZE) float16."""
    features, corners, kinds, colours = [], [], [], []
    for number, objects in enumerate(scene.boxes):
        inside, feature = _in_box(objects.tobytes())
        features.append(feature)
        corners.append(inside + np.array([number * PITCH, 0, number * PITCH, 0]))
        kinds.append(np.concatenate([[len(TYPES)], objects[:, 3]]))
        colours.append(np.concatenate([[len(COLOURS)], objects[:, 4]]))
    boxes = np.concatenate(corners).astype(np.float32)
    sure = np.ones(len(boxes), np.float32)
    return ImageRegions(
        scene.identifier,
        WIDTH,
        HEIGHT,
        np.concatenate(features),
        boxes,
        np.concatenate(kinds),
        sure,
        np.concatenate(colours),
        sure,
    )


def write_regions(path: Path, scenes: Sequence[Scene]) -> None:
    """The region file of scenes; again goes on where it was interrupted.

    Raises:
        InputError: it cannot be written.
    """
    counts = np.array([BOXES + sum(map(len, scene.boxes)) for scene in scenes])
    made_of = hashlib.sha256()
    for scene in scenes:
        made_of.update(b"".join(box.tobytes() for box in scene.boxes))
    with (
        RegionWriter(
            path,
            [scene.identifier for scene in scenes],
            counts,
            feature_size=FEATURE_SIZE,
            num_objects=len(OBJECT_CLASSES),
            num_attributes=len(ATTRIBUTE_CLASSES),
            source="NLVR scenes",
            fingerprint=made_of.hexdigest(),
            overwrite=True,
            sync_every=10_000,
        ) as writer,
        progress("Regions", len(scenes), "images") as advance,
    ):
        for row in writer.pending:
            writer.write(row, regions_of(scenes[row]))
            advance(1)


@lru_cache(64)
def _in_box(packed: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Corners (1 + n, 4) and features of a box and its objects; the orders of a scene share them."""
    objects = np.frombuffer(packed, np.int64).reshape(-1, 5)
    x, y, size = objects[:, :3].T
    inside = np.concatenate([[[0, 0, BOX, BOX]], np.stack([x, y, x + size, y + size], 1)])
    return inside, np.concatenate([_windows(objects), _hats(inside)], 1).astype(np.float16)


def _windows(objects: np.ndarray) -> np.ndarray:
    """(1 + n, CELLS * CELLS * CHANNELS): the box itself, then each of its objects."""
    canvas = np.zeros((BOX + 2 * _MARGIN, BOX + 2 * _MARGIN, CHANNELS), np.float32)
    canvas[..., -1] = 1
    ground = canvas[_MARGIN : _MARGIN + BOX, _MARGIN : _MARGIN + BOX]
    ground[..., -1] = 0
    for x, y, size, kind, colour in objects.tolist():
        place = ground[y : y + size, x : x + size]
        covered = _shape(kind, size)
        place[covered] = 0
        place[covered, colour] = 1
    windows = [_cells(ground)]
    for x, y, size, *_ in objects.tolist():
        # the canvas begins one margin, half a window, before the box
        left, top = x + size // 2, y + size // 2
        windows.append(_cells(canvas[top : top + WINDOW, left : left + WINDOW]))
    return np.stack(windows)


def _cells(window: np.ndarray) -> np.ndarray:
    """Means over CELLS x CELLS parts, nearly equal where the side is no multiple."""
    edges = np.arange(CELLS) * len(window) // CELLS
    sums = np.add.reduceat(np.add.reduceat(window, edges, 0), edges, 1)
    sides = np.diff(edges, append=len(window))
    return (sums / (sides[:, None] * sides)[..., None]).ravel()


def _hats(corners: np.ndarray) -> np.ndarray:
    """(n, 4 * knots) of edges in pixels (n, 4)."""
    step = KNOTS[1] - KNOTS[0]
    return np.clip(1 - np.abs(corners[..., None] - KNOTS) / step, 0, 1).reshape(len(corners), -1)


@cache
def _shape(kind: int, size: int) -> np.ndarray:
    """(size, size) bool: the pixels whose centre a shape covers."""
    centre = np.arange(size) + 0.5
    x, y = np.meshgrid(centre, centre)
    match TYPES[kind]:
        case "square":
            return np.ones((size, size), bool)
        case "circle":
            return (x - size / 2) ** 2 + (y - size / 2) ** 2 <= (size / 2) ** 2
        case _:
            # an upright triangle: at height y it is y wide
            return np.abs(x - size / 2) <= y / 2
