"""A file is replaced whole or stays as it was, and nothing is left beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lxmert_fast import files
from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_file, save_tensors


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file that is there already, alone in its folder."""
    path = tmp_path / "file.pt"
    path.write_text("old")
    return path


def assert_untouched(old: Path) -> None:
    assert old.read_text() == "old"
    assert list(old.parent.iterdir()) == [old]


def test_success_replaces(old: Path):
    """The old file stays until the new one is whole; then only the new one is there."""

    def write(beside: Path) -> None:
        beside.write_text("new")
        assert beside.parent == old.parent
        assert old.read_text() == "old"

    replace_file(old, write)
    assert old.read_text() == "new"
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), ValueError("bad"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_old_file_alone(old: Path, error: BaseException):
    """Half of a new file is there when the write fails or is interrupted."""

    def write(beside: Path) -> None:
        beside.write_text("half")
        raise error

    with pytest.raises(type(error)) as caught:
        replace_file(old, write)
    assert caught.value is error
    assert_untouched(old)


def test_the_new_file_is_on_the_disk_before_it_takes_the_name(old: Path, monkeypatch: pytest.MonkeyPatch):
    """A disk that reports its error only when flushed must not cost the old file."""

    def full(path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(OSError, match="Input/output"):
        replace_file(old, lambda beside: beside.write_text("new"))
    assert_untouched(old)


def test_tensors_replace(old: Path):
    save_tensors(old, {"x": torch.arange(3)})
    assert torch.equal(torch.load(old)["x"], torch.arange(3))
    assert list(old.parent.iterdir()) == [old]


def test_what_pytorch_makes_of_a_full_disk_names_the_file(old: Path, monkeypatch: pytest.MonkeyPatch):
    """PyTorch's own error is a `RuntimeError` of several lines that does not say which file."""

    def save(content: object, beside: Path) -> None:
        beside.write_text("half")
        raise RuntimeError("PytorchStreamWriter failed writing file:\nfile write failed")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(InputError) as caught:
        save_tensors(old, {})
    reason = "PytorchStreamWriter failed writing file: file write failed"
    assert str(caught.value) == f"{old}: cannot be written ({reason})"
    assert_untouched(old)


@pytest.mark.parametrize("place", ["missing/file.pt", "file.pt/below"])
def test_a_place_that_cannot_be_written_is_named(old: Path, place: str):
    """A folder that is not there, and a file where a folder should be."""
    path = old.parent / place
    with pytest.raises(InputError, match="cannot be written") as caught:
        save_tensors(path, {"x": torch.arange(3)})
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert_untouched(old)
