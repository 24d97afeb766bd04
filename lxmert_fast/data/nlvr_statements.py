"""Statements about NLVR scenes with their truth, from templates: what captions are to photos.

People's 2,227 training sentences are few to learn from what "two", "yellow" or "touching" look like. A scene
says itself what is true of it, so statements can be had for nothing:

    "there are at least 2 yellow circles"                  counting in the whole image
    "there is a box with exactly three black items"        in one box
    "there are 2 boxes with a small blue item"             boxes that have something
    "each box contains only black items"                   in every box
    "there is a yellow square touching the bottom"         places
    "there is a blue block on top of a black block"        towers
    "there is a box with items of 2 different colors"

Half of them are true. None depends on the order of the boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import numpy as np

from lxmert_fast.data.nlvr_regions import BOX, SIZES, TYPES, Scene

COLOURS = ("black", "yellow", "blue")
SIZE_WORDS = (("small",), ("medium",), ("big", "large"))
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven")
_TRIES = 30
_X, _Y, _SIZE, _TYPE, _COLOUR = range(5)

Test = Callable[[np.ndarray], bool]
"""Of the objects of a box, or of the whole image: (n, 5) rows of x, y, size, type, colour."""


@dataclass(frozen=True)
class Things:
    """A noun phrase: words for one, words for several, and which objects (n, 5) it means: (n,) bool."""

    one: str
    several: str
    among: Callable[[np.ndarray], np.ndarray]


def statement(scene: Scene, random: Random) -> tuple[str, bool]:
    """A statement about a scene and whether it is true, which it is half of the time.

    A template that cannot be true (or false) of the scene after some tries gives way to another.
    """
    wanted = random.random() < 0.5
    tower = is_tower(scene)
    templates = [_counted, _counted, _in_a_box, _in_a_box, _boxes_with, _each_box, _kinds, _only]
    templates += [_at_an_end, _on_top, _at_an_end, _on_top] if tower else [_touching, _touching, _touching]
    while True:
        template = random.choice(templates)
        for _ in range(_TRIES):
            words, true = template(scene, random, "tower" if tower and random.random() < 0.7 else "box")
            if true is wanted:
                return words, true


def is_tower(scene: Scene) -> bool:
    """Whether all objects stand on each other in the middle of their boxes."""
    return all((box[:, _X] == 40).all() and (box[:, _SIZE] == 20).all() for box in scene.boxes)


def _things(random: Random, tower: bool) -> Things:
    """Of a colour, a size, a type, some of them or none."""
    words: list[str] = []
    tests: list[tuple[int, int]] = []
    if not tower and random.random() < 0.2:
        size = random.randrange(len(SIZES))
        words.append(random.choice(SIZE_WORDS[size]))
        tests.append((_SIZE, SIZES[size]))
    if random.random() < 0.75:
        colour = random.randrange(len(COLOURS))
        words.append(COLOURS[colour])
        tests.append((_COLOUR, colour))
    if tower:
        noun = random.choice(("block", "block", "square", "item"))
    elif random.random() < 0.5:
        kind = random.randrange(len(TYPES))
        noun = TYPES[kind]
        tests.append((_TYPE, kind))
    else:
        noun = random.choice(("item", "object", "shape"))

    def among(objects: np.ndarray) -> np.ndarray:
        return np.logical_and.reduce(
            [objects[:, column] == value for column, value in tests] or [objects[:, _X] >= 0]
        )

    phrase = " ".join([*words, noun])
    return Things(phrase, f"{phrase}s", among)


def _amount(things: Things, random: Random, most: int) -> tuple[str, Test]:
    """How many of the things, as words behind a verb, and the test of a set of objects."""
    number = random.randint(1, most)
    name = str(number) if random.random() < 0.5 else NUMBERS[number]
    phrase = things.one if number == 1 else things.several

    def count(objects: np.ndarray) -> int:
        return int(things.among(objects).sum())

    match random.choice(("a", "exactly", "exactly", "at least", "at most", "no")):
        case "a":
            article = "an" if things.one[0] in "aeiou" else "a"
            return f"{article} {things.one}", lambda objects: count(objects) >= 1
        case "exactly":
            start = random.choice(("exactly ", "only ", ""))
            return f"{start}{name} {phrase}", lambda objects: count(objects) == number
        case "at least":
            return f"at least {name} {phrase}", lambda objects: count(objects) >= number
        case "at most":
            return f"at most {name} {phrase}", lambda objects: count(objects) <= number
        case _:
            return f"no {things.several}", lambda objects: count(objects) == 0


def _counted(scene: Scene, random: Random, place: str) -> tuple[str, bool]:
    words, test = _amount(_things(random, place == "tower"), random, 6)
    verb = "are" if words.endswith("s") else "is"
    return f"there {verb} {words}", test(np.concatenate(scene.boxes))


def _in_a_box(scene: Scene, random: Random, place: str) -> tuple[str, bool]:
    words, test = _amount(_things(random, place == "tower"), random, 4)
    if random.random() < 0.4:
        more, other = _amount(_things(random, place == "tower"), random, 3)
        words, first = f"{words} and {more}", test

        def test(objects: np.ndarray) -> bool:
            return first(objects) and other(objects)

    start = random.choice(("there is a {} with", "at least one {} has", "there is a {} that contains"))
    count = sum(test(box) for box in scene.boxes)
    return f"{start.format(place)} {words}", count >= 1


def _boxes_with(scene: Scene, random: Random, place: str) -> tuple[str, bool]:
    words, test = _amount(_things(random, place == "tower"), random, 4)
    number = random.randint(2, 3)
    name = random.choice((str(number), NUMBERS[number]))
    how, holds = random.choice(
        (("exactly ", int.__eq__), ("", int.__eq__), ("at least ", int.__ge__), ("only ", int.__eq__))
    )
    plural = "boxes" if place == "box" else "towers"
    count = sum(test(box) for box in scene.boxes)
    return f"there are {how}{name} {plural} with {words}", bool(holds(count, number))


def _each_box(scene: Scene, random: Random, place: str) -> tuple[str, bool]:
    words, test = _amount(_things(random, place == "tower"), random, 4)
    start = random.choice(("each {} contains", "each {} has", "every {} has", "each grey {} contains"))
    return f"{start.format(place)} {words}", all(test(box) for box in scene.boxes)


def _only(scene: Scene, random: Random, place: str) -> tuple[str, bool]:
    things = _things(random, place == "tower")
    found = [bool(things.among(box).all()) for box in scene.boxes]
    if random.random() < 0.5:
        return f"there is a {place} with only {things.several}", any(found)
    return f"all items are {things.several}", all(found)


def _kinds(scene: Scene, random: Random, place: str) -> tuple[str, bool]:
    column, name = random.choice(((_COLOUR, "colors"), (_COLOUR, "colors"), (_TYPE, "shapes")))
    number = random.randint(2, 3)
    words = random.choice((str(number), NUMBERS[number]))
    found = [len(np.unique(box[:, column])) for box in scene.boxes]
    if random.random() < 0.3:
        same = "color" if column == _COLOUR else "shape"
        return f"there is a {place} with all items of the same {same}", 1 in found
    return f"there is a {place} with items of {words} different {name}", number in found


def _touching(scene: Scene, random: Random, place: str) -> tuple[str, bool]:
    things = _things(random, False)
    x, y, size = np.concatenate(scene.boxes)[:, :3].T
    sides = {"left wall": x == 0, "right wall": x + size == BOX, "top": y == 0, "bottom": y + size == BOX}
    walls = np.logical_or.reduce(list(sides.values()))
    corners = (sides["left wall"] | sides["right wall"]) & (sides["top"] | sides["bottom"])
    where = sides | {"wall": walls, "edge": walls, "base": sides["bottom"], "corner": corners}
    name = random.choice(tuple(where))
    found = things.among(np.concatenate(scene.boxes)) & where[name]
    number = random.randint(1, 3)
    if number == 1:
        article = "a" if name in ("wall", "corner", "edge") and random.random() < 0.3 else "the"
        start = random.choice((f"there is a {things.one}", f"there is at least one {things.one}"))
        return f"{start} touching {article} {name}", bool(found.any())
    return f"there are {NUMBERS[number]} {things.several} touching the {name}", int(found.sum()) == number


def _at_an_end(scene: Scene, random: Random, _: str) -> tuple[str, bool]:
    colour = random.randrange(len(COLOURS))
    top = random.random() < 0.5
    ends = [int(box[(box[:, _Y].argmin if top else box[:, _Y].argmax)(), _COLOUR]) for box in scene.boxes]
    name = "top" if top else random.choice(("base", "bottom"))
    count = ends.count(colour)
    if random.random() < 0.6:
        words = random.choice(
            ("there is a tower with a {} block at the {}", "there is a {} block at the {} of a tower")
        )
        return words.format(COLOURS[colour], name), count >= 1
    number = random.randint(2, 3)
    return f"there are {NUMBERS[number]} towers with a {COLOURS[colour]} {name}", count == number


def _on_top(scene: Scene, random: Random, _: str) -> tuple[str, bool]:
    upper, lower = random.randrange(len(COLOURS)), random.randrange(len(COLOURS))
    stacks = [box[np.argsort(box[:, _Y]), _COLOUR].tolist() for box in scene.boxes]
    if random.random() < 0.3:
        height = random.randint(1, 4)
        count = sum(len(stack) == height for stack in stacks)
        name = random.choice((str(height), NUMBERS[height]))
        return f"there is a tower with exactly {name} block{'s' if height > 1 else ''}", count >= 1
    pairs = [pair for stack in stacks for pair in pairwise(stack)]
    words = f"a {COLOURS[upper]} block on top of a {COLOURS[lower]} block"
    if random.random() < 0.7:
        return f"there is {words}", (upper, lower) in pairs
    return f"there is a {COLOURS[lower]} block under a {COLOURS[upper]} block", (upper, lower) in pairs


def statements(scene: Scene, number: int) -> list[tuple[str, bool]]:
    """So many different statements about a scene and whether they are true; its identifier is the seed."""
    random = Random(scene.identifier)
    found: dict[str, bool] = {}
    while len(found) < number:
        words, true = statement(scene, random)
        found[words] = true
    return list(found.items())
