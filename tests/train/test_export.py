"""A model out of a checkpoint: the one that the run published, in both forms."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import job, write_data
from typer.testing import CliRunner

from lxmert_fast.airsplay import huggingface_names
from lxmert_fast.answering import LABEL2ANS, VOCABULARY
from lxmert_fast.checkpoint import load_model
from lxmert_fast.commands.checkpoint import app
from lxmert_fast.errors import InputError
from lxmert_fast.train.checkpoints import CheckpointFolder
from lxmert_fast.train.export import export, find
from lxmert_fast.train.pretraining import pretrain
from lxmert_fast.train.settings import PretrainSettings, check_settings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five updates of pre-training in one process: a checkpoint after the fourth and after the fifth."""
    folder = tmp_path_factory.mktemp("run")
    tree = job(write_data(folder / "data"), folder / "run", epochs=1, data={"valid": []})
    pretrain(check_settings(PretrainSettings, tree, "test"))
    return folder / "run"


def command(*words: Any) -> Any:
    return CliRunner().invoke(app, ["weights", *map(str, words)])


def test_a_run_gives_the_model_it_published(run: Path, tmp_path: Path) -> None:
    """To the last bit, with everything beside the weights."""
    result = command(run, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "step_00000005: update 5, whole, 1 ranks" in result.output
    found, wanted = tmp_path / "out", run / "last"
    assert sorted(path.name for path in found.iterdir()) == sorted(path.name for path in wanted.iterdir())
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (found, wanted))
    assert mine.keys() == theirs.keys()
    assert [name for name in theirs if not torch.equal(mine[name], theirs[name])] == []
    for name in ("config.json", VOCABULARY, LABEL2ANS):
        assert (found / name).read_text() == (wanted / name).read_text()


def test_an_original_file_holds_the_same(run: Path, tmp_path: Path) -> None:
    assert command(run / "checkpoints", tmp_path / "out.pth").exit_code == 0
    content = huggingface_names(torch.load(tmp_path / "out.pth", weights_only=True))
    wanted = load_model(run / "last").state_dict()
    assert [name for name in wanted if not torch.equal(content[name], wanted[name])] == []


def test_one_checkpoint_of_several(run: Path, tmp_path: Path) -> None:
    before, last = (run / "checkpoints" / f"step_{update:08d}" for update in (4, 5))
    assert export(before, tmp_path / "out").folder == before
    assert [find(source).folder for source in (run, run / "checkpoints", last)] == [last] * 3
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", run / "last"))
    assert any(not torch.equal(mine[name], theirs[name]) for name in theirs)


def test_where_there_is_none(tmp_path: Path) -> None:
    result = command(tmp_path, tmp_path / "out")
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == f"{tmp_path}: neither a checkpoint nor a run that has one"


def test_what_exists_stays(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out.pth").write_text("mine")
    assert "exists already; --force replaces it" in str(command(run, tmp_path / "out.pth").exception)
    assert (tmp_path / "out.pth").read_text() == "mine"
    assert command(run, tmp_path / "out.pth", "--force").exit_code == 0
    assert torch.load(tmp_path / "out.pth", weights_only=True)


@pytest.mark.parametrize("file", ["rank_00000.safetensors", "run.pt"])
def test_a_damaged_file_is_named_and_nothing_written(run: Path, tmp_path: Path, file: str) -> None:
    copy = tmp_path / "step_00000005"
    shutil.copytree(run / "checkpoints" / copy.name, copy)
    content = bytearray((copy / file).read_bytes())
    content[-3] ^= 1
    (copy / file).write_bytes(content)
    with pytest.raises(InputError) as caught:
        export(copy, tmp_path / "out")
    assert str(caught.value).startswith(f"{copy / file}: checksum ")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_no_model_of_ours(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    facts: dict[str, Any] = {"starts": {"w": 0}, "numbers": {}}
    path = folder.save(
        1, {"weight/w": torch.zeros(3)}, facts, {"client_state": {"model": {}}}, layout="whole"
    )
    folder.wait()
    with pytest.raises(InputError, match="does not say what model it is of"):
        export(path, tmp_path / "out")
