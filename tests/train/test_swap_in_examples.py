"""The example scripts run as they stand, on a tiny stock model and data-set folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cases import make_config
from small_data import known_store, small_encoder, write_json
from transformers.models.lxmert import modeling_lxmert as huggingface

from lxmert_fast.train.examples import swap_in_loop, swap_in_trainer

ANSWERS = ("yes", "no", "two")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A stock model's folder, and 24 questions about three images."""
    data = tmp_path / "data"
    data.mkdir()
    known_store(data, [3, 2, 3])
    small_encoder(data)
    questions = [
        {
            "question_id": n,
            "img_id": f"i{n % 3}",
            "sent": f"w{n} w{n + 1}",
            "label": {ANSWERS[n % len(ANSWERS)]: 1.0},
        }
        for n in range(24)
    ]
    write_json(data / "train.json", questions)
    torch.manual_seed(0)
    config = make_config(vocab_size=100, visual_feat_dim=4, num_qa_labels=len(ANSWERS))
    huggingface.LxmertForQuestionAnswering(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model", data


def test_the_plain_loop(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]):
    swap_in_loop.main(*folders, steps=2, batch_size=8)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["step", "1"], ["step", "2"]]


@pytest.mark.slow
def test_trainer(folders: tuple[Path, Path], tmp_path: Path):
    """What it saves is a stock model with other weights."""
    pytest.importorskip("accelerate", reason="Trainer needs accelerate (extra `test`)")
    model, _ = folders
    swap_in_trainer.main(*folders, tmp_path / "out", steps=2, batch_size=8)
    before, after = (
        huggingface.LxmertForQuestionAnswering.from_pretrained(path) for path in (model, tmp_path / "out")
    )
    name = "lxmert.encoder.x_layers.0.visual_attention.att.query.weight"
    assert not torch.equal(before.get_parameter(name), after.get_parameter(name))
