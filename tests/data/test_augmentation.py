"""Questions of pre-training as more questions of a data set: which are taken, with which labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_data import write_json
from typer.testing import CliRunner

from lxmert_fast import cli
from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.data.augmentation import augment
from lxmert_fast.data.vqa import read_questions
from lxmert_fast.errors import InputError

PRETRAINING = [
    {
        "img_id": "i0",
        "sentf": {
            "mscoco": ["a dog"],
            "vqa": ["is it?", "what is it?"],
            "gqa": ["who?", "how many?", "why?"],
        },
        "labelf": {
            "vqa": [{"yes": 1.0}, {"dog": 1.0, "The cat.": 0.3, "cat": 0.6}],
            "gqa": [{"nobody": 1.0}, {"two": 1.0}, {}],
        },
    }
]
ANSWERS = ["yes", "dog", "cat", "2"]
KNOWN = [{"question_id": 1, "img_id": "i0", "sent": "is it?", "label": {"yes": 1.0}}]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return {
        name: write_json(tmp_path / f"{name}.json", value)
        for name, value in (("pretraining", PRETRAINING), ("answers", ANSWERS), ("known", KNOWN))
    }


def test_what_is_added(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    words = [
        "data",
        "augment",
        out,
        files["pretraining"],
        "--answers",
        files["answers"],
        "--known",
        files["known"],
    ]
    ended = CliRunner().invoke(cli.app, list(map(str, words)))
    assert ended.exit_code == 0, ended.output
    assert "2 questions; 1 were there already, 2 have no answer in the list" in ended.output
    found = read_questions(out)
    assert [(one.question_id, one.image_id, one.sentence, one.label) for one in found] == [
        ("i0_vqa_001", "i0", "what is it?", {"dog": 1.0, "cat": 0.6}),
        ("i0_gqa_001", "i0", "how many?", {"2": 1.0}),
    ]


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("pretraining", [], "found an empty list"),
        ("pretraining", [PRETRAINING[0] | {"labelf": {"vqa": [{"yes": 1.0}]}}], "found 1 labels, wanted 2"),
        ("pretraining", {"a": 1}, "pretraining.json"),
        ("known", [{"question_id": 1}], "known.json"),
        ("answers", [], "answers.json: no answers"),
        ("answers", ["zebra"], "no question to add: 1 are there already, 4 have no answer of .*answers.json"),
    ],
)
def test_what_is_wrong_is_named(
    files: dict[str, Path], tmp_path: Path, name: str, value: Any, line: str
) -> None:
    files[name].write_text(json.dumps(value))
    with pytest.raises(InputError, match=line) as caught:
        augment(
            [files["pretraining"]],
            AnswerMap.from_files(None, files["answers"]),
            [files["known"]],
            tmp_path / "o.json",
        )
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "answers.json",
        "known.json",
        "pretraining.json",
    ]


def test_a_missing_file_and_a_folder_in_the_way(files: dict[str, Path], tmp_path: Path) -> None:
    answers = AnswerMap(ANSWERS)
    with pytest.raises(InputError, match="nowhere"):
        augment([tmp_path / "nowhere.json"], answers, [], tmp_path / "o.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder: cannot be written"):
        augment([files["pretraining"]], answers, [], tmp_path / "folder")
