"""Several question files that make one data set, and the first images of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_data import aggregated, known_store, small_encoder, write_json

from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.data.batches import BatchKey
from lxmert_fast.data.examples import read_examples
from lxmert_fast.data.examples_cache import read_examples_once
from lxmert_fast.data.first_images import of_first_images
from lxmert_fast.data.vqa import VqaDataset, parse_question
from lxmert_fast.errors import InputError

ANSWERS = AnswerMap(["no", "yes", "blue"])


def rows(first: int, images: list[int], **more: Any) -> list[dict[str, Any]]:
    label = {"label": {"yes": 1.0, "no": 0.3}}
    return [
        {"question_id": first + place, "img_id": f"i{image}", "sent": "w1"} | label | more
        for place, image in enumerate(images)
    ]


class World:
    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.text = folder, known_store(folder, [1] * 6), small_encoder(folder)

    def dataset(self, *contents: list[dict[str, Any]], **options: Any) -> VqaDataset:
        files = [write_json(self.folder / f"{place}.json", content) for place, content in enumerate(contents)]
        return VqaDataset(files, self.store, self.text, ANSWERS, **options)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_files_follow_each_other(world: World) -> None:
    dataset = world.dataset(rows(0, [0, 1]), rows(10, [5, 4, 0]))
    assert dataset.question_ids == [0, 1, 10, 11, 12]
    assert dataset.images.tolist() == [0, 1, 5, 4, 0]


def test_a_question_of_two_files(world: World) -> None:
    with pytest.raises(InputError) as caught:
        world.dataset(rows(0, [0, 1]), rows(1, [0]))
    first, second = world.folder / "0.json", world.folder / "1.json"
    assert str(caught.value) == f"{second}: entry 0: question_id 1 is also that of {first}: entry 1"


def test_labels_in_one_of_two_files(world: World) -> None:
    unlabelled = [{"question_id": 7, "img_id": "i0", "sent": "w1"}]
    with pytest.raises(InputError, match=r"1\.json: entry 0 \(question 7\): no label, others have one"):
        world.dataset(rows(0, [0]), unlabelled)


def test_faults_name_the_file_they_are_in(world: World) -> None:
    with pytest.raises(InputError, match=r"1\.json: question 5: image 'i9' is not in"):
        world.dataset(rows(0, [0]), rows(5, [9]))
    with pytest.raises(InputError, match=r"1\.json: question 5: answer 'red' is not among"):
        world.dataset(rows(0, [0]), rows(5, [1], label={"red": 1.0}))


def test_answers_that_are_left_out_are_counted(world: World) -> None:
    odd = rows(5, [1, 2], label={"red": 1.0, "yes": 0.3})
    dataset = world.dataset(rows(0, [0]), odd, unknown_answers="ignore")
    assert dataset.unknown == 2
    assert world.dataset(rows(0, [0])).unknown == 0


def test_each_file_keeps_its_first_images(world: World) -> None:
    """All questions of these images, those further down too; the second file is not left empty."""
    first, second = rows(0, [3, 3, 0, 1, 3, 2]), rows(10, [3, 5, 4])
    dataset = world.dataset(first, second, images_per_file=2)
    assert dataset.question_ids == [0, 1, 2, 4, 10, 11]
    assert len(world.dataset(first, second, images_per_file=6)) == 9


def test_first_images_takes_none_for_all() -> None:
    questions = [parse_question("", row) for row in rows(0, [2, 1, 2])]
    assert list(of_first_images(questions, None)) == questions
    assert list(of_first_images(questions, 1)) == [questions[0], questions[2]]


def test_labels_of_the_best_answer(world: World) -> None:
    """The first of equals and of none, as `max` has it in the original."""
    labels = [{"yes": 0.3, "blue": 0.9}, {"blue": 0.6, "yes": 0.6}, {}]
    dataset = world.dataset(
        *([*rows(place, [0], label=label)] for place, label in enumerate(labels)), best_answer=True
    )
    labels = dataset[BatchKey(0, 0, np.arange(3))].inputs["labels"]
    assert labels.dtype == torch.int64
    assert labels.tolist() == [2, 1, 0]


def test_pre_training_files_keep_their_first_images_too(world: World) -> None:
    files = [
        write_json(world.folder / f"{name}.json", aggregated(5, 1, 1, seed)) for seed, name in enumerate("ab")
    ]
    sources = files, world.store, world.text, ANSWERS
    assert len(read_examples(*sources)) == 20
    assert read_examples(*sources, 2).images.tolist() == [0, 0, 1, 1] * 2
    for limit, count in ((None, 20), (2, 8), (3, 12)):
        assert len(read_examples_once(*sources, world.folder / "cache", limit)) == count
