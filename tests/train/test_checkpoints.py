"""Checkpoints are whole or not there."""

from __future__ import annotations

import pytest
import torch

from lxmert_fast.errors import InputError
from lxmert_fast.train.checkpoints import publish_folder, read_checkpoint, write_checkpoint


def state(n: int) -> dict:
    return {"n": n, "weights": torch.full((3,), float(n))}


def test_newest_comes_back_and_old_ones_go(tmp_path):
    for n in range(5):
        write_checkpoint(tmp_path, f"step_{n:08d}", state(n), keep=2)
    path, found = read_checkpoint(tmp_path)
    assert path == tmp_path / "step_00000004.pt"
    assert torch.equal(found["weights"], torch.full((3,), 4.0))
    assert sorted(file.name for file in tmp_path.glob("*.pt")) == ["step_00000003.pt", "step_00000004.pt"]


def test_empty_folder_has_none(tmp_path):
    assert read_checkpoint(tmp_path) == (None, {})
    assert read_checkpoint(tmp_path / "missing") == (None, {})


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut short", b"not a checkpoint"])
def test_a_damaged_newest_is_reported_and_passed_over(tmp_path, damage):
    for n in range(2):
        write_checkpoint(tmp_path, f"step_{n:08d}", state(n), keep=3)
    (tmp_path / "step_00000001.pt").write_bytes(damage)
    with pytest.warns(UserWarning, match=r"step_00000001\.pt: damaged"):
        path, found = read_checkpoint(tmp_path)
    assert path == tmp_path / "step_00000000.pt"
    assert found["n"] == 0


def test_only_damaged_ones_are_an_error(tmp_path):
    write_checkpoint(tmp_path, "step_00000000", state(0), keep=1)
    (tmp_path / "step_00000000.pt").write_bytes(b"x")
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(InputError, match="none of its 1 checkpoints"),
    ):
        read_checkpoint(tmp_path)


def test_a_failed_write_leaves_the_old_one(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, "step_00000000", state(0), keep=2)

    def killed(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path, "step_00000001", state(1), keep=2)
    monkeypatch.undo()
    path, found = read_checkpoint(tmp_path)
    assert found["n"] == 0
    assert path is not None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["latest", "step_00000000.pt"]


def test_model_folder_is_swung_whole(tmp_path):
    link = tmp_path / "best"
    publish_folder(link, 3, lambda folder: (folder / "a").write_text("old"))
    assert (link / "a").read_text() == "old"

    def half(folder) -> None:
        (folder / "a").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        publish_folder(link, 4, half)
    assert (link / "a").read_text() == "old"
    publish_folder(link, 3, lambda folder: (folder / "a").write_text("new"))
    assert (link / "a").read_text() == "new"
    assert len(list(tmp_path.glob("best-*"))) == 1
