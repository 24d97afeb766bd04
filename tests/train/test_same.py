"""Ranks that differ are named before the first update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_data import known_store
from thread_ranks import together

from lxmert_fast.errors import InputError
from lxmert_fast.train.ranks import Ranks
from lxmert_fast.train.same import check_same, code_facts, digest, digest_of_regions

REPO = Path(__file__).parents[2]
FACTS = {"version of torch": "2.13.0", "region store": "abc", "settings": 7}


def refusals(facts: list[dict[str, Any]]) -> list[str | None]:
    """What each rank is told; rank r is on "host<r>"."""

    def one(ranks: Ranks) -> str | None:
        gather = ranks.gather
        # threads share the machine's name: each says its own instead
        ranks.gather = lambda said: gather((f"host{ranks.rank}", said[1]))  # type: ignore[method-assign]
        try:
            check_same(ranks, facts[ranks.rank])
        except InputError as error:
            return str(error)
        return None

    return together(len(facts), one)


def test_the_same_everywhere_passes() -> None:
    assert refusals([dict(FACTS) for _ in range(3)]) == [None] * 3


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"region store": "xyz"}, "rank 2 (host2) has another region store than rank 0 (host0): xyz and abc"),
        ({"settings": 8}, "rank 2 (host2) has another settings than rank 0 (host0): 8 and 7"),
        ({"more": 1}, "rank 2 (host2) has another more than rank 0 (host0): 1 and None"),
    ],
)
def test_who_differs_in_what_is_told_to_all(other: dict[str, Any], line: str) -> None:
    assert refusals([FACTS, FACTS, FACTS | other]) == [line] * 3


def test_a_fact_that_a_rank_lacks_is_named() -> None:
    less = {name: value for name, value in FACTS.items() if name != "settings"}
    line = "rank 1 (host1) has another settings than rank 0 (host0): None and 7"
    assert refusals([FACTS, less]) == [line] * 2


def test_another_line_of_source_is_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_facts()
    read, seen = Path.read_bytes, set()

    def changed(path: Path) -> bytes:
        seen.add(path)
        return read(path) + (b"#" if path.name == "shares.py" else b"")

    monkeypatch.setattr(Path, "read_bytes", changed)
    after = code_facts()
    assert [name for name in before if before[name] != after[name]] == ["source of lxmert-fast"]
    # hosts whose environments or tests differ, but not the package, may train together
    rooms = {path.relative_to(REPO).parts[0] for path in seen}
    assert rooms == {"lxmert_fast", "kernels", "train"}


def test_another_store_is_another_digest(tmp_path: Path) -> None:
    """Its images or how many boxes they have."""
    found = []
    for number, counts in enumerate([[2, 3], [2, 3], [3, 2], [2, 3, 2]]):
        found.append(digest_of_regions(known_store(tmp_path, counts, f"{number}.h5")))
    first, again, *others = found
    assert first == again
    assert len({first, *others}) == 3


def test_a_digest_sees_order_and_place() -> None:
    numbers = np.arange(4)
    assert digest(numbers) != digest(numbers[::-1].copy())
    assert digest(["a", "b"]) != digest(["ab"])
    assert digest(numbers, ["a"]) == digest(numbers.copy(), ["a"])
