"""Question files, their batches and the data-set folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_data import known_store, small_encoder, write_json

from lxmert_fast.data import easyvqa
from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.data.batches import BatchKey, EpochBatches, make_loader
from lxmert_fast.data.check import check_file, check_folder
from lxmert_fast.data.examples import read_sentences
from lxmert_fast.data.json_writing import write_entries
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.text import SPECIAL_TOKENS, TextEncoder
from lxmert_fast.data.vqa import VqaDataset, VqaFolder, read_questions
from lxmert_fast.errors import InputError
from lxmert_fast.train.evaluate import answer_questions

ANSWERS = AnswerMap(["no", "yes", "blue"], source="label2ans.json")


def questions() -> list[dict[str, Any]]:
    return [
        {"question_id": 9, "img_id": "i1", "sent": "w1 w2", "label": {"yes": 1, "no": 0.3}},
        {"question_id": "9", "img_id": "i0", "sent": "w3", "label": {}, "answer_type": "other"},
        {
            "question_id": 10**20,
            "img_id": "i1",
            "sent": "w4 w5 w6",
            "label": {"blue": 0.6},
            "question_type": "q",
        },
        {"question_id": -1, "img_id": "i2", "sent": "w7", "label": {"blue": 1.0}},
    ]


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store: RegionStore = known_store(folder, [2, 3, 3])
        self.text: TextEncoder = small_encoder(folder)

    def dataset(self, content: Any = None, **options: Any) -> VqaDataset:
        path = write_json(self.folder / "q.json", questions() if content is None else content)
        return VqaDataset(path, self.store, self.text, ANSWERS, **options)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_labelled_batch_with_a_shared_image(world: World) -> None:
    dataset = world.dataset()
    assert (len(dataset), dataset.labelled) == (4, True)
    batch = dataset[BatchKey(0, 0, np.array([2, 1, 0]))]
    inputs = batch.inputs
    assert inputs["input_ids"].tolist() == [[2, 9, 10, 11, 3], [2, 8, 3, 0, 0], [2, 6, 7, 3, 0]]
    assert inputs["attention_mask"].sum(1).tolist() == [5, 3, 4]
    assert inputs["visual_feats"].shape == (2, 3, 4)
    assert inputs["visual_feats"].dtype == torch.float16
    assert inputs["image_index"].tolist() == [1, 0, 1]
    assert inputs["visual_feats"][inputs["image_index"], 0, 0].tolist() == [2, 1, 2]
    assert inputs["visual_attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    np.testing.assert_array_equal(inputs["labels"], np.float32([[0, 0, 0.6], [0, 0, 0], [0.3, 1, 0]]))
    assert batch.example_ids == [str(10**20), "9", "9"]
    assert batch.extras["question_ids"] == [10**20, "9", 9]
    assert batch.extras["answer_types"] == ["", "other", ""]
    assert batch.extras["question_types"] == ["q", "", ""]


def test_a_question_asked_twice_stands_once(world: World) -> None:
    """Twice in the same tokens: w1 of two images, once in capitals; padding and order are of the texts."""
    asked = ("w1 w2", "w1", "W1", "w1 w2 w3 w4", "w1 w2")
    entries = [
        {"question_id": number, "img_id": f"i{number % 3}", "sent": sent} for number, sent in enumerate(asked)
    ]
    dataset = world.dataset(entries)
    batch = dataset[BatchKey(0, 0, np.array([4, 2, 1, 0]))]
    inputs = batch.inputs
    assert sorted(inputs["input_ids"].tolist()) == [[2, 6, 3, 0], [2, 6, 7, 3]]
    assert inputs["input_ids"][inputs["text_index"]].tolist() == [
        [2, 6, 7, 3],
        *[[2, 6, 3, 0]] * 2,
        [2, 6, 7, 3],
    ]
    assert inputs["attention_mask"][inputs["text_index"]].sum(1).tolist() == [4, 3, 3, 4]
    assert inputs["text_index"].dtype == torch.int64
    assert batch.extras["rows"].tolist() == batch.extras["question_ids"] == [4, 2, 1, 0]
    assert "text_index" not in dataset[BatchKey(0, 0, np.array([3, 1, 4]))].inputs


def test_sharing_is_the_plain_batch(world: World) -> None:
    """Random questions of few words and images: every pair has its own tokens, mask, regions and labels."""
    rng = np.random.default_rng(0)
    entries = [
        {
            "question_id": number,
            "img_id": f"i{rng.integers(3)}",
            "sent": " ".join(f"w{word}" for word in rng.integers(1, 3, rng.integers(1, 4))),
            "label": {"yes": 1.0} if rng.random() < 0.5 else {},
        }
        for number in range(40)
    ]
    dataset = world.dataset(entries)
    for rows in (rng.permutation(40)[:12], np.arange(40), np.zeros(3, np.int64)):
        inputs = dataset[BatchKey(0, 0, rows)].inputs
        assert len(inputs["input_ids"]) == inputs["text_index"].max() + 1 < len(rows)
        assert len(inputs["visual_feats"]) == inputs["image_index"].max() + 1 < len(rows)
        for place, row in enumerate(rows):
            alone = dataset[BatchKey(0, 0, np.array([row]))].inputs
            assert not {"text_index", "image_index"} & set(alone)
            text, image = inputs["text_index"][place], inputs["image_index"][place]
            boxes, width = alone["visual_feats"].shape[1], alone["input_ids"].shape[1]
            assert torch.equal(inputs["input_ids"][text, :width], alone["input_ids"][0])
            assert inputs["attention_mask"][text].sum() == width
            assert torch.equal(inputs["visual_feats"][image, :boxes], alone["visual_feats"][0])
            assert torch.equal(inputs["visual_pos"][image, :boxes], alone["visual_pos"][0])
            assert torch.equal(inputs["labels"][place], alone["labels"][0])


def test_different_images_need_no_index(world: World) -> None:
    inputs = world.dataset(trim=False)[BatchKey(0, 0, np.array([3, 0]))].inputs
    assert "image_index" not in inputs
    assert "visual_attention_mask" not in inputs
    assert inputs["visual_feats"][:, 0, 0].tolist() == [3, 2]
    assert inputs["input_ids"].shape == (2, 20)


def test_unlabelled_and_blind(world: World) -> None:
    entries = [{key: value for key, value in entry.items() if key != "label"} for entry in questions()]
    dataset = world.dataset(entries, blind=True)
    assert not dataset.labelled
    inputs = dataset[BatchKey(0, 0, np.arange(4))].inputs
    assert "labels" not in inputs
    assert not inputs["visual_feats"].any()
    assert not inputs["visual_pos"].any()


def test_answers_outside_the_map(world: World) -> None:
    entries = questions()
    entries[2]["label"] = {"blue": 0.6, "teal": 0.3}
    with pytest.raises(
        InputError, match=r"q.json: question 1000.*: answer 'teal' is not among the 3 .*label2ans"
    ):
        world.dataset(entries)
    labels = world.dataset(entries, unknown_answers="ignore")[BatchKey(0, 0, np.array([2]))].inputs["labels"]
    np.testing.assert_array_equal(labels, np.float32([[0, 0, 0.6]]))


def test_missing_image(world: World) -> None:
    entries = questions()
    entries[3]["img_id"] = "far"
    with pytest.raises(InputError, match=r"q.json: question -1: image 'far' is not in .*regions.h5"):
        world.dataset(entries)


def change(edit: Callable[[list[Any]], Any]) -> list[Any]:
    entries = questions()
    edit(entries)
    return entries


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (change(lambda e: e[1].pop("question_id")), "entry 1: question_id: found nothing"),
        (change(lambda e: e[1].update(question_id=True)), "entry 1: question_id: found True"),
        (change(lambda e: e[1].update(question_id=1.5)), "entry 1: question_id: found 1.5"),
        (change(lambda e: e[1].update(question_id=9)), "entry 1: question_id 9 is also that of entry 0"),
        (change(lambda e: e[1].pop("img_id")), r"entry 1 \(question '9'\): img_id: found nothing"),
        (change(lambda e: e[1].update(sent=["w1"])), "sent: found .*, wanted a string"),
        (change(lambda e: e[1].update(label="yes")), "label: found 'yes', wanted {answer: score}"),
        (change(lambda e: e[1].update(label={"yes": 1.5})), "answer 'yes' has score 1.5, wanted 0 to 1"),
        (change(lambda e: e[1].update(label=None)), "label: found nothing"),
        (change(lambda e: e[1].pop("label")), "no label, others have one"),
        (change(lambda e: e[1].update(answer_type=3)), "answer_type: found 3"),
        ([], "an empty list"),
    ],
)
def test_bad_questions(world: World, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        world.dataset(content)
    assert str(caught.value).startswith(str(world.folder / "q.json"))
    assert "\n" not in str(caught.value)


def test_official_vqa_questions(world: World, shared_data: Path) -> None:
    official = shared_data / "formats/vqav2"
    annotations = json.loads((official / "annotations.json").read_text())["annotations"]
    answers_of = {row["question_id"]: [vote["answer"] for vote in row["answers"]] for row in annotations}
    entries = []
    for row in json.loads((official / "questions.json").read_text())["questions"]:
        votes = answers_of.get(row["question_id"], [])
        label = {answer: min(0.3 * votes.count(answer), 1.0) for answer in votes}
        entries.append(
            {"question_id": row["question_id"], "img_id": "i0", "sent": row["question"], "label": label}
        )
    path = write_json(world.folder / "official.json", entries)
    answers = AnswerMap.from_files(None, shared_data / "lxmert/vqa_trainval_label2ans.json")
    dataset = VqaDataset(path, world.store, world.text, answers, unknown_answers="ignore")
    labels = dataset[BatchKey(0, 0, np.arange(len(dataset)))].inputs["labels"]
    assert labels.shape == (len(entries), 3129)
    for row, entry in enumerate(entries):
        kept = {answer: score for answer, score in entry["label"].items() if answer in answers}
        assert labels[row].sum().item() == pytest.approx(sum(kept.values()), rel=1e-6)


def test_workers_change_nothing(world: World) -> None:
    dataset = world.dataset()
    wanted = [dataset[key] for key in EpochBatches(4, 2, seed=1)]
    found = list(make_loader(dataset, EpochBatches(4, 2, seed=1), num_workers=2))
    for one, two in zip(found, wanted, strict=True):
        np.testing.assert_equal(one.extras, two.extras)
        assert one.inputs.keys() == two.inputs.keys()
        assert all(torch.equal(one.inputs[name], two.inputs[name]) for name in one.inputs)


class ReadsTheWord(torch.nn.Module):
    """Its answer is the number of the question's first word; it counts the images that it is shown."""

    device = torch.device("cpu")
    images = 0

    def forward(self, input_ids: torch.Tensor, **inputs: torch.Tensor) -> SimpleNamespace:
        self.images += len(inputs["visual_feats"])
        words = input_ids[:, 1] - 5
        words = words[inputs["text_index"]] if "text_index" in inputs else words
        return SimpleNamespace(question_answering_score=torch.nn.functional.one_hot(words, 3).float())


