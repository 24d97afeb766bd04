"""Pictures from strangers: what is taken, what is refused and how it is said."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from lxmert_fast.errors import InputError
from lxmert_fast.looking.pictures import MOST_PIXELS, check_shape, data_uri, open_picture, picture_of


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG that only says how large it is."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    opened = open_picture(encoded(Image.new(mode, (6, 4)), kind), "x")
    assert (opened.mode, opened.size) == ("RGB", (6, 4))


def test_a_picture_on_its_side_is_turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_picture(encoded(Image.new("RGB", (6, 4)), "JPEG", exif=exif), "x").size == (4, 6)


whole = encoded(Image.effect_noise((60, 40), 50), "PNG")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"plain text, named .png", "not a picture"),
        (whole[:500], "cannot be read as a picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "picture"),
        (bomb(9_000, 9_000), "9000 x 9000 pixels, wanted at most"),
        (bomb(2**31 - 1, 2**31 - 1), "pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    ],
    ids=["empty", "text", "truncated", "zeros", "bomb", "huge bomb", "PostScript", "SVG"],
)
def test_what_is_no_picture_is_one_line(content: bytes, words: str):
    with pytest.raises(InputError, match=words) as caught:
        open_picture(content, "the file")
    assert str(caught.value).startswith("the file: ")
    assert "\n" not in str(caught.value)
    assert "/" not in str(caught.value)
    assert MOST_PIXELS < 89_478_485  # where Pillow itself begins to warn


def test_a_picture_is_found_by_its_images_id(world: dict[str, Path], tmp_path: Path):
    place = world["pictures"] / "image-0000.png"
    assert picture_of("image-0000", world["pictures"]) == place
    assert picture_of("anything", place) == place
    assert picture_of("image-9", world["pictures"]) is None
    assert picture_of("../pictures/image-0000", world["pictures"]) is None
    with pytest.raises(InputError, match="no such picture or folder"):
        picture_of("x", tmp_path / "none")
    with pytest.raises(InputError, match="No such file"):
        open_picture(tmp_path / "none.png", "none.png")


def test_another_pictures_shape_is_refused():
    check_shape(Image.new("RGB", (320, 240)), (641, 480), "x")
    with pytest.raises(InputError, match="40 x 30 pixels, the regions are of a picture of 30 x 40"):
        check_shape(Image.new("RGB", (40, 30)), (30, 40), "x")


def test_large_pictures_are_shown_small():
    import base64

    content = base64.b64decode(data_uri(Image.new("RGB", (3000, 1500))).split(",")[1])
    assert Image.open(io.BytesIO(content)).size == (1024, 512)
