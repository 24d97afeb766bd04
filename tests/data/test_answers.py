"""The joint answer table and the answer maps: counts of the real files, the original's rules, bad files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small_data import write_json

from lxmert_fast.data.answers import AnswerMap, AnswerTable, normalise
from lxmert_fast.errors import InputError


@pytest.fixture(scope="session")
def table_file(shared_data: Path) -> Path:
    return shared_data / "lxmert/lxmert_all_ans.json"


def original_selection(label: dict[str, float], table: set[str]) -> dict[str, float]:
    """The rule of reference 2.5, step by step on a dictionary that changes."""
    label = dict(label)
    for answer in list(label):
        short = normalise(answer)
        if short in table:
            if short != answer:
                label[short] = label.pop(answer)
        else:
            label.pop(answer)
    return label


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("", ""),
        ("Cat.", "cat"),
        ("cat..", "cat."),
        (" cat ", "cat"),
        ("A man", "man"),
        ("an apple", "apple"),
        ("The dog", "dog"),
        ("a an the cat", "cat"),
        ("the a cat", "a cat"),
        ("another", "another"),
        ("Three", "3"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("the grey", "gray"),
        ("a", "a"),
        ("the.", "the"),
        (".", ""),
    ],
)
def test_normalise(answer: str, wanted: str) -> None:
    assert normalise(answer) == wanted


def test_the_joint_table(table_file: Path) -> None:
    table = AnswerTable(table_file)
    assert len(table) == 9500
    assert table.names == sorted(table.names)
    tags = Counter(tag for row in json.loads(table_file.read_text()) for tag in row["dsets"])
    assert tags == {"visual7w": 9409, "vqa": 3124, "gqa": 1735}
    for name, size in tags.items():
        assert len(AnswerTable(table_file, [name])) == size
    part = AnswerTable(table_file, ["vqa", "gqa"])
    assert part.names == [name for name in table.names if name in part.ids]
    assert [part.ids[name] for name in part.names] == list(range(len(part)))
    with pytest.raises(InputError, match=r"no answers of coco, it has gqa, visual7w, vqa"):
        AnswerTable(table_file, ["vqa", "coco"])


@pytest.mark.parametrize(("name", "size", "hits"), [("vqa", 3129, 3124), ("gqa", 1842, 1736)])
def test_the_maps_of_vqa_and_gqa(
    shared_data: Path, table_file: Path, name: str, size: int, hits: int
) -> None:
    folder = shared_data / "lxmert"
    files = (folder / f"{name}_trainval_ans2label.json", folder / f"{name}_trainval_label2ans.json")
    answers = AnswerMap.from_files(*files)
    assert len(answers) == size
    assert answers.names == AnswerMap.from_files(files[0], None).names
    assert answers.names == AnswerMap.from_files(None, files[1]).names
    assert all(answers.index(answer) == i for i, answer in enumerate(answers.names))
    table = AnswerTable(table_file)
    missed = {answer for answer in answers.names if table.find(answer) is None}
    assert size - len(missed) == hits
    if name == "vqa":
        assert missed == {"", "visilab", "5 star", "1 4", "1 world"}
        assert (answers.names[0], answers.index("yes"), answers.index("no")) == ("", 425, 1403)


@pytest.mark.parametrize(
    "label",
    [
        {"yes": 1.0},
        {"a cat": 0.3, "cat": 1.0},
        {"cat": 1.0, "a cat": 0.3},
        {"a cat": 0.3, "the cat": 0.6, "Cat.": 0.9},
        {"grey": 0.3, "gray": 0.6, "no such answer": 1.0},
        {"two": 1.0, "2": 0.3},
        {"": 1.0},
        {},
    ],
)
def test_selection_overwrites_like_the_original(table_file: Path, label: dict[str, float]) -> None:
    table = AnswerTable(table_file)
    before = dict(label)
    selected = table.select(label)
    assert label == before
    assert {table.names[i]: score for i, score in selected.items()} == original_selection(
        label, set(table.names)
    )


def test_selection_overwrites_and_does_not_add(table_file: Path) -> None:
    table = AnswerTable(table_file)
    assert table.select({"cat": 1.0, "a cat": 0.3}) == {table.ids["cat"]: 0.3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "dict, wanted a list"),
        ([], "no answers"),
        ([{"ans": "a"}], "entry 0"),
        ([{"ans": "a", "dsets": ["vqa"]}, {"ans": 3, "dsets": []}], "entry 1"),
        ([{"ans": "a", "dsets": ["vqa"]}, {"ans": "a", "dsets": ["gqa"]}], "entry 1 repeats the answer 'a'"),
    ],
)
def test_bad_tables(tmp_path: Path, content: Any, message: str) -> None:
    path = write_json(tmp_path / "table.json", content)
    with pytest.raises(InputError, match=f"{path}.*{message}"):
        AnswerTable(path)


def test_map_from_labels_saves_and_loads(tmp_path: Path) -> None:
    answers = AnswerMap.from_labels([{"no": 1, "blue": 0.3}, {}, {"yes": 1, "no": 1}])
    assert answers.names == ["blue", "no", "yes"]
    answers.save(tmp_path)
    again = AnswerMap.from_files(tmp_path / "ans2label.json", tmp_path / "label2ans.json")
    assert again.names == answers.names
    assert again.select({"no": 0.5, "red": 1.0}) == {1: 0.5}
    assert "no" in again
    assert again.find("No") is None


def test_an_answer_outside_the_map_is_placed() -> None:
    answers = AnswerMap(["no", "yes"], source="label2ans.json")
    with pytest.raises(
        InputError, match=r"train.json: question 7: answer 'maybe' is not among the 2 .*label2ans"
    ):
        answers.index("maybe", "train.json", 7)
    with pytest.raises(InputError, match=r"^answer 'maybe'"):
        answers.index("maybe")


@pytest.mark.parametrize(
    ("ids", "names", "message"),
    [
        ({"a": 0, "b": 1}, ["b", "a"], "answer 0 is 'b' against 'a'"),
        ({"a": 0, "b": 1}, ["a"], "1 answers against 2"),
        ({"a": 0, "b": 2}, None, "not 0 to 1"),
        ({"a": 0, "b": 0}, None, "not 0 to 1"),
        ({"a": "0"}, None, "wanted a dictionary from answer to number"),
        ({"a": True}, None, "wanted a dictionary from answer to number"),
        (["a"], None, "wanted a dictionary"),
        ({}, None, "no answers"),
        (None, ["a", "a"], "both number 0 and 1"),
        (None, ["a", 3], "wanted a list of answers"),
        (None, [], "no answers"),
        (None, {"a": 0}, "wanted a list"),
    ],
)
def test_bad_maps(tmp_path: Path, ids: Any, names: Any, message: str) -> None:
    files = [
        None if content is None else write_json(tmp_path / name, content)
        for name, content in (("ans2label.json", ids), ("label2ans.json", names))
    ]
    with pytest.raises(InputError, match=message) as caught:
        AnswerMap.from_files(*files)
    assert str(tmp_path) in str(caught.value)