def test_evaluation_is_in_file_order_though_images_are_together(world: World) -> None:
    rng = np.random.default_rng(3)
    words, images = rng.integers(3, size=30), rng.permutation(np.repeat(np.arange(3), 10))
    entries = [
        {
            "question_id": number,
            "img_id": f"i{image}",
            "sent": f"w{word}",
            "label": {ANSWERS.names[word]: 0.5 + number / 100},
            "answer_type": str(number % 4),
            "question_type": str(number % 5),
        }
        for number, (word, image) in enumerate(zip(words, images, strict=True))
    ]
    model: Any = ReadsTheWord()
    found = answer_questions(model, world.dataset(entries), batch_size=15)
    assert model.images == 4  # the second of three in both batches
    assert found.question_ids == list(range(30))
    assert found.answers == [ANSWERS.names[word] for word in words]
    np.testing.assert_allclose(found.scores, 0.5 + np.arange(30) / 100, rtol=1e-6)
    assert found.answer_types == [str(number % 4) for number in range(30)]
    assert found.question_types == [str(number % 5) for number in range(30)]
    for entry in entries:
        del entry["label"]
    unlabelled = answer_questions(model, world.dataset(entries), batch_size=7)
    assert unlabelled.scores is None
    assert unlabelled.answers == found.answers


