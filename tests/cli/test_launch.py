"""`lxmert-fast launch`: what the supervisor is asked for, and mistakes before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lxmert_fast import cli
from lxmert_fast.cli import app
from lxmert_fast.errors import InputError
from lxmert_fast.train import supervisor
from lxmert_fast.train.supervisor import Hosts

CONFIGS = {
    "pretrain": "data: {train: [t.json], regions: [r.h5], vocabulary: v.txt}\nrun: {output: out}\n",
    "finetune": "data: {folder: data}\nrun: {output: out}\n",
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """What `supervise` was called with; a run that ends with 3."""
    found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def supervise(*args: Any, **kwargs: Any) -> int:
        found.append((args, kwargs))
        return 3

    monkeypatch.setattr(supervisor, "supervise", supervise)
    return found


def launch(folder: Path, command: str, *words: str) -> Any:
    config = folder / "config.yaml"
    config.write_text(CONFIGS.get(command, ""))
    return CliRunner().invoke(app, ["launch", command, str(config), *words])


@pytest.mark.parametrize("command", CONFIGS)
def test_options_overrides_and_the_runs_folder_are_passed_on(
    tmp_path: Path, asked: list[Any], command: str
) -> None:
    """Options may stand between the overrides; the exit code is the run's."""
    file = tmp_path / "hostfile"
    result = launch(
        *(tmp_path, command, "run.output=runs/mine", "--hostfile", str(file), "--node-rank", "1"),
        *("--master-addr", "10.0.0.1", "--master-port", "7", "--max-restarts", "4", "optimisation.lr=5e-5"),
    )
    assert result.exit_code == 3, result.output
    ((args, kwargs),) = asked
    words = ["--config", str(tmp_path / "config.yaml"), "run.output=runs/mine", "optimisation.lr=5e-5"]
    assert args == (command, words, Hosts(None, file, 1, "10.0.0.1", 7))
    assert kwargs == {"max_restarts": 4, "checkpoints": Path("runs/mine/checkpoints")}


def test_without_options_a_host_is_used_whole_and_nothing_is_started_again(
    tmp_path: Path, asked: list[Any]
) -> None:
    launch(tmp_path, "pretrain")
    ((args, kwargs),) = asked
    assert args[2] == Hosts()
    assert kwargs == {"max_restarts": 0, "checkpoints": Path("out/checkpoints")}


def test_a_wrong_setting_starts_nothing(tmp_path: Path, asked: list[Any]) -> None:
    result = launch(tmp_path, "pretrain", "run.sed=1")
    assert isinstance(result.exception, InputError)
    assert "run.sed: unknown key" in str(result.exception)
    assert asked == []


@pytest.mark.parametrize(
    "words", [("evaluate",), ("pretrain", "--ranks", "0"), ("pretrain", "--max-restarts", "-1")]
)
def test_a_wrong_word_starts_nothing(tmp_path: Path, asked: list[Any], words: tuple[str, ...]) -> None:
    assert launch(tmp_path, *words).exit_code == 2
    assert asked == []


def test_a_wrong_hostfile_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor.subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    result = launch(tmp_path, "pretrain", "--hostfile", str(tmp_path / "none"))
    assert isinstance(result.exception, InputError)
    assert "no such hostfile" in str(result.exception)


def test_without_deepspeed_the_extra_is_named(
    tmp_path: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    result = launch(tmp_path, "pretrain")
    assert isinstance(result.exception, InputError)
    assert "install lxmert-fast[deepspeed]" in str(result.exception)
    assert not asked
