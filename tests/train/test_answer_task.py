"""Fine-tuning on questions as the original's scripts set it up: files, parts of them, answers, losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import make_config, scatter
from small_data import known_store, small_encoder, write_json

from lxmert_fast.answering import save_model_folder
from lxmert_fast.data.batches import BatchKey
from lxmert_fast.errors import InputError
from lxmert_fast.models import LxmertForPreTraining
from lxmert_fast.train.finetuning import IMAGES_PER_FILE, AnswerTask, finetune
from lxmert_fast.train.pretraining import IMAGES_PER_FILE as PRETRAINING_IMAGES
from lxmert_fast.train.settings import FinetuneSettings, check_settings, load_settings

ANSWERS = ["a0", "a1", "a2", "a3"]
SMALL = {
    "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64,
    "l_layers": 1, "r_layers": 1, "x_layers": 1,
}  # fmt: skip
FITTING: dict[str, Any] = {
    "vocab_size": 100, "visual_feat_dim": 4, "num_object_labels": 50, "num_attr_labels": 20,
}  # fmt: skip


class Files:
    """Questions of two training files and two validation files, 4 images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = known_store(folder, [2, 2, 2, 2])
        self.data: dict[str, Any] = {
            "train": [self.questions("train", 0, 24), self.questions("nominival", 100, 12)],
            "valid": [self.questions("minival", 200, 8), self.questions("testdev", 300, 4)],
            "regions": list(self.store.paths),
            "vocabulary": small_encoder(folder).vocabulary,
            "answers": write_json(folder / "trainval_label2ans.json", ANSWERS),
        }

    def questions(self, name: str, first: int, count: int, **more: Any) -> Path:
        rows = [
            {
                "question_id": number,
                "img_id": f"i{number % 4}",
                "sent": f"w{number % 9} w{number % 7}",
                "label": {f"a{number % 3}": 1.0, "a3": 0.3},
            }
            | more
            for number in range(first, first + count)
        ]
        return write_json(self.folder / f"{name}.json", rows)

    def settings(self, *, model: dict[str, Any] | None = None, **more: Any) -> FinetuneSettings:
        data = self.data | more.pop("data", {})
        tree = {
            "model": SMALL if model is None else model,
            "data": data,
            "optimisation": {"epochs": 1, "batch_size": 8, "lr": 1e-3},
            "run": {"output": self.folder / "out", "workers": 0, "device": "cpu", "log_every": 1},
        }
        return check_settings(FinetuneSettings, tree | more, "test")

    def pretrained(self, table: list[str]) -> Path:
        """A pre-trained folder with this list of answers."""
        config = make_config(**FITTING, num_qa_labels=len(table))
        folder = self.folder / "pretrained"
        save_model_folder(
            scatter(LxmertForPreTraining(config)), small_encoder(self.folder), table, folder, None
        )
        return folder


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_one_path_or_several(files: Files) -> None:
    task = AnswerTask(files.settings())
    assert (len(task.train), len(task.valid or [])) == (36, 12)
    one = {"train": str(files.data["train"][0]), "valid": str(files.data["valid"][0])}
    task = AnswerTask(files.settings(data=one))
    assert (len(task.train), len(task.valid or [])) == (24, 8)


def test_what_was_read_is_told_at_the_start_only(files: Files) -> None:
    data = {
        "unknown_answers": "ignore",
        "train": [*files.data["train"], files.questions("odd", 50, 2, label={"x": 1})],
    }
    settings, told = files.settings(data=data), []
    summary = finetune(settings, report=told.append)
    assert summary["updates"] == 4
    assert told[0].startswith("training: 38 questions of ")
    assert told[0].endswith("odd.json, 2 answers outside the list left out")
    assert told[1].startswith("validation: 12 questions of ")
    assert told[1].endswith("testdev.json, 0 answers outside the list left out")
    again: list[str] = []
    finetune(settings, report=again.append)
    assert not any("questions of" in line for line in again)


def test_answers_without_a_list_are_those_of_all_training_files(files: Files) -> None:
    data = {
        "answers": None,
        "train": [files.data["train"][0], files.questions("odd", 50, 1, label={"x": 1.0})],
    }
    assert AnswerTask(files.settings(data=data)).answers.names == [*ANSWERS, "x"]
    tiny = AnswerTask(files.settings(data=data | {"subset": "tiny"}))
    assert tiny.answers.names == [*ANSWERS, "x"]