@pytest.fixture(scope="module")
def easy(tmp_path_factory: pytest.TempPathFactory) -> tuple[VqaFolder, dict[str, Path]]:
    pytest.importorskip("easy_vqa", reason="needs the package easy-vqa: pip install 'lxmert-fast[demo]'")
    root = tmp_path_factory.mktemp("easy") / "data"
    return VqaFolder(root), easyvqa.export(root)


def test_easy_vqa(easy: tuple[VqaFolder, dict[str, Path]]) -> None:
    folder, pictures = easy
    train, test = read_questions(folder.train), read_questions(folder.test)
    assert (len(train), len(test), len(pictures)) == (38575, 9673, 5000)
    assert len({question.question_id for question in train + test}) == 48248
    images = [{question.image_id for question in part} for part in (train, test)]
    assert not images[0] & images[1]
    assert images[0] | images[1] <= pictures.keys()
    assert all(path.is_file() for path in pictures.values())
    assert len(set(pictures.values())) == 5000
    answers = folder.answers()
    assert len(answers) == 13
    assert all(len(question.label or {}) == 1 for question in train + test)
    kinds = {(question.answer_type, next(iter(question.label or {}))) for question in train}
    assert {answer for kind, answer in kinds if kind == "yes/no"} == {"yes", "no"}
    assert {answer for kind, answer in kinds if kind == "shape"} == {"circle", "rectangle", "triangle"}
    assert len(kinds) == 13
    assert {question.question_type for question in train} >= {"is there", "what color", "what shape"}


