"""VQA's validation images in two: minival to choose by, nominival to train on (paper section 4.1).

The original's minival is the first 5,000 rows of its val2014 feature file; feature files that others made
have another order, so here it is a list of images.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lxmert_fast.data.json_list import read_json, shown, text_of
from lxmert_fast.data.json_writing import write_entries
from lxmert_fast.data.official.vqa import coco_image
from lxmert_fast.data.vqa import Question, entry_of
from lxmert_fast.errors import InputError


def read_minival(path: str | Path) -> set[str]:
    """Image names of minival, such as COCO_val2014_000000000042.

    Args:
        path: the original's `minival.json` (its entries have an img_id), or a JSON list of image ids: names,
            or the numbers of val2014.

    Raises:
        InputError: a file that is neither.
    """
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise InputError(f"{path}: found {shown(content)}, wanted a list of image ids or of questions")
    return {_image(entry, f"{path}: entry {index}") for index, entry in enumerate(content)}


def write_split(
    questions: Iterable[Question], out: Path, minival: Path | None = None, rest: Path | None = None
) -> dict[Path, int]:
    """Write questions to `out`; with `minival` those of its images only, and all others to `rest`.

    Returns:
        The files written, each with how many questions it has.

    Raises:
        InputError: an image of minival that has no question, a split without any, a file that
            can't be written.
    """
    if minival is None or rest is None:
        return {out: write_entries(out, map(entry_of, questions))}
    images = read_minival(minival)
    chosen: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for question in questions:
        (chosen if question.image_id in images else others).append(entry_of(question))
    if strangers := images - {entry["img_id"] for entry in chosen}:
        raise InputError(
            f"{minival}: {len(strangers):,} of its {len(images):,} images have no question, "
            f"such as {ascii(min(strangers))[:60]}"
        )
    return {path: write_entries(path, entries) for path, entries in ((out, chosen), (rest, others))}


def _image(entry: object, place: str) -> str:
    if isinstance(entry, dict):
        return text_of(entry.get("img_id"), place, "img_id")
    if isinstance(entry, int) and not isinstance(entry, bool):
        return coco_image("val2014", entry)
    return text_of(entry, place, "image id")
