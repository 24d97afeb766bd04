"""The main job on real photos and people's questions: a little of DAQUAR, for a few updates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lxmert_fast.data.easyvqa import pretraining_entries
from lxmert_fast.data.region_format import ImageRegions
from lxmert_fast.data.regions import RegionWriter
from lxmert_fast.data.vqa import read_questions
from lxmert_fast.train.evaluate import evaluate_files
from lxmert_fast.train.finetuning import finetune
from lxmert_fast.train.metrics import read_metrics
from lxmert_fast.train.pretraining import pretrain
from lxmert_fast.train.settings import FinetuneSettings, PretrainSettings, check_settings

IMAGES = 30
MODEL = {
    "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128, "initializer_range": 0.08,
    "l_layers": 1, "r_layers": 1, "x_layers": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def daquar(shared_data, tmp_path_factory) -> Path:
    """The first photos of DAQUAR as a data-set folder, with BERT's vocabulary."""
    folder = tmp_path_factory.mktemp("daquar")
    table = np.load(shared_data / "daquar" / "features.npz")
    ids = [str(image) for image in table["image_id"][:IMAGES]]
    regions = folder / "regions.h5"
    with RegionWriter(
        regions,
        ids,
        np.full(IMAGES, 36),
        feature_size=256,
        num_objects=81,
        num_attributes=1,
        source="DAQUAR",
        fingerprint="-",
    ) as writer:
        for row, image in enumerate(ids):
            corners = table["boxes"][row].astype(np.float32) * 100
            writer.write(
                row,
                ImageRegions(
                    image_id=image,
                    width=100,
                    height=100,
                    features=table["features"][row],
                    boxes=np.clip(corners, 0, 100),
                    object_ids=table["obj_id"][row],
                    object_confidences=table["obj_conf"][row].astype(np.float32),
                    attribute_ids=np.zeros(36, np.int64),
                    attribute_confidences=np.zeros(36, np.float32),
                ),
            )
    rows = json.loads((shared_data / "daquar" / "daquar_all.json").read_text())
    questions = [
        {
            "question_id": row["question_id"],
            "img_id": row["image_id"],
            "sent": row["question"],
            "label": dict.fromkeys(row["answers"], 1.0),
        }
        for row in rows
        if row["image_id"] in ids
    ]
    for name in ("train.json", "test.json"):
        (folder / name).write_text(json.dumps(questions))
    entries = pretraining_entries(read_questions(folder / "train.json"))
    (folder / "pretrain.json").write_text(json.dumps(entries))
    (folder / "vocab.txt").write_bytes((shared_data / "bert_vocab" / "vocab.txt").read_bytes())
    return folder


@pytest.fixture(scope="module")
def pretrained(daquar) -> Path:
    out = daquar / "pretrained"
    settings: dict[str, Any] = {
        "model": MODEL,
        "data": {
            "train": [daquar / "pretrain.json"],
            "valid": [daquar / "pretrain.json"],
            "regions": [daquar / "regions.h5"],
            "vocabulary": daquar / "vocab.txt",
        },
        "optimisation": {"epochs": 2, "batch_size": 64, "lr": 1e-3, "warmup": 0.1},
        "run": {"output": out, "workers": 1, "log_every": 5, "device": "cpu"},
    }
    pretrain(check_settings(PretrainSettings, settings, "test"))
    return out


def test_every_loss_of_pretraining_falls(pretrained):
    lines = [line for line in read_metrics(pretrained / "metrics.jsonl") if line["split"] == "train"]
    first, last = lines[0]["losses"], lines[-1]["losses"]
    # matching needs more than these few updates; the attributes of this set are all one class
    for task in ("total", "mask_lm", "obj", "feat", "qa"):
        assert last[task] < first[task], task


def test_validation_counts_answers_on_matched_pairs_only(pretrained):
    lines = [line for line in read_metrics(pretrained / "metrics.jsonl") if line["split"] == "valid"]
    assert len(lines) == 2
    assert all(0 <= line["matched_answer_accuracy"] <= 1 for line in lines)
    assert lines[-1]["losses"]["mask_lm"] < lines[0]["losses"]["mask_lm"]


def test_fine_tuning_goes_on_from_pre_training(daquar, pretrained):
    settings = {
        "model": {"start_from": pretrained / "best"},
        "data": {"folder": daquar, "valid": daquar / "test.json"},
        "optimisation": {"epochs": 3, "batch_size": 32, "lr": 1e-3, "warmup": 0.1, "clip": 5.0},
        "run": {"output": daquar / "finetuned", "workers": 0, "device": "cpu"},
    }
    summary = finetune(check_settings(FinetuneSettings, settings, "test"))
    found = evaluate_files(daquar / "finetuned/best", daquar / "test.json", [daquar / "regions.h5"])
    assert found.scores.overall == pytest.approx(summary["best"]["accuracy"], abs=1e-6)
    assert summary["last_losses"]["total"] < summary["first_losses"]["total"] / 2
