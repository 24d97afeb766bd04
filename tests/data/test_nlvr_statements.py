"""Statements made of NLVR scenes: whether they are true, read again from their words."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lxmert_fast.data.nlvr import read_training
from lxmert_fast.data.nlvr_regions import Scene
from lxmert_fast.data.nlvr_statements import is_tower, statements

NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
SIZES = {"small": 10, "medium": 20, "big": 30, "large": 30}
TYPES = {"square": 0, "circle": 1, "triangle": 2}
COLOURS = {"black": 0, "yellow": 1, "blue": 2}


@pytest.fixture(scope="module")
def scenes(shared_data: Path) -> list[Scene]:
    return list(read_training(shared_data / "nlvr").scenes.values())[::20]


def test_half_are_true_and_follow_from_the_identifier(scenes: list[Scene]) -> None:
    labels = Counter(true for scene in scenes for _, true in statements(scene, 4))
    # 2,484 draws of a fair coin: six standard deviations are 0.06
    assert abs(labels[True] / labels.total() - 0.5) < 0.06
    assert statements(scenes[0], 6) == statements(scenes[0], 6)
    again = Scene("another", scenes[0].boxes)
    assert statements(again, 6) != statements(scenes[0], 6)
    assert len({words for words, _ in statements(scenes[0], 20)}) == 20


def test_towers_have_statements_of_their_own(scenes: list[Scene]) -> None:
    for tower in (True, False):
        said = " ".join(
            words for scene in scenes if is_tower(scene) is tower for words, _ in statements(scene, 4)
        )
        assert ("on top of" in said) is tower
        assert ("touching" in said) is not tower


def test_the_order_of_the_boxes_changes_no_truth(scenes: list[Scene]) -> None:
    """The same draws about the same scene, its boxes in another order: the same words, equally true."""
    for scene in scenes[:200]:
        assert statements(scene.ordered((2, 0, 1), scene.identifier), 4) == statements(scene, 4)


def test_counts_are_right(scenes: list[Scene]) -> None:
    """Statements that count in the whole image, by the words alone."""
    read = 0
    for scene in scenes:
        objects = np.concatenate(scene.boxes)
        for words, true in statements(scene, 6):
            found = _count_of(words)
            if found is None:
                continue
            how, number, things = found
            count = sum(_is(row, things) for row in objects.tolist())
            wanted = {
                "at least": count >= number,
                "at most": count <= number,
                "a": count >= 1,
                "no": count == 0,
            }.get(how, count == number)
            assert true is wanted, (words, count)
            read += 1
    assert read > 200


def _count_of(words: str) -> tuple[str, int, list[str]] | None:
    """How, the number and the words of the things; None of another template."""
    match = re.fullmatch(r"there (?:is|are) (.*)", words)
    if match is None or re.search("box|tower|touching|different|same|top|base|bottom|under", words):
        return None
    rest, how = match[1], ""
    for start in ("at least", "at most", "exactly", "only", "an", "a", "no"):
        if rest.startswith(f"{start} "):
            how, rest = "a" if start in ("a", "an") else start, rest.removeprefix(f"{start} ")
            break
    first, *things = rest.split()
    if how in ("a", "no"):
        return how, 0, [first, *things]
    return how, int(first) if first.isdigit() else NUMBERS[first], things


def _is(row: list[int], things: list[str]) -> bool:
    _, _, size, kind, colour = row
    for word in (word.removesuffix("s") for word in things):
        if word in SIZES and size != SIZES[word]:
            return False
        if word in COLOURS and colour != COLOURS[word]:
            return False
        if word in TYPES and kind != TYPES[word]:
            return False
    return True


def test_known_scenes() -> None:
    """A tower of black on blue, a yellow block, a blue one: what is said of ends and stacks."""
    stack = np.array([[40, 59, 20, 0, 0], [40, 80, 20, 0, 2]])
    boxes = (stack, np.array([[40, 80, 20, 0, 1]]), np.array([[40, 80, 20, 0, 2]]))
    truth: dict[str, bool] = {}
    for number in range(300):
        truth |= dict(statements(Scene(str(number), boxes), 4))
    assert truth["there is a black block on top of a blue block"]
    assert not truth["there is a blue block on top of a black block"]
    assert truth["there is a blue block under a black block"]
    assert truth["there is a tower with a black block at the top"]
    assert not truth["there is a tower with a black block at the base"]
    assert truth["there are two towers with a blue base"]
    assert truth["there is a tower with exactly 2 blocks"]
    assert not truth["there is a tower with exactly 3 blocks"]
