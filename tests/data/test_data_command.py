"""`lxmert-fast data` from the outside: files made, exit codes, one line for a mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_data import aggregated, known_store, write_json
from test_vqa import questions
from typer.testing import CliRunner, Result

from lxmert_fast.commands.data import app
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.data.vqa import read_questions
from lxmert_fast.errors import InputError


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_easyvqa(tmp_path: Path) -> None:
    pytest.importorskip("easy_vqa", reason="needs the package easy-vqa: pip install 'lxmert-fast[demo]'")
    result = call("easyvqa", tmp_path / "data")
    assert result.exit_code == 0
    assert "5,000 images" in result.output
    assert len(read_questions(tmp_path / "data/test.json")) == 9673
    assert not (tmp_path / "data/images").exists()


def test_vocabulary_from_both_kinds_of_file(tmp_path: Path) -> None:
    files = [
        write_json(tmp_path / "questions.json", questions()),
        write_json(tmp_path / "sentences.json", aggregated(3, 2, 2)),
    ]
    result = call("vocabulary", *files, tmp_path / "vocab.txt", "--size", "90")
    assert result.exit_code == 0
    encoder = TextEncoder(tmp_path / "vocab.txt")
    assert encoder.unk_id not in encoder.encode(["w1 w94 blue yes a0"])[0]
    assert f"{encoder.vocab_size} tokens" in result.output


def test_pretraining(tmp_path: Path) -> None:
    result = call("pretraining", write_json(tmp_path / "q.json", questions()), tmp_path / "out.json")
    assert result.exit_code == 0
    assert [entry["img_id"] for entry in json.loads((tmp_path / "out.json").read_text())] == [
        "i1",
        "i0",
        "i2",
    ]


def test_check(tmp_path: Path) -> None:
    known_store(tmp_path, [1, 1, 1])
    write_json(tmp_path / "train.json", questions())
    path = write_json(tmp_path / "test.json", questions())
    good = call("check", tmp_path)
    assert (good.exit_code, good.output) == (0, f"{tmp_path}: 8 entries, no fault\n")
    entries = questions()
    entries[1]["sent"] = None
    entries[2]["img_id"] = "far"
    write_json(path, entries)
    bad = call("check", path, "--regions", tmp_path / "regions.h5")
    assert bad.exit_code == 1
    assert "entry 1 (question '9'): sent: found nothing" in bad.output
    assert "image 'far'" in bad.output
    assert "2 faults" in bad.output


def test_mistakes_reach_the_command_line(tmp_path: Path) -> None:
    for arguments in (
        ("vocabulary", tmp_path / "none.json", tmp_path / "vocab.txt"),
        ("pretraining", tmp_path / "none.json", tmp_path / "out.json"),
        ("pretraining", write_json(tmp_path / "q.json", questions()), tmp_path / "no/folder/out.json"),
    ):
        error = call(*arguments).exception
        assert isinstance(error, InputError)
        assert str(tmp_path) in str(error)
