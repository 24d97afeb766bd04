"""NLVR (Suhr et al. 2017): three grey boxes of coloured shapes, a sentence, true or false.

    dev.json, test.json     an example a line, official: identifier, sentence, label "true" or "false",
                            structured_rep = three boxes of {x_loc, y_loc, size, type, color}
    train_scenes.jsonl      [identifier, directory, layout, three boxes of [x, y, size, type, color]]
    train_sentences.json    {sentence id: {"sentence", "env"}}
    train_pairs.jsonl       [sentence id, scene identifier, 1 or 0]

A box is 100 x 100 pixels; an object covers (x, y) to (x + size, y + size) of its box.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lxmert_fast.data.json_list import read_json, read_json_lines, shown, text_of
from lxmert_fast.data.nlvr_regions import BOX, BOXES, COLOURS, SIZES, TYPES, Scene
from lxmert_fast.errors import InputError

ANSWERS = ("false", "true")
_COLOUR_NAMES = {"Black": 0, "Yellow": 1, "#0099ff": 2}
_NAMED = ("x_loc", "y_loc", "size", "type", "color")
_MOST_OBJECTS = 8


@dataclass(frozen=True)
class Example:
    """A sentence about a scene."""

    identifier: str
    sentence: str
    label: str
    scene: str


@dataclass(frozen=True)
class Split:
    """Scenes by identifier, and what is said of them."""

    scenes: dict[str, Scene]
    examples: list[Example]


def read_official(path: Path) -> Split:
    """`dev.json` or `test.json`, an example and its scene a line.

    Raises:
        InputError: a line that is not in the format, an identifier that occurs twice.
    """
    scenes: dict[str, Scene] = {}
    examples = []
    for place, row in read_json_lines(path):
        if not isinstance(row, dict):
            raise InputError(f"{place}: found {shown(row)}, wanted an object")
        identifier = text_of(row.get("identifier"), place, "identifier")
        place = f"{place} (identifier {identifier!r:.40})"
        if identifier in scenes:
            raise InputError(f"{place}: it occurs twice")
        boxes = _boxes(row.get("structured_rep"), f"{place}: structured_rep", _named_object)
        scenes[identifier] = Scene(identifier, boxes)
        label = row.get("label")
        if label not in ANSWERS:
            raise InputError(f'{place}: label: found {shown(label)}, wanted "true" or "false"')
        sentence = text_of(row.get("sentence"), place, "sentence").strip()
        examples.append(Example(identifier, sentence, label, identifier))
    return Split(scenes, examples)


def read_training(folder: Path) -> Split:
    """The training pairs with the scenes that they are about.

    Raises:
        InputError: a line that is not in the format, a sentence or scene that is not there, a pair or scene
            that occurs twice.
    """
    scenes: dict[str, Scene] = {}
    for place, row in read_json_lines(folder / "train_scenes.jsonl"):
        if not isinstance(row, list) or len(row) != 4:
            raise InputError(f"{place}: found {shown(row)}, wanted [identifier, directory, layout, boxes]")
        identifier = text_of(row[0], place, "identifier")
        if identifier in scenes:
            raise InputError(f"{place}: scene {identifier!r:.40} occurs twice")
        scenes[identifier] = Scene(identifier, _boxes(row[3], f"{place}: boxes", _numbered_object))
    sentences = _sentences(folder / "train_sentences.json")
    examples: dict[str, Example] = {}
    for place, row in read_json_lines(folder / "train_pairs.jsonl"):
        if not isinstance(row, list) or len(row) != 3:
            raise InputError(f"{place}: found {shown(row)}, wanted [sentence, scene, label]")
        sentence, scene = text_of(row[0], place, "sentence"), text_of(row[1], place, "scene")
        label = row[2]
        if type(label) is not int or label not in (0, 1):
            raise InputError(f"{place}: label: found {shown(label)}, wanted 1 or 0")
        if sentence not in sentences:
            raise InputError(f"{place}: sentence {shown(sentence)} is not in train_sentences.json")
        if scene not in scenes:
            raise InputError(f"{place}: scene {shown(scene)} is not in train_scenes.jsonl")
        identifier = f"{sentence}/{scene}"
        if identifier in examples:
            raise InputError(f"{place}: sentence {sentence!r:.40} is paired with scene {scene!r:.40} twice")
        examples[identifier] = Example(identifier, sentences[sentence], ANSWERS[label], scene)
    return Split(scenes, list(examples.values()))


def _sentences(path: Path) -> dict[str, str]:
    table = read_json(path)
    if not isinstance(table, dict) or not table:
        raise InputError(f'{path}: found {shown(table)}, wanted {{sentence id: {{"sentence": ...}}}}')
    for key, row in table.items():
        if not isinstance(row, dict):
            raise InputError(f"{path}: {key!r:.40}: found {shown(row)}, wanted an object")
    return {
        key: text_of(row.get("sentence"), f"{path}: {key!r:.40}", "sentence").strip()
        for key, row in table.items()
    }


def _boxes(value: Any, place: str, parse: Callable[[Any, str], list[int]]) -> tuple[np.ndarray, ...]:
    if not isinstance(value, list) or len(value) != BOXES or not all(isinstance(box, list) for box in value):
        raise InputError(f"{place}: found {shown(value)}, wanted {BOXES} lists of objects")
    boxes = []
    for number, box in enumerate(value):
        if not 1 <= len(box) <= _MOST_OBJECTS:
            raise InputError(f"{place}: box {number}: {len(box)} objects, wanted 1 to {_MOST_OBJECTS}")
        rows = [
            _checked(parse(item, f"{place}: box {number}"), item, f"{place}: box {number}") for item in box
        ]
        boxes.append(np.array(rows, np.int64))
    return tuple(boxes)


def _named_object(item: Any, place: str) -> list[Any]:
    if not isinstance(item, dict) or not item.keys() >= set(_NAMED):
        raise InputError(f"{place}: found {shown(item)}, wanted an object with {', '.join(_NAMED)}")
    x, y, size, kind, colour = (item[name] for name in _NAMED)
    return [x, y, size, TYPES.index(kind) if kind in TYPES else kind, _COLOUR_NAMES.get(str(colour), colour)]


def _numbered_object(item: Any, place: str) -> list[Any]:
    if not isinstance(item, list) or len(item) != len(_NAMED):
        raise InputError(f"{place}: found {shown(item)}, wanted [x, y, size, type, color]")
    return item


def _checked(row: list[Any], item: Any, place: str) -> list[int]:
    """x, y, size, type, colour, each in its range."""
    whole = all(type(value) is int for value in row)
    if whole:
        x, y, size, kind, colour = row
        inside = 0 <= x <= BOX - size and 0 <= y <= BOX - size
        if inside and size in SIZES and kind in range(len(TYPES)) and colour in range(len(COLOURS)):
            return row
    raise InputError(
        f"{place}: found {shown(item)}, wanted an object of size {SIZES}, type {TYPES} and colour "
        f"{tuple(_COLOUR_NAMES)} (or their numbers) inside the {BOX} x {BOX} box"
    )
