"""The options that let pairs share an image, from the settings to weights: what they change and what not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_data import aggregated, known_store, small_encoder, write_json

from lxmert_fast.data.batches import Batch, BatchKey, EpochBatches
from lxmert_fast.data.pretraining import PretrainingDataset
from lxmert_fast.data.sharing import Runs
from lxmert_fast.train import launched
from lxmert_fast.train.finetuning import AnswerTask
from lxmert_fast.train.loop import fit
from lxmert_fast.train.pretraining import PretrainTask
from lxmert_fast.train.settings import FinetuneSettings, PretrainSettings, check_settings

IMAGES, SENTENCES = 12, 5
MODEL = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "l_layers": 1,
    "r_layers": 1,
    "x_layers": 1,
    "max_position_embeddings": 20,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    known_store(folder, [2 + image % 3 for image in range(IMAGES)]).close()
    small_encoder(folder)
    write_json(folder / "pretrain.json", aggregated(IMAGES, 3, 2))
    questions = [
        {"question_id": number, "img_id": f"i{number % IMAGES}", "sent": f"w{number % 7}", "label": {"a": 1}}
        for number in range(IMAGES * SENTENCES)
    ]
    write_json(folder / "vqa.json", questions)
    return folder


def tree(folder: Path, output: Path, **data: Any) -> dict[str, Any]:
    files = {"regions": [str(folder / "regions.h5")], "vocabulary": str(folder / "vocab.txt")}
    return {
        "model": MODEL,
        "data": files | data,
        "optimisation": {"epochs": 2, "batch_size": 10, "lr": 1e-3},
        "run": {"output": str(output), "workers": 0, "device": "cpu", "checkpoint_every": 2},
    }


def pretraining(folder: Path, output: Path, **data: Any) -> PretrainSettings:
    train = [str(folder / "pretrain.json")]
    values = tree(folder, output, **{"train": train, "valid": train} | data)
    return check_settings(PretrainSettings, values, "test")


def fine_tuning(folder: Path, output: Path, **data: Any) -> FinetuneSettings:
    values = tree(folder, output, train=str(folder / "vqa.json"), **data)
    return check_settings(FinetuneSettings, values, "test")


@pytest.mark.parametrize(
    ("task", "settings", "option"),
    [
        (PretrainTask, pretraining, "sentences_per_image"),
        (AnswerTask, fine_tuning, "questions_per_image"),
    ],
)
def test_the_default_is_the_originals_order(
    folder: Path, tmp_path: Path, task: Any, settings: Any, option: str
) -> None:
    assert task(settings(folder, tmp_path)).runs() is None
    runs = task(settings(folder, tmp_path, **{option: 3})).runs()
    order = runs.shuffled(np.random.default_rng(0))
    images = runs.groups[order]
    stretches = int((images != np.roll(images, 1)).sum())
    assert len(order) == IMAGES * SENTENCES
    assert IMAGES < stretches <= IMAGES * 2


def test_only_training_shares_and_only_when_asked(folder: Path, tmp_path: Path) -> None:
    key = BatchKey(0, 0, np.arange(10))
    plain = PretrainTask(pretraining(folder, tmp_path))
    sharing = PretrainTask(pretraining(folder, tmp_path, sentences_per_image=3))
    assert "image_index" not in plain.train[key].inputs
    assert "image_index" in sharing.train[key].inputs
    assert sharing.valid is not None
    assert "image_index" not in sharing.valid[key].inputs


def test_training_takes_the_batches_of_the_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = pretraining(folder, tmp_path, sentences_per_image=4, valid=[])
    task, build, found = PretrainTask(settings), PretrainingDataset.__getitem__, list[np.ndarray]()

    def seen(self: PretrainingDataset, key: BatchKey) -> Batch:
        found.append(key.rows)
        return build(self, key)

    monkeypatch.setattr(PretrainingDataset, "__getitem__", seen)
    fit(task, settings.optimisation, settings.run, report=lambda _: None)
    runs = Runs(task.train.examples.images, 4)
    batches = EpochBatches(IMAGES * SENTENCES, 10, seed=settings.run.seed, runs=runs)
    wanted = [key.rows for _ in range(2) for key in batches]
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("killed_at", [3, 9])
def test_a_killed_run_goes_on_bit_for_bit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    def run(name: str) -> PretrainTask:
        settings = pretraining(folder, tmp_path / name, sentences_per_image=4)
        task = PretrainTask(settings)
        fit(task, settings.optimisation, settings.run, report=lambda _: None)
        return task

    class Killed(BaseException):
        pass

    step, updates = launched.LocalEngine.step, 0

    def dying_step(self: Any) -> bool:
        nonlocal updates
        if updates == killed_at:
            raise Killed
        updates += 1
        return step(self)

    whole = run("whole")
    monkeypatch.setattr(launched.LocalEngine, "step", dying_step)
    with pytest.raises(Killed):
        run("broken")
    monkeypatch.undo()
    resumed = run("broken")
    for (name, found), wanted in zip(resumed.model.named_parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(found, wanted), name
