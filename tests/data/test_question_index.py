"""Questions read where they stand in their file: the same batches as from memory, and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_data import known_store, small_encoder, write_json

from lxmert_fast.data import question_index
from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.data.batches import BatchKey
from lxmert_fast.data.question_index import QuestionIndex
from lxmert_fast.data.vqa import VqaDataset, read_questions
from lxmert_fast.errors import InputError


class World:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "q.json"
        self.store = known_store(folder, [2, 3, 3])
        self.text = small_encoder(folder)

    def index(self, content: Any = None) -> QuestionIndex:
        if content is not None:
            write_json(self.path, content)
        return QuestionIndex(self.path, self.store, self.text)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def questions(count: int = 30) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {
            "question_id": number if number % 2 else f"é{number}",
            "img_id": f"i{rng.integers(3)}",
            "sent": " ".join(f"w{word}" for word in rng.integers(1, 4, rng.integers(1, 4))) + " 猫",
        }
        for number in range(count)
    ]


@pytest.mark.parametrize(
    "written",
    [
        lambda rows: json.dumps(rows).encode(),
        lambda rows: json.dumps(rows, indent=4, ensure_ascii=False).encode(),
        lambda rows: b"\xef\xbb\xbf \r\n" + json.dumps(rows, ensure_ascii=False).encode() + b"\n\n",
    ],
    ids=["plain", "in UTF-8", "with a byte order mark"],
)
def test_questions_are_found_where_they_stand(world: World, written: Any, monkeypatch: Any) -> None:
    """Characters of several bytes, and a file read in pieces smaller than an entry."""
    from lxmert_fast.data import json_list

    monkeypatch.setattr(json_list, "_PIECE", 7)
    world.path.write_bytes(written(questions()))
    index = world.index()
    wanted = read_questions(world.path)
    assert len(index) == len(wanted) == 30
    order = np.random.default_rng(1).permutation(30)
    assert index.questions(order) == [wanted[row] for row in order]
    assert list(index.ids()) == [question.question_id for question in wanted]
    assert index.number == 1


def test_batches_are_those_from_memory(world: World) -> None:
    index = world.index(questions())
    held = VqaDataset(world.path, world.store, world.text, AnswerMap(["no"]))
    np.testing.assert_array_equal(index.images, held.images)
    for rows in (np.arange(30), np.array([7, 3, 3]), np.array([29])):
        found, wanted = index[BatchKey(0, 0, rows)], held[BatchKey(0, 0, rows)]
        assert found.example_ids == wanted.example_ids
        assert found.inputs.keys() == wanted.inputs.keys()
        # held sentences are numbered over the whole file, these over the batch: their order differs
        for value in (found.inputs, wanted.inputs):
            if "text_index" in value:
                which = value.pop("text_index")
                value |= {name: value[name][which] for name in ("input_ids", "attention_mask")}
        for name, value in wanted.inputs.items():
            assert torch.equal(found.inputs[name], value), name


def test_an_id_that_occurs_twice_is_named(world: World) -> None:
    rows = questions()
    rows[20]["question_id"] = rows[4]["question_id"]
    with pytest.raises(InputError, match=r"entry 20: question_id '\\?x?.*4' is also that of entry 4"):
        world.index(rows)


def test_ids_of_one_hash_are_not_one_id(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(question_index, "hash", lambda value: 1, raising=False)
    assert len(world.index(questions())) == 30


def test_images_without_regions_are_counted(world: World) -> None:
    rows = questions(6)
    for row, image in ((2, "x"), (4, "y"), (5, "x")):
        rows[row]["img_id"] = image
    with pytest.raises(InputError) as error:
        world.index(rows)
    assert "image 'x' is not in" in str(error.value)
    assert "(3 questions of 2 images are not)" in str(error.value)
    with pytest.raises(InputError, match="3 questions of 2 images"):
        VqaDataset(world.path, world.store, world.text, AnswerMap(["no"]))


def test_a_file_that_changes_is_named(world: World) -> None:
    index = world.index(questions())
    world.path.write_bytes(b"x" * world.path.stat().st_size)
    with pytest.raises(InputError, match=r"q\.json: entry 3: changed while it was read"):
        index.questions(np.array([3]))
    world.path.write_bytes(b"[3, " * world.path.stat().st_size)
    with pytest.raises(InputError, match="entry 0: changed while it was read"):
        index.questions(np.array([0]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "end of the file"),
        (b'[{"question_id": true, "img_id": "i0", "sent": "w1"}]', "question_id: found True"),
        (b'[{"question_id": 1, "img_id": "i0", "sent": 3}]', "sent: found 3, wanted a string"),
        (b'[{"question_id": 1, "img_id": "i0", "sent": "w1"}', "after it, wanted ',' or ']'"),
        (b'[{"question_id": 1, "img_id": "i0", "sent": "\xff"}]', "not UTF-8"),
    ],
)
def test_a_broken_file_is_named(world: World, content: bytes, words: str) -> None:
    world.path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        world.index()
