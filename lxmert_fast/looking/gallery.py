"""What the live page asks for: images of a region store by name, an explanation, an uploaded picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

from PIL import Image
from torch import nn

from lxmert_fast.data.backbone import load_backbone
from lxmert_fast.data.grid import grid_regions
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.errors import InputError

from .explainer import Explainer, check_question
from .page import explanation_page
from .pictures import check_shape, open_picture, picture_of

MOST_FOUND = 50
UPLOAD = "upload"


class Refused(InputError):
    """What a visitor did wrong, in words that name nothing of the server."""


class Gallery:
    """A model and the images that it can be asked about; one question at a time.

    Args:
        images: folder of the store's pictures; None shows boxes alone.
        backbone: makes regions of uploaded pictures, if it is what made the store's.

    Raises:
        InputError: a model and a store that do not fit, no such folder, a backbone that cannot be loaded.
    """

    def __init__(self, explainer: Explainer, store: RegionStore, images: Path | None, backbone: str) -> None:
        explainer.check(store)
        if images is not None and not images.is_dir():
            raise InputError(f"{images}: {'is not a folder' if images.exists() else 'no such folder'}")
        self.explainer, self.store, self.images, self.backbone = explainer, store, images, backbone
        self._ids = list(store.image_ids)
        self._lock = Lock()
        self._network: nn.Module | None = None
        made = store.attributes[0]
        self.no_uploads = _no_uploads(made, backbone)
        if not self.no_uploads:
            rows, cols = made["grid"]
            self._grid, self._size = (int(rows), int(cols)), int(made["input_size"])
            self._network = load_backbone(backbone)

    def search(self, words: str) -> tuple[list[str], int]:
        """The first image ids that contain `words`, and how many do."""
        found = [image for image in self._ids if words.casefold() in image.casefold()]
        return found[:MOST_FOUND], len(found)

    def explain(self, image: str, question: str) -> str:
        """The page about an image of the store.

        Raises:
            Refused: no such image, no question.
            InputError: a damaged region file or picture.
        """
        with _refusing():
            check_question(question)
        if image not in self.store:
            raise Refused("there is no such image in the region store")
        path = None if self.images is None else picture_of(image, self.images)
        picture = None if path is None else open_picture(path, str(path))
        with self._lock:
            found = self.explainer(question, image, self.store)
        if picture is not None:
            check_shape(picture, found.size, str(path))
        return explanation_page(found, picture)

    def explain_upload(self, content: bytes, question: str) -> str:
        """The page about a picture that is not in the store; it is kept no longer than this call.

        Raises:
            Refused: not a picture, too large, no question, a store that was not made by `features grid`.
        """
        if self._network is None:
            raise Refused(self.no_uploads)
        with _refusing():
            check_question(question)
            picture = open_picture(content, "the uploaded file")
        with self._lock, TemporaryDirectory() as folder, self._regions(picture, Path(folder)) as store:
            found = self.explainer(question, UPLOAD, store)
        return explanation_page(found, picture)

    def _regions(self, picture: Image.Image, folder: Path) -> RegionStore:
        assert self._network is not None
        path, out = folder / f"{UPLOAD}.png", folder / "regions.h5"
        picture.save(path, compress_level=1)
        grid_regions(
            {UPLOAD: path},
            out,
            *self._grid,
            size=self._size,
            backbone=self._network,
            objects=1,
            attributes=1,
            dtype=self.store.dtype,
            workers=1,
        )
        return RegionStore(out)


def _no_uploads(made: dict[str, Any], backbone: str) -> str:
    """Why a store with these attributes takes no other pictures; "" where it does."""
    if not {"backbone", "grid", "input_size"} <= made.keys():
        return (
            "pictures cannot be uploaded: the regions of this store were not made by `features grid`, "
            "so none like them can be made of other pictures here"
        )
    # never the name in the file on its own: it may say to import anything
    if made["backbone"] != backbone:
        return (
            f"pictures cannot be uploaded: this store was made with backbone {made['backbone']}, the server "
            f"was started with {backbone} (--backbone)"
        )
    return ""


@contextmanager
def _refusing() -> Iterator[None]:
    """Within, what is wrong is the visitor's."""
    try:
        yield
    except InputError as error:
        raise Refused(str(error)) from None
