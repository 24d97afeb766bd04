"""`lxmert-fast finetune daquar`: one right answer is learnt, validation reports WUPS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from daquar_source import write_source
from small_data import known_store, small_encoder, write_json
from small_wordnet import write_wordnet

from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.data.batches import BatchKey
from lxmert_fast.data.daquar import export
from lxmert_fast.data.vqa import VqaDataset
from lxmert_fast.errors import InputError
from lxmert_fast.train.daquar import DaquarTask
from lxmert_fast.train.finetuning import finetune
from lxmert_fast.train.settings import FinetuneSettings, PretrainSettings, load_settings

SMALL = ["hidden_size=32", "num_attention_heads=4", "intermediate_size=64", "l_layers=1", "x_layers=1"]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FinetuneSettings:
    """The recipe that ships, at a small size, on the small source."""
    monkeypatch.setenv("WNSEARCHDIR", str(write_wordnet(tmp_path / "wordnet")))
    export(write_source(tmp_path / "source"), tmp_path / "data")
    overrides = [
        *(f"model.{size}" for size in [*SMALL, "r_layers=1", "bert=null", "start_from=null"]),
        f"data.folder={tmp_path / 'data'}",
        f"run.output={tmp_path / 'run'}",
        "run.device=cpu",
        "optimisation.epochs=2",
        "optimisation.batch_size=4",
    ]
    return load_settings(FinetuneSettings, "daquar", overrides)


def test_validation_reports_wups(settings: FinetuneSettings, tmp_path: Path) -> None:
    summary = finetune(settings, report=lambda _: None)
    best = summary["best"]
    assert 0 <= best["accuracy"] <= best["wups_0.9"] <= best["wups_0.0"] <= 1
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert sum("valid/wups_0.9" in line or "wups_0.9" in line for line in lines) == 2


def test_wordnet_is_missed_before_training(settings: FinetuneSettings, monkeypatch: Any) -> None:
    monkeypatch.setenv("WNSEARCHDIR", "/nowhere")
    with pytest.raises(InputError, match="apt-get install wordnet-base"):
        DaquarTask(settings)


def test_best_answer(tmp_path: Path) -> None:
    """The first best of a label; -100, which no loss counts, where there is none."""
    labels = [{"no": 0.3, "yes": 1.0}, {"red": 1.0, "no": 1.0}, {}]
    rows = [
        {"question_id": number, "img_id": "i0", "sent": "w1", "label": label}
        for number, label in enumerate(labels)
    ]
    dataset = VqaDataset(
        write_json(tmp_path / "train.json", rows),
        known_store(tmp_path, [2]),
        small_encoder(tmp_path),
        AnswerMap(["no", "red", "yes"]),
        best_answer=True,
    )
    assert dataset[BatchKey(0, 0, np.arange(3))].inputs["labels"].tolist() == [2, 0, -100]


def test_pretraining_recipe() -> None:
    assert load_settings(PretrainSettings, "daquar_pretrain").task == "pretrain"
