"""`lxmert-fast checkpoint`: convert and describe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from checkpoint_files import bert_file, original
from typer.testing import CliRunner

from lxmert_fast.commands.checkpoint import app
from lxmert_fast.errors import InputError


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_convert_both_ways(tmp_path: Path):
    torch.save(original(), tmp_path / "a.pth")
    result = run("convert", tmp_path / "a.pth", tmp_path / "folder")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "folder" / "model.safetensors").is_file()
    result = run("convert", tmp_path / "folder", tmp_path / "b.pth")
    assert result.exit_code == 0, result.output
    content = torch.load(tmp_path / "b.pth", weights_only=True)
    assert list(content) == list(original())
    assert all(torch.equal(content[name], tensor) for name, tensor in original().items())


def test_partial_is_a_flag(tmp_path: Path):
    torch.save(bert_file(), tmp_path / "bert.pth")
    refused = run("convert", tmp_path / "bert.pth", tmp_path / "folder")
    assert isinstance(refused.exception, InputError)
    assert not (tmp_path / "folder").exists()
    result = run("convert", tmp_path / "bert.pth", tmp_path / "folder", "--partial")
    assert result.exit_code == 0
    assert "left over 48" in result.output


def test_what_exists_stays(tmp_path: Path):
    torch.save(original(), tmp_path / "a.pth")
    (tmp_path / "b.pth").write_text("mine")
    refused = run("convert", tmp_path / "a.pth", tmp_path / "b.pth")
    assert "exists already; --force replaces it" in str(refused.exception)
    assert (tmp_path / "b.pth").read_text() == "mine"
    assert run("convert", tmp_path / "a.pth", tmp_path / "b.pth", "--force").exit_code == 0
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_info(tmp_path: Path):
    content = original()
    content["cls.predictions.bias"] = torch.full_like(content["cls.predictions.bias"], float("nan"))
    torch.save(content, tmp_path / "a.pth")
    output = run("info", tmp_path / "a.pth").output
    for fact in (
        "LxmertForPreTraining",
        "3 language, 2 relationship, 2 cross",
        "128, 2 heads",
        "97 words",
    ):
        assert fact in output
    assert [line.split()[-1] for line in output.splitlines() if line.startswith("not finite")] == ["97"]