def test_pretraining_entries(easy: tuple[VqaFolder, dict[str, Path]], tmp_path: Path) -> None:
    train = read_questions(easy[0].train)
    path = tmp_path / "pretraining.json"
    write_entries(path, easyvqa.pretraining_entries(train))
    entries = list(read_sentences(path))
    assert len(entries) == len({question.image_id for question in train})
    assert sum(len(entry.sentences["vqa"]) for entry in entries) == len(train)
    first = entries[0]
    assert set(first.labels) == {"vqa"}
    pairs = zip(first.sentences["vqa"], first.labels["vqa"], first.sentences["statement"], strict=True)
    assert all(statement == f"{sentence} {next(iter(label))}" for sentence, label, statement in pairs)
    assert "what is the blue shape? rectangle" in first.sentences["statement"]


def test_statements_take_the_best_answer(tmp_path: Path) -> None:
    entries = questions()
    path = write_json(tmp_path / "q.json", entries)
    made = easyvqa.pretraining_entries(read_questions(path))
    assert made[0] == {
        "img_id": "i1",
        "sentf": {"vqa": ["w1 w2", "w4 w5 w6"], "statement": ["w1 w2 yes", "w4 w5 w6 blue"]},
        "labelf": {"vqa": [{"yes": 1, "no": 0.3}, {"blue": 0.6}]},
    }
    assert made[1] == {"img_id": "i0", "sentf": {"vqa": ["w3"]}, "labelf": {"vqa": [{}]}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    root.mkdir()
    known_store(root, [1, 1, 1])
    write_json(root / "train.json", questions())
    write_json(root / "test.json", questions()[:2])
    return root


def test_folder_answers(folder: Path) -> None:
    assert VqaFolder(folder).answers().names == ["blue", "no", "yes"]
    write_json(folder / "trainval_label2ans.json", ["yes", "no", "blue", "red"])
    assert VqaFolder(folder).answers().names == ["yes", "no", "blue", "red"]
    write_json(folder / "trainval_ans2label.json", {"yes": 0, "no": 1, "blue": 2})
    with pytest.raises(InputError, match=r"trainval_label2ans.json: does not invert"):
        VqaFolder(folder).answers()


def test_folder_without_questions(folder: Path) -> None:
    (folder / "test.json").rename(folder / "valid.json")
    assert VqaFolder(folder).test == folder / "valid.json"
    (folder / "valid.json").unlink()
    with pytest.raises(InputError, match=r"set: no test.json or valid.json in it"):
        _ = VqaFolder(folder).test


def faults(found: Any) -> list[str]:
    return [line for line in found if line is not None]


def test_check_names_every_bad_entry(folder: Path) -> None:
    assert faults(check_folder(folder)) == []
    write_json(folder / "label2ans.json", ["yes", "no", "blue"])
    entries = questions()
    entries[0]["img_id"] = "far"
    entries[1]["sent"] = 3
    entries[2]["label"] = {"teal": 1}
    entries.append(dict(entries[3]))
    write_json(folder / "train.json", entries)
    (folder / "vocab.txt").write_text("\n".join(SPECIAL_TOKENS[1:]))
    found = faults(check_folder(folder))
    assert len(found) == 5
    wanted = ("vocab.txt: no [PAD]", "entry 0", "entry 1", "entry 2", "entry 4: question_id -1")
    for line, words in zip(found, wanted, strict=True):
        assert line.startswith(str(folder))
        assert words in line
    assert "image 'far'" in found[1]
    assert "'teal'" in found[3]


def test_check_of_files(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(
        path, [{"img_id": "i0", "sentf": {}, "labelf": {}}, {"img_id": "i9", "sentf": {}, "labelf": {}}]
    )
    assert list(check_file(path)) == [None, None]
    found = list(check_file(path, images=RegionStore(folder / "regions.h5")))
    assert found[0] is None
    assert "image 'i9'" in str(found[1])
    path.write_text("[{")
    assert len(faults(check_file(path))) == 1
    assert faults(check_folder(tmp_path / "nowhere"))
