"""`--int8` and `--compile` of evaluate and predict, and the training options that go with the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lxmert_fast.errors import InputError
from lxmert_fast.int8 import Int8Linear
from lxmert_fast.train import evaluate as room
from lxmert_fast.train import predict


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model in the place of a folder's."""
    from cases import make_config, scatter

    from lxmert_fast.models import LxmertForQuestionAnswering

    model = scatter(LxmertForQuestionAnswering(make_config())).eval()
    monkeypatch.setattr(room, "open_model_folder", lambda path: (model, None, None))
    return Path("model")


def test_int8_answers_with_integers(folder: Path):
    loaded = room.load(folder, "cpu", compiled=False, int8=True)
    assert any(isinstance(module, Int8Linear) for module in loaded.model.modules())


def test_compile_compiles_the_encoders(folder: Path):
    loaded = room.load(folder, "cpu", compiled=True, int8=False)
    assert "run" in vars(loaded.model.lxmert)


def test_plainly_neither(folder: Path):
    loaded = room.load(folder, "cpu", compiled=False, int8=False)
    assert "run" not in vars(loaded.model.lxmert)
    assert not any(isinstance(module, Int8Linear) for module in loaded.model.modules())


def test_int8_is_for_the_cpu(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(room, "pick_device", lambda name: torch.device("cuda"))
    with pytest.raises(InputError, match="8-bit products are for the CPU, the device is cuda"):
        room.load(folder, "cuda", compiled=False, int8=True)


def test_options_reach_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from typer.testing import CliRunner

    from lxmert_fast.cli import app

    seen: dict[str, Any] = {}
    monkeypatch.setattr(predict, "predict_files", lambda *args, **options: seen.update(options) or 3)
    call = ["predict", "model", "questions.json", str(tmp_path / "out.json"), "--regions", "r.h5"]
    result = CliRunner().invoke(app, [*call, "--int8", "--compile"])
    assert result.exit_code == 0, result.output
    assert seen["int8"]
    assert seen["compiled"]
