"""Pictures from strangers: bounded, upright, RGB."""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path

from PIL import Image, ImageOps

from lxmert_fast.data.grid import SUFFIXES
from lxmert_fast.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Decoders that run: some of Pillow's others start programs or interpret code."""
MOST_PIXELS = 40_000_000
"""Decoded a picture takes four bytes a pixel or less; a phone's has 12 to 50 million."""
SHOWN_SIDE = 1024
#: How far the sides' ratio of a picture may be from its regions', rounding of small copies included.
_SHAPE_TOLERANCE = 0.03


def open_picture(content: bytes | Path, name: str) -> Image.Image:
    """Decode a picture, turned as its EXIF says.

    Args:
        content: the file's bytes, or where it lies.
        name: for messages.

    Raises:
        InputError: empty, not a picture, of another format, truncated, or of more than `MOST_PIXELS`.
    """
    try:
        if isinstance(content, Path):
            content = content.read_bytes()
        if not content:
            raise InputError(f"{name}: empty, wanted a picture")
        with warnings.catch_warnings():
            # of the pixels' number, which is looked at here
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as file:
                width, height = file.size
                if width * height > MOST_PIXELS:
                    raise InputError(
                        f"{name}: {width} x {height} pixels, wanted at most {MOST_PIXELS:,} pixels"
                    )
                return ImageOps.exif_transpose(file).convert("RGB")
    except Image.UnidentifiedImageError:
        raise InputError(f"{name}: not a picture, wanted {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise InputError(f"{name}: too many pixels, wanted at most {MOST_PIXELS:,}") from None
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{name}: cannot be read as a picture ({_reason(error)})") from None
    except (ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise InputError(f"{name}: cannot be read as a picture ({_reason(error)})") from None


def picture_of(image: str, place: Path) -> Path | None:
    """The picture of an image id: `place` itself, or `<image>.<suffix>` in the folder `place`.

    None where the folder holds none.

    Raises:
        InputError: no such file or folder.
    """
    if place.is_file():
        return place
    if not place.is_dir():
        raise InputError(f"{place}: no such picture or folder")
    if Path(image).name != image:
        return None
    found = (place / f"{image}{suffix}" for suffix in sorted(SUFFIXES | {s.upper() for s in SUFFIXES}))
    return next((path for path in found if path.is_file()), None)


def check_shape(picture: Image.Image, size: tuple[int, int], name: str) -> None:
    """Raise `InputError` for a picture of another shape than the one that regions were found in."""
    (width, height), (wanted_width, wanted_height) = picture.size, size
    if abs(width * wanted_height / (height * wanted_width) - 1) > _SHAPE_TOLERANCE:
        raise InputError(
            f"{name}: {width} x {height} pixels, the regions are of a picture of {wanted_width} x "
            f"{wanted_height}; wanted the same shape"
        )


def data_uri(picture: Image.Image) -> str:
    """A picture for a page, at most `SHOWN_SIDE` a side."""
    shown = picture.copy()
    shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    content = io.BytesIO()
    shown.save(content, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _reason(error: BaseException) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())[:160]
