"""Configurations by name, and files that go on top of one: what ships, what wins, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from lxmert_fast import cli
from lxmert_fast.errors import InputError
from lxmert_fast.train import pretraining, supervisor
from lxmert_fast.train.config_files import merged, shipped_names
from lxmert_fast.train.plan_page import LAMB_RATE, LAMB_WARMUP, LARGEST
from lxmert_fast.train.settings import FinetuneSettings, PretrainSettings, ZeroSettings, load_settings

ZERO = {
    "zero1": ZeroSettings(stage=1),
    "zero2": ZeroSettings(stage=2),
    "zero3": ZeroSettings(stage=3),
    "zero3_offload": ZeroSettings(stage=3, offload_optimizer=True, offload_parameters=True),
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[PretrainSettings]:
    """Settings that reach pre-training, which is not run."""
    found: list[PretrainSettings] = []

    def run(settings: PretrainSettings) -> dict[str, Any]:
        found.append(settings)
        return {"stopped": None}

    monkeypatch.setattr(pretraining, "pretrain", run)
    return found


@pytest.mark.parametrize("name", shipped_names(whole=False))
@pytest.mark.parametrize("below", ["pretrain_large_batch", "vqa"])
def test_what_ships_to_go_on_top(name: str, below: str) -> None:
    """It says all of ZeRO, so that it goes above another one; the rest stays."""
    kind = PretrainSettings if below.startswith("pretrain") else FinetuneSettings
    alone = load_settings(kind, below)
    found = load_settings(kind, below, on_top=["zero3_offload", name])
    zero = {"zero": ZERO[name]}
    assert found == alone.model_copy(update={"optimisation": alone.optimisation.model_copy(update=zero)})


def test_later_files_win_and_overrides_win_over_them(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("optimisation: {lr: 1.0e-3, epochs: 7, clip: 2.0}\ndata: {train: [one.json]}\n")
    two.write_text("optimisation: {lr: 2.0e-3, epochs: 8}\n")
    found = load_settings(PretrainSettings, "pretrain", ["optimisation.lr=3e-3"], [one, two])
    how = found.optimisation
    assert (how.lr, how.epochs, how.clip, how.batch_size) == (3e-3, 8, 2.0, 256)
    assert [str(path) for path in found.data.train] == ["one.json"]


def test_what_is_below_is_left_alone() -> None:
    below = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    assert merged(below, {"a": {"c": [3]}, "e": 2}) == {"a": {"b": 1, "c": [3]}, "d": 1, "e": 2}
    assert below == {"a": {"b": 1, "c": [1, 2]}, "d": 1}


def test_a_file_of_a_shipped_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("zero1").write_text("optimisation: {epochs: 3}\n")
    assert load_settings(PretrainSettings, "pretrain", on_top=["zero1"]).optimisation.epochs == 3


@pytest.mark.parametrize(
    ("source", "on_top", "line"),
    [
        (
            "vqa2",
            [],
            "vqa2: no such configuration file, nor one that ships: .*easyvqa, easyvqa_pretrain, .*vqa$",
        ),
        ("pretrain", ["zero4"], "zero4: .*, nor one that ships: zero1, zero2, zero3, zero3_offload$"),
        ("pretrain", ["configs/zero1"], "configs/zero1: no such configuration file"),
    ],
)
def test_an_unknown_name_is_told_what_ships(source: str, on_top: list[str], line: str) -> None:
    with pytest.raises(InputError, match=line) as caught:
        load_settings(PretrainSettings, source, on_top=on_top)
    assert "\n" not in str(caught.value)


def test_a_wrong_key_on_top_names_the_files(tmp_path: Path) -> None:
    path = tmp_path / "top.yaml"
    path.write_text(yaml.safe_dump({"optimisation": {"learning": 1}}))
    with pytest.raises(InputError, match=r"pretrain\.yaml with .*top\.yaml: optimisation\.learning: unknown"):
        load_settings(PretrainSettings, "pretrain", on_top=[path])


def test_the_large_batch_follows_its_rule() -> None:
    how = load_settings(PretrainSettings, "pretrain_large_batch").optimisation
    share = how.batch_size / LARGEST
    # written with three digits
    assert how.lr == pytest.approx(LAMB_RATE * share**0.5, rel=5e-3)
    assert how.warmup == pytest.approx(LAMB_WARMUP * share)
    small = load_settings(PretrainSettings, "pretrain")
    large = load_settings(PretrainSettings, "pretrain_large_batch")
    assert (large.data, large.model) == (small.data, small.model)


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "optimisation.lr=1e-5", "--with", "zero3_offload"],
        ["--with", "zero3_offload", "optimisation.lr=1e-5"],
        ["--config", "pretrain", "--local_rank=0", "--with", "zero3_offload", "optimisation.lr=1e-5"],
        ["--local_rank=0", "--with=zero1", "--with=zero3_offload", "optimisation.lr=1e-5"],
    ],
)
def test_the_launcher_and_the_command_take_the_same_words(
    words: list[str], asked: list[PretrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`deepspeed train/pretrain.py WORDS` and `lxmert-fast pretrain WORDS`, `--config` left out or not."""
    monkeypatch.setattr("sys.argv", ["train/pretrain.py", *words])
    with pytest.raises(SystemExit) as ended:
        cli.from_launcher("pretrain")
    assert ended.value.code == 0
    (found,) = asked
    assert found == load_settings(PretrainSettings, "pretrain", ["optimisation.lr=1e-5"], ["zero3_offload"])


def test_launch_hands_on_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []

    def run(command: str, arguments: list[str], *_: Any, **__: Any) -> int:
        given.append(arguments)
        return 0

    monkeypatch.setattr(supervisor, "supervise", run)
    words = ["launch", "finetune", "vqa", "run.seed=1", "--with", "zero1", "--ranks", "2", "--with", "zero2"]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    assert given == [["--config", "vqa", "--with", "zero1", "--with", "zero2", "run.seed=1"]]
