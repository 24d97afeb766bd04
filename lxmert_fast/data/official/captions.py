"""COCO's captions (Chen et al. 2015), category "mscoco" of pre-training.

{"images": [{"id": 9, "file_name": "COCO_train2014_000000000009.jpg"}, ...],
 "annotations": [{"image_id": 9, "caption": "a cat."}, ...]}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lxmert_fast.data.json_list import read_list_in, text_of
from lxmert_fast.data.official.vqa import number_of
from lxmert_fast.errors import InputError


def read_captions(path: str | Path) -> Iterator[tuple[str, str]]:
    """Image name (the file's, without its ending) and caption, one at a time.

    Raises:
        InputError: a file or entry that is not in the format, a caption of an image that is not in the file.
    """
    names = {
        number_of(entry, place, "id"): Path(text_of(entry.get("file_name"), place, "file_name")).stem
        for place, entry in read_list_in(path, "images")
    }
    for place, entry in read_list_in(path, "annotations"):
        image = number_of(entry, place, "image_id")
        if image not in names:
            raise InputError(f"{place}: image_id {image} is not among the images of the file")
        yield names[image], text_of(entry.get("caption"), place, "caption")
