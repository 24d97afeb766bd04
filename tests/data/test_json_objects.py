"""JSON objects entry by entry, whatever piece of the file is in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lxmert_fast.data import json_list
from lxmert_fast.data.json_list import read_list_in, read_members
from lxmert_fast.errors import InputError

TEXT = '{ "a" : 1.5e-3 , "b":[1, 2],"list": [ {"x": 12} ,{"x": {"y": "é"}}], "c": null, "d": 123}\n'


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1 << 22])
def test_what_stands_beside_a_list_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    """Numbers above all: half of one is one too."""
    monkeypatch.setattr(json_list, "_PIECE", piece)
    path = tmp_path / "x.json"
    path.write_text(TEXT, encoding="utf-8")
    found = list(read_list_in(path, "list"))
    assert found == [(f"{path}: list: entry 0", {"x": 12}), (f"{path}: list: entry 1", {"x": {"y": "é"}})]


@pytest.mark.parametrize("piece", [1, 5, 1 << 22])
def test_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(json_list, "_PIECE", piece)
    path = tmp_path / "x.json"
    content: dict[str, Any] = {str(number): {"n": [number] * number} for number in range(9)} | {
        '"}': {"q": "{"}
    }
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    assert {key: value for _, key, value in read_members(path)} == content
    assert [place for place, _, _ in read_members(path)][1] == f"{path}: '1'"


def test_a_list_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(TEXT, encoding="utf-8")
    with pytest.raises(InputError, match=r"x\.json: a: found '1', wanted a list of objects"):
        list(read_list_in(path, "a"))
    with pytest.raises(InputError, match=r"x\.json: no 'other' in it"):
        list(read_list_in(path, "other"))