@pytest.mark.parametrize("subset", ["tiny", "fast"])
def test_a_part_of_every_file(files: Files, monkeypatch: pytest.MonkeyPatch, subset: str) -> None:
    monkeypatch.setitem(IMAGES_PER_FILE, subset, 1)
    task = AnswerTask(files.settings(data={"subset": subset}))
    assert (len(task.train), len(task.valid or [])) == (9, 3)
    assert {int(number) // 100 for number in task.train.question_ids} == {0, 1}


def test_the_originals_numbers_of_images() -> None:
    assert (IMAGES_PER_FILE["tiny"], IMAGES_PER_FILE["fast"]) == (512, 5000)
    assert (PRETRAINING_IMAGES["tiny"], PRETRAINING_IMAGES["fast"]) == (500, 5000)


def test_rows_of_a_pretrained_folder_are_counted(files: Files) -> None:
    source = files.pretrained(["a2", "a0", "b"])
    task = AnswerTask(files.settings(model={"start_from": source}))
    assert task.notes[-1] == f"answers: 2 of 4 rows from {source}, zeroed: 'a1', 'a3'"


def test_a_model_without_a_list_of_answers(files: Files) -> None:
    """Its answer rows can't be told apart: they start anew, and the run says so."""
    source = files.pretrained(["a2", "a0", "b"])
    (source / "label2ans.json").unlink()
    note = AnswerTask(files.settings(model={"start_from": source})).notes[-1]
    assert note.startswith(f"answers: 0 of 4 rows from {source}: it has no label2ans.json")


@pytest.mark.parametrize(
    ("name", "copied", "zeroed"),
    [
        ("vqa", "3,124 of 3,129", "'', 'visilab', '5 star', '1 4', '1 world'"),
        ("gqa", "1,736 of 1,842", "and 98 more"),
    ],
)
def test_rows_of_the_originals_table(
    files: Files, shared_data: Path, name: str, copied: str, zeroed: str
) -> None:
    """Reference 4: which answers of VQA and GQA pre-training has not seen."""
    folder = shared_data / "lxmert"
    table = [row["ans"] for row in json.loads((folder / "lxmert_all_ans.json").read_text())]
    source = files.pretrained(table)
    data = {"answers": folder / f"{name}_trainval_label2ans.json", "unknown_answers": "ignore"}
    note = AnswerTask(files.settings(model={"start_from": source}, data=data)).notes[-1]
    assert note.startswith(f"answers: {copied} rows from {source}, zeroed: ")
    assert set(zeroed.split(", ")) <= set(note.partition("zeroed: ")[2].split(", ")) or note.endswith(zeroed)


def test_an_answer_table_in_another_order(files: Files) -> None:
    source = files.pretrained(["a0", "a1", "b"])
    table = write_json(files.folder / "table.json", ["a1", "a0", "b"])
    with pytest.raises(InputError) as caught:
        AnswerTask(files.settings(model={"start_from": source, "start_answers": table}))
    assert str(caught.value) == (
        f"{table}: answer 0 is 'a1', the model's own {source / 'label2ans.json'} has 'a0'"
    )
    same = write_json(files.folder / "table.json", ["a0", "a1", "b"])
    AnswerTask(files.settings(model={"start_from": source, "start_answers": same}))


def test_the_two_lists_of_answers_must_agree(files: Files) -> None:
    write_json(files.folder / "trainval_ans2label.json", {name: 3 - row for row, name in enumerate(ANSWERS)})
    with pytest.raises(InputError, match=r"trainval_label2ans\.json: does not invert .*answer 0 is 'a0'"):
        AnswerTask(files.settings())


def test_training_files_without_labels(files: Files) -> None:
    bare = write_json(files.folder / "bare.json", [{"question_id": 1, "img_id": "i0", "sent": "w1"}])
    with pytest.raises(InputError, match=r"bare\.json: its questions have no labels"):
        AnswerTask(files.settings(data={"train": bare}))


def test_the_best_answer_by_cross_entropy(files: Files) -> None:
    """`--mceLoss`: cross entropy of the best answer times the number of answers; validation keeps scores."""
    task = AnswerTask(files.settings(loss="categorical"))
    batch = task.train[BatchKey(0, 0, np.arange(6))]
    output = task.model.eval()(**batch.inputs)
    logits = output.question_answering_score
    wanted = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1, 2])) * 4
    torch.testing.assert_close(task.weighed(output, {"loss": 1.0}), wanted, rtol=1e-6, atol=0)
    assert task.valid is not None
    assert task.valid[BatchKey(0, 0, np.arange(2))].inputs["labels"].shape == (2, 4)


def test_soft_scores_by_binary_cross_entropy(files: Files) -> None:
    """The mean over answers times their number: the sum over answers."""
    task = AnswerTask(files.settings())
    batch = task.train[BatchKey(0, 0, np.arange(6))]
    output = task.model.eval()(**batch.inputs)
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        output.question_answering_score, batch.inputs["labels"], reduction="none"
    )
    torch.testing.assert_close(task.weighed(output, {"loss": 1.0}), each.sum(1).mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("name", "lr"), [("vqa", 5e-5), ("gqa", 1e-5)])
def test_the_originals_recipes(name: str, lr: float) -> None:
    """Reference 4, the table of fine-tuning."""
    settings = load_settings(FinetuneSettings, name)
    found = settings.optimisation
    assert (settings.task, settings.loss, len(settings.data.train), len(settings.data.valid)) == (
        name,
        "binary",
        2,
        1,
    )
    assert (found.optimizer, found.lr, found.batch_size, found.epochs) == ("bertadam", lr, 32, 4)
    assert (found.warmup, found.clip, found.weight_decay) == (0.1, 5.0, 0.01)
    assert (settings.data.max_length, settings.data.subset, settings.data.questions_per_image) == (
        20,
        "full",
        1,
    )
    assert settings.data.unknown_answers == ("ignore" if name == "gqa" else "error")
    assert settings.model.start_from is not None


def test_wrong_settings_are_named(files: Files) -> None:
    for more, line in (
        ({"loss": "mce"}, "loss: "),
        ({"data": {"subset": "small"}}, "data.subset: "),
        ({"data": {"train": [True]}}, "data.train.0: "),
        ({"data": {"train": True}}, "data.train: "),
        ({"data": {"train": []}}, "wants `folder`"),
    ):
        with pytest.raises(InputError, match=line):
            files.settings(**more)
