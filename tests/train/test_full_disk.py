"""A disk that is full and a folder that may not be written, as the kernel makes them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_loop import ToyTask, settings

from lxmert_fast.errors import InputError
from lxmert_fast.train.checkpoints import CheckpointFolder
from lxmert_fast.train.loop import fit

ROOM = 2048
"""KiB of the small disk."""


class LargeTask(ToyTask):
    """A checkpoint of about 250 KiB: some twenty thousand numbers without gradient."""

    def __init__(self, numbers: int = 60_000) -> None:
        super().__init__()
        self.model.register_buffer("rest", torch.zeros(numbers))

    def save_model(self, folder: Path, weights: dict) -> None:
        save_file({name: x.contiguous() for name, x in weights.items()}, folder / "model.safetensors")


@contextmanager
def mounted(place: Path, *words: str) -> Iterator[Path]:
    """A mount for as long as it lasts; skips where none is allowed."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *words, str(place)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"may not mount here: {' '.join(done.stderr.split())}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={ROOM}k", "tmpfs") as place:
        yield place


def fill(disk: Path, left: int) -> Path:
    """Fill a disk up to `left` KiB."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        free = int(subprocess.check_output(["df", "--output=avail", "-k", str(disk)]).split()[1])
        file.write(bytes(max(0, free - left) * 1024))
    return ballast


def refusal(task: ToyTask, run: Path, **optimisation: Any) -> str:
    with pytest.raises(InputError) as caught:
        fit(task, *settings(run, **optimisation))
    line = str(caught.value)
    assert "\n" not in line
    assert str(run) in line
    return line


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_last_is_whole(run: Path, update: int) -> None:
    found = CheckpointFolder(run / "checkpoints").newest()
    assert found is not None
    assert found.damage(sorted(found.manifest["files"])) is None
    assert found.manifest["update"] == update
    assert not [name for name in names(run / "checkpoints") if name.startswith(".")]


class FillingTask(LargeTask):
    """Fills the disk in the validation of an epoch, from 0."""

    def __init__(self, disk: Path, epoch: int, left: int) -> None:
        super().__init__()
        self.disk, self.epoch, self.left = disk, epoch, left

    def validate(self, epoch: int, engine: Any) -> dict:
        if epoch == self.epoch:
            fill(self.disk, self.left)
        return super().validate(epoch, engine)

    def better(self, metrics: dict, best: dict) -> bool:
        return False


def test_a_checkpoint_that_finds_the_disk_full(small_disk: Path) -> None:
    """150 KiB are left where 250 are wanted; with room again, the same call goes on."""
    run = small_disk / "run"
    line = refusal(FillingTask(small_disk, 1, 150), run)
    assert "rank_00000.safetensors: cannot be written (" in line
    assert "No space left on device" in line
    assert_last_is_whole(run, 10)
    (small_disk / "ballast").unlink()
    summary = fit(LargeTask(), *settings(run))
    assert (summary["resumed_at"], summary["updates"]) == (10, 18)


def test_a_model_that_finds_the_disk_full(small_disk: Path) -> None:
    """`best` after the second epoch: the first one's stays, and nothing of the new one."""
    run = small_disk / "run"

    class Better(FillingTask):
        def better(self, metrics: dict, best: dict) -> bool:
            return True

    line = refusal(Better(small_disk, 1, 150), run)
    assert line.startswith(f"{run / 'best'}: cannot be written (")
    assert "No space left on device" in line
    assert_last_is_whole(run, 10)
    assert [name for name in names(run) if "best" in name] == ["best", "best-00000006"]
    assert (run / "best" / "model.safetensors").is_file()


# TensorBoard's writer is a thread of its own, and its error is raised in both
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_log_that_finds_the_disk_full(small_disk: Path) -> None:
    run = small_disk / "run"
    line = refusal(FillingTask(small_disk, 1, 0), run)
    assert "No space left on device" in line
    assert_last_is_whole(run, 10)


def test_an_output_folder_that_may_not_be_written(tmp_path: Path) -> None:
    """A finished epoch on a file system that has become read-only since: one line that names the place."""
    fit(ToyTask(), *settings(tmp_path / "real", epochs=1))
    before = sorted(tmp_path.rglob("*"))
    with mounted(tmp_path / "view", "--bind", str(tmp_path / "real")) as view:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(view)], check=True)
        line = refusal(ToyTask(), view, epochs=2)
        assert "Read-only file system" in line
    (tmp_path / "view").rmdir()
    assert sorted(tmp_path.rglob("*")) == before
    assert_last_is_whole(tmp_path / "real", 6)
