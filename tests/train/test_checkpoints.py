"""Checkpoints are whole or not there, found again in spite of damage, and readable whoever wrote them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from thread_ranks import together

from lxmert_fast.errors import InputError
from lxmert_fast.train import checkpoint_writer, checkpoints
from lxmert_fast.train.checkpoints import CheckpointFolder, open_checkpoint, publish_folder
from lxmert_fast.train.ranks import Ranks
from lxmert_fast.train.shard_reader import ShardReader


def save(folder: CheckpointFolder, update: int) -> Path:
    """The weights of update u are all u."""
    tensors = {"weight/w": torch.full((3,), float(update)), "exp_avg/w": torch.zeros(3)}
    facts: dict[str, Any] = {"starts": {"w": 0}, "numbers": {"w": {"step": update}}}
    path = folder.save(update, tensors, facts, {"update": update}, layout="whole")
    folder.wait()
    return path


def weights(folder: CheckpointFolder) -> list[float]:
    checkpoint = folder.newest()
    assert checkpoint is not None
    return ShardReader(checkpoint).range("weight", "w", 0, 3).tolist()


def test_newest_comes_back_and_old_ones_go(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for update in range(5):
        save(folder, update)
    assert weights(folder) == [4.0] * 3
    names = ["latest", "step_00000003", "step_00000004"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    found = folder.newest()
    assert found is not None
    assert found.run_state() == {"update": 4}
    assert ShardReader(found).numbers_of("w") == {"step": 4.0}


def test_what_is_trained_on_meanwhile_does_not_reach_the_disk(tmp_path):
    folder, weight = CheckpointFolder(tmp_path), torch.zeros(3)
    folder.save(1, {"weight/w": weight}, {"starts": {"w": 0}, "numbers": {}}, {}, layout="whole")
    weight.fill_(9.0)
    folder.wait()
    assert weights(folder) == [0.0] * 3


def test_empty_folder_has_none(tmp_path):
    assert CheckpointFolder(tmp_path).newest() is None
    assert CheckpointFolder(tmp_path / "missing").newest() is None


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["rank_00000.safetensors", "run.pt", "manifest.json"])
@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, Path.unlink], ids=["short", "bit", "gone"])
def test_a_damaged_newest_is_reported_and_passed_over(tmp_path, file, damage):
    folder = CheckpointFolder(tmp_path, keep=3)
    for update in range(2):
        save(folder, update)
    if (file, damage) == ("manifest.json", flip_a_bit):
        (tmp_path / "step_00000001" / file).write_text("{")
    else:
        damage(tmp_path / "step_00000001" / file)
    with pytest.warns(UserWarning, match=r"damaged checkpoint passed over: .*step_00000001"):
        assert weights(folder) == [0.0] * 3


def test_only_damaged_ones_are_an_error(tmp_path):
    folder = CheckpointFolder(tmp_path)
    cut_short(save(folder, 0) / "run.pt")
    with (
        pytest.warns(UserWarning, match=r"run\.pt: \d+ bytes, its manifest says"),
        pytest.raises(InputError, match="none of its 1 checkpoints"),
    ):
        folder.newest()


def test_latest_may_point_back(tmp_path):
    """Whoever wants to go on from an older checkpoint writes its name there."""
    folder = CheckpointFolder(tmp_path, keep=3)
    for update in range(3):
        save(folder, update)
    (tmp_path / "latest").write_text("step_00000001\n")
    assert weights(folder) == [1.0] * 3


def test_the_same_update_again_keeps_the_old_until_the_new_is_there(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path, keep=1)
    save(folder, 7)
    seen = []
    sync = checkpoints.sync

    def looking(path: Path) -> None:
        seen.append(weights(CheckpointFolder(tmp_path)))
        sync(path)

    monkeypatch.setattr(checkpoints, "sync", looking)
    save(folder, 7)
    assert seen
    assert all(found == [7.0] * 3 for found in seen)
    assert len(list(tmp_path.glob("step_*"))) == 1


@pytest.mark.parametrize("where", ["write_tensors", "seal", "write_json", "save_tensors"])
def test_a_failed_write_leaves_the_old_one(tmp_path, monkeypatch, where):
    folder = CheckpointFolder(tmp_path)
    save(folder, 0)

    def full(path: Path, *_: object) -> None:
        raise InputError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr(checkpoints, where, full)
    with pytest.raises(InputError, match="No space left on device"):
        save(folder, 1)
    monkeypatch.undo()
    assert weights(folder) == [0.0] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000000"]


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_writer, "save_file", full)
    with pytest.raises(InputError, match=r"rank_00000\.safetensors: cannot be written \(No space left"):
        save(CheckpointFolder(tmp_path), 0)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/\.step_00000001\.partial: cannot be made"):
        save(CheckpointFolder(tmp_path / "file"), 1)


def test_what_a_killed_writer_left_is_no_checkpoint_and_goes(tmp_path):
    folder = CheckpointFolder(tmp_path)
    shutil.copytree(save(folder, 1), tmp_path / ".step_00000002.partial")
    assert weights(folder) == [1.0] * 3
    folder.clear_partial()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000001"]


def test_a_checkpoint_of_another_format_is_named(tmp_path):
    manifest = save(CheckpointFolder(tmp_path), 1) / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 2}))
    with pytest.raises(InputError, match="format 2, this version reads 1"):
        open_checkpoint(manifest.parent)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"format": 1}, r"damaged \(lacks update, num_ranks, layout, files, ranges\)"),
        (
            {"format": 1, "update": 1, "num_ranks": 1, "layout": "whole", "files": {}, "ranges": []},
            "run.pt: not",
        ),
    ],
)
def test_a_manifest_that_lacks_something_is_named(tmp_path, content, line):
    folder = CheckpointFolder(tmp_path)
    (save(folder, 1) / "manifest.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=line), pytest.raises(InputError, match="none of its 1 checkpoints"):
        folder.newest()


def test_a_checkpoint_of_an_earlier_version_is_named(tmp_path):
    (tmp_path / "step_00000004.pt").write_bytes(b"")
    with pytest.raises(InputError, match=r"step_00000004\.pt: a checkpoint of an earlier version"):
        CheckpointFolder(tmp_path).newest()


def test_ranges_are_put_together_from_any_cut(tmp_path):
    """Two ranks hold 3 and 4 of 7 elements; whoever asks gets any stretch of them."""
    whole = torch.arange(7.0)
    path = tmp_path / "step_00000001"
    path.mkdir()
    ranges = []
    for rank, (first, last) in enumerate([(0, 3), (3, 7)]):
        facts = {"starts": {"w": first}, "numbers": {}}
        name = checkpoints.shard_name(rank)
        checkpoint_writer.write_tensors(path / name, {"weight/w": whole[first:last].clone()}, facts)
        ranges.append({"starts": {"w": first}, "sizes": {"weight/w": last - first}})
    checkpoint = checkpoints.Checkpoint(path, {"ranges": ranges})
    reader = ShardReader(checkpoint)
    for first in range(7):
        for last in range(first + 1, 8):
            assert torch.equal(reader.range("weight", "w", first, last - first), whole[first:last])
    with pytest.raises(InputError, match=r"of w \(weight\) it does not hold elements 7 to 8"):
        reader.range("weight", "w", 5, 4)
    with pytest.raises(InputError, match=r"of v \(weight\)"):
        reader.range("weight", "v", 0, 1)


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


def on_two_ranks(save_on: Any) -> list[str]:
    """What each of two ranks is told."""

    def one(ranks: Ranks) -> str:
        try:
            save_on(ranks)
        except InputError as error:
            return str(error)
        return ""

    return together(2, one)


def save_together(folder: Path, ranks: Ranks) -> CheckpointFolder:
    """Each rank holds three elements of six."""
    checkpoints_of = CheckpointFolder(folder, ranks)
    facts: dict[str, Any] = {"starts": {"w": 3 * ranks.rank}, "numbers": {}}
    tensors = {"weight/w": torch.full((3,), float(ranks.rank))}
    checkpoints_of.save(1, tensors, facts, {}, layout="zero-1")
    checkpoints_of.wait()
    return checkpoints_of


def test_every_rank_writes_its_own_file(tmp_path):
    assert on_two_ranks(lambda ranks: save_together(tmp_path, ranks)) == ["", ""]
    found = CheckpointFolder(tmp_path).newest()
    assert found is not None
    assert found.num_ranks == 2
    assert ShardReader(found).range("weight", "w", 1, 4).tolist() == [0.0, 0.0, 1.0, 1.0]


def test_what_one_rank_cannot_write_all_are_told(tmp_path, monkeypatch):
    write = checkpoints.write_tensors

    def full_on_one(path: Path, *others: Any) -> Any:
        if path.name == "rank_00001.safetensors":
            raise InputError(f"{path}: cannot be written (No space left on device)")
        return write(path, *others)

    monkeypatch.setattr(checkpoints, "write_tensors", full_on_one)
    told = on_two_ranks(lambda ranks: save_together(tmp_path, ranks))
    assert all(line.startswith("rank 1: ") and "No space left" in line for line in told)
    assert list(tmp_path.iterdir()) == []


def test_ranks_must_see_one_file_system(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_SEEN_AFTER", 0.1)
    told = on_two_ranks(lambda ranks: save_together(tmp_path / str(ranks.rank), ranks))
    assert all("made by rank 0 and not seen here" in line for line in told)
