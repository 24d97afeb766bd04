"""Ids as bytes are the ids, and bisection finds what a dict would."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lxmert_fast.data.image_ids import ImageIds

# a fixed-length string can't end with zeros
names = st.text(max_size=6).filter(lambda name: not name.endswith("\0"))


def of(ids: list[str]) -> ImageIds:
    return ImageIds(np.array([image_id.encode() for image_id in ids], "S"))


@given(st.lists(names, min_size=1, unique=True), st.lists(st.text(max_size=8)))
def test_each_id_has_its_row_and_others_have_none(ids: list[str], others: list[str]) -> None:
    image_ids, rows = of(ids), {image_id: row for row, image_id in enumerate(ids)}
    assert list(image_ids) == ids == [image_ids[row] for row in range(len(image_ids))]
    for asked in (*ids, *others):
        assert image_ids.find(asked) == rows.get(asked)
        assert (asked in image_ids) == (asked in rows)
    assert image_ids.repeated() is None


@given(st.lists(names, min_size=1, unique=True), st.data())
def test_an_id_that_is_there_twice(ids: list[str], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(ids) - 1))
    second = data.draw(st.integers(first + 1, len(ids)))
    ids.insert(second, ids[first])
    assert of(ids).repeated() == (first, second)
    assert of(ids).find(ids[first]) == first


def test_what_no_file_can_hold() -> None:
    for asked in ("a\0", "\ud800", "longer than any", 3, None):
        assert of(["a", "bc"]).find(asked) is None
    assert of([]).find("a") is None
