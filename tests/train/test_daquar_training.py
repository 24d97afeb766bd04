"""`lxmert-fast finetune daquar`: one right answer is learnt, WUPS is reported; the recipes that ship."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from daquar_source import write_source
from small_wordnet import write_wordnet

from lxmert_fast.checkpoint import load_model
from lxmert_fast.data.daquar import export
from lxmert_fast.errors import InputError
from lxmert_fast.train.daquar import DaquarTask
from lxmert_fast.train.finetuning import finetune
from lxmert_fast.train.pretraining import pretrain
from lxmert_fast.train.settings import FinetuneSettings, PretrainSettings, load_settings

SMALL = ("hidden_size=32", "intermediate_size=64")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("daquar")
    export(write_source(place / "source"), place / "data")
    return place / "data"


def recipe(kind: Any, name: str, tmp_path: Path, *overrides: str) -> Any:
    """A recipe that ships, for a small model and two updates an epoch."""
    sizes = (f"model.{size}" for size in SMALL)
    run = (f"run.output={tmp_path / name}", "run.device=cpu", "optimisation.batch_size=8")
    return load_settings(kind, name, [*sizes, *run, *overrides])


@pytest.fixture
def settings(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FinetuneSettings:
    monkeypatch.setenv("WNSEARCHDIR", str(write_wordnet(tmp_path / "wordnet")))
    return recipe(FinetuneSettings, "daquar", tmp_path, f"data.folder={data}", "optimisation.epochs=2")


def test_validation_reports_wups(settings: FinetuneSettings, tmp_path: Path) -> None:
    best = finetune(settings, report=lambda _: None)["best"]
    assert 0 <= best["accuracy"] <= best["wups_0.9"] <= best["wups_0.0"] <= 1
    lines = [json.loads(line) for line in (tmp_path / "daquar/metrics.jsonl").read_text().splitlines()]
    assert sum("wups_0.9" in line for line in lines) == 2


def test_after_pretraining(data: Path, settings: FinetuneSettings, tmp_path: Path) -> None:
    """Fine-tuning begins with the backbone and the answers of `daquar_pretrain`."""
    files = (
        f"data.{key}={data / file}"
        for key, file in {"vocabulary": "vocab.txt", "answers": "label2ans.json"}.items()
    )
    lists = (f"data.train=[{data / 'pretrain.json'}]", f"data.regions=[{data / 'regions.h5'}]")
    name = "daquar_pretrain"
    pretrain(recipe(PretrainSettings, name, tmp_path, *files, *lists, "optimisation.epochs=1"))
    start = tmp_path / name / "best"
    model = settings.model.model_copy(update={"start_from": start})
    task = DaquarTask(settings.model_copy(update={"model": model}))
    before = load_model(start).state_dict()
    for key, value in task.model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_wordnet_is_missed_before_training(settings: FinetuneSettings, monkeypatch: Any) -> None:
    monkeypatch.setenv("WNSEARCHDIR", "/nowhere")
    with pytest.raises(InputError, match="apt-get install wordnet-base"):
        DaquarTask(settings)
