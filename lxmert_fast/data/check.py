"""Find every fault of a data file or data-set folder, where loading stops at the first."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from pathlib import Path

from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.data.examples import parse_sentences
from lxmert_fast.data.json_list import read_entries
from lxmert_fast.data.nlvr2 import SeenPairs, parse_pair
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.data.vqa import SeenQuestions, VqaFolder, parse_question
from lxmert_fast.errors import InputError

#: For each entry None, or the line that says what is wrong with it; a line about a whole file comes alone.
Faults = Iterator[str | None]


def check_file(
    path: str | Path, *, images: Container[str] | None = None, answers: AnswerMap | None = None
) -> Faults:
    """Check a file of questions, aggregated sentences or image pairs; its first entry tells which it is.

    Args:
        images: image ids that there are; None does not check.
        answers: what labels may hold; None does not check.
    """
    check: Callable[[str, dict], None] | None = None
    try:
        for place, entry in read_entries(path):
            if check is None:
                if "img0" in entry:
                    check = _Pairs(images)
                else:
                    check = _Questions(images, answers) if "sentf" not in entry else _Sentences(images)
            try:
                check(place, entry)
                yield None
            except InputError as error:
                yield str(error)
    except InputError as error:
        yield str(error)


def check_folder(root: str | Path) -> Faults:
    """Check a data-set folder (see `VqaFolder`): vocabulary, answers, questions against its images."""
    folder = VqaFolder(Path(root))
    images, answers = None, None
    try:
        images = _image_ids(folder)
    except InputError as error:
        yield str(error)
    try:
        if folder.vocabulary.is_file():
            TextEncoder(folder.vocabulary)
    except InputError as error:
        yield str(error)
    try:
        answers = folder.given_answers()
    except InputError as error:
        yield str(error)
    for name in ("train", "test"):
        try:
            path = getattr(folder, name)
        except InputError as error:
            yield str(error)
            continue
        # A test file may hold answers outside the map: they can only be answered wrongly.
        yield from check_file(path, images=images, answers=answers if name == "train" else None)
    valid = folder.path / "valid.json"
    if valid.is_file() and valid != folder.test:
        yield from check_file(valid, images=images)


class _Questions:
    def __init__(self, images: Container[str] | None, answers: AnswerMap | None) -> None:
        self.images = images
        self.answers = answers
        self.seen = SeenQuestions()

    def __call__(self, place: str, entry: dict) -> None:
        question = parse_question(place, entry)
        self.seen.add(place, question)
        place = f"{place} (question {question.question_id!r:.60})"
        _require_image(place, question.image_id, self.images)
        if self.answers is None:
            return
        for answer in question.label or {}:
            if answer not in self.answers:
                raise InputError(
                    f"{place}: answer {answer!r:.60} is not among the answers of {self.answers.source}"
                )


class _Sentences:
    def __init__(self, images: Container[str] | None) -> None:
        self.images = images

    def __call__(self, place: str, entry: dict) -> None:
        _require_image(place, parse_sentences(place, entry).image_id, self.images)


class _Pairs:
    def __init__(self, images: Container[str] | None) -> None:
        self.images = images
        self.seen = SeenPairs()

    def __call__(self, place: str, entry: dict) -> None:
        pair = parse_pair(place, entry)
        self.seen.add(place, pair)
        for image_id in pair.image_ids:
            _require_image(f"{place} ({pair.identifier:.60})", image_id, self.images)


def _require_image(place: str, image_id: str, images: Container[str] | None) -> None:
    if images is not None and image_id not in images:
        raise InputError(f"{place}: image {image_id!r:.60} is not in the data set")


def _image_ids(folder: VqaFolder) -> Container[str]:
    if folder.regions.is_file():
        return RegionStore(folder.regions)
    if not folder.images.is_dir():
        raise InputError(f"{folder.path}: neither regions.h5 nor images/ in it, wanted one of them")
    return {path.stem for path in folder.images.iterdir()}
