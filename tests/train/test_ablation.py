"""Grids of runs: what is shared, what is run again, what is refused, and what the pages say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from small_runs import job, write_data, write_questions
from typer.testing import CliRunner

from lxmert_fast import cli
from lxmert_fast.checkpoint import load_model
from lxmert_fast.errors import Diverged, InputError
from lxmert_fast.train import side_by_side
from lxmert_fast.train.ablation import RECORD, run_ablation
from lxmert_fast.train.ablation_settings import load_grid
from lxmert_fast.train.config_files import CONFIGS
from lxmert_fast.train.published import ABLATIONS

ARMS: list[dict[str, Any]] = [
    {"name": "full", "title": "all tasks", "pretrain": [], "paper": "table5/both"},
    {"name": "feat", "pretrain": ["data.tasks=[mask_lm, feat]"], "finetune": {"vqa": []}},
    {"name": "again", "pretrain": [], "finetune": {"vqa": ["optimisation.lr=2.0e-3"]}},
    {"name": "scratch", "pretrain": None, "finetune": {"vqa": []}, "paper": "table3/no-pretraining-scratch"},
]


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pretrain.yaml and finetune.yaml of a run of one epoch each, whose models have other sizes."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("configs")
    base = write_data(folder)
    pretrain = job(base, folder / "unused", epochs=1) | {"task": "pretrain"}
    del pretrain["run"]["trace"]
    finetune = pretrain | {"task": "vqa", "data": write_questions(folder, base), "model": {"hidden_size": 8}}
    for name, tree in (("pretrain", pretrain), ("finetune", finetune)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    return folder


def grid(configs: Path, output: Path, **changes: Any) -> str:
    """A file of a grid."""
    tree = {
        "task": "ablation",
        "title": "small",
        "pretrain": {"config": str(configs / "pretrain.yaml")},
        "finetune": {
            "vqa": {"config": str(configs / "finetune.yaml")},
            "easy": {"config": str(configs / "finetune.yaml"), "overrides": ["optimisation.lr=5.0e-4"]},
        },
        "arms": ARMS,
        "run": {"output": str(output)},
    } | changes
    output.mkdir(parents=True, exist_ok=True)
    path = output.with_suffix(".yaml")
    path.write_text(
        yaml.safe_dump({name: value for name, value in tree.items() if value is not ...}, sort_keys=False)
    )
    return str(path)


@pytest.fixture(scope="module")
def done(configs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, dict[str, Any]]:
    """A grid that was run: its file, its output, what it returned."""
    output = tmp_path_factory.mktemp("done") / "grid"
    source = grid(configs, output)
    return source, output, run_ablation(source)


def test_arms_with_the_same_pretraining_share_it(done: tuple[str, Path, dict[str, Any]]) -> None:
    source, output, _ = done
    runs = load_grid(source)
    assert list(runs.pretrainings) == ["full/pretrain", "feat/pretrain"]
    assert {name: run.after for name, run in runs.finetunings.items()} == {
        "full/vqa": "full/pretrain", "full/easy": "full/pretrain",
        "feat/vqa": "feat/pretrain",
        "again/vqa": "full/pretrain", "scratch/vqa": None,
    }  # fmt: skip
    assert {path.parent.relative_to(output).as_posix() for path in output.glob("*/*/metrics.jsonl")} == set(
        runs.runs
    )


def test_each_arm_has_its_own_settings(done: tuple[str, Path, dict[str, Any]]) -> None:
    source, output, _ = done
    assert "qa" in load_grid(source).pretrainings["full/pretrain"].settings.data.tasks
    names = load_model(output / "feat/pretrain/last").state_dict()
    assert not any(name.startswith(("answer_head.", "obj_predict_head.decoder_dict.obj")) for name in names)
    # without pre-training it is the pre-training's model all the same
    assert load_model(output / "scratch/vqa/last").config.hidden_size == 32


def test_pages_agree_with_the_runs(done: tuple[str, Path, dict[str, Any]]) -> None:
    _, output, returned = done
    found = json.loads((output / "ablation.json").read_text())
    assert found | {"stopped": None} == json.loads(json.dumps(returned))
    assert [arm["name"] for arm in found["arms"]] == ["full", "feat", "again", "scratch"]
    rows = (output / "ablation.md").read_text().split("\n")
    assert "| arm | vqa | easy | paper: VQA | paper: GQA | paper: NLVR2 |" in rows
    for arm in found["arms"]:
        scores = {}
        for task in ("vqa", "easy"):
            record = output / arm["name"] / task / RECORD
            if not record.is_file():
                scores[task] = ""
                continue
            best = json.loads(record.read_text())["summary"]["best"]
            assert arm["results"][task]["score"] == best["accuracy"]
            scores[task] = f"{100 * best['accuracy']:.2f}"
        paper = [f"{value:.1f}" for value in (arm["paper"] or {}).values() if not isinstance(value, str)]
        cells = " | ".join([arm["title"], *scores.values(), *(paper or [""] * 3)])
        assert f"| {cells} |" in rows
    with Image.open(output / "ablation.png") as picture:
        assert min(picture.size) > 200


def test_what_has_ended_is_not_run_again(
    done: tuple[str, Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _, returned = done
    monkeypatch.setattr(side_by_side, "_train", None)
    assert run_ablation(source) == returned


def test_an_interrupted_grid_goes_on(
    configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: tuple[str, Path, dict[str, Any]]
) -> None:
    train, trained = side_by_side._train, []

    def stops(name: str, settings: Any) -> dict[str, Any]:
        trained.append(name)
        return (
            {"stopped": "SIGTERM"}
            if name == "full/vqa" and trained.count(name) == 1
            else train(name, settings)
        )

    monkeypatch.setattr(side_by_side, "_train", stops)
    arms = [ARMS[0] | {"finetune": {"vqa": []}}, ARMS[3]]
    source = grid(configs, tmp_path / "grid", arms=arms)
    assert run_ablation(source)["stopped"] == "SIGTERM"
    assert trained == ["full/pretrain", "full/vqa"]
    half = json.loads((tmp_path / "grid/ablation.json").read_text())
    assert half["arms"][0]["results"]["vqa"]["score"] is None
    whole = run_ablation(source)
    assert trained == ["full/pretrain", "full/vqa", "full/vqa", "scratch/vqa"]
    scores = [arm["results"]["vqa"]["score"] for arm in whole["arms"]]
    arms_before = done[2]["arms"]
    assert scores == [arms_before[0]["results"]["vqa"]["score"], arms_before[3]["results"]["vqa"]["score"]]


def test_an_arm_that_diverges_leaves_the_others(
    configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretrain(settings: Any, **_: Any) -> dict[str, Any]:
        raise Diverged("loss is nan at update 3")

    monkeypatch.setattr(side_by_side, "pretrain", pretrain)
    arms = [ARMS[0] | {"finetune": {"vqa": []}}, ARMS[3]]
    source = grid(configs, tmp_path / "grid", arms=arms)
    found = run_ablation(source)
    assert [arm["results"]["vqa"]["problem"] for arm in found["arms"]] == ["loss is nan at update 3", None]
    assert "| all tasks | diverged |" in (tmp_path / "grid/ablation.md").read_text()
    # and it is tried again
    again = load_grid(source).pretrainings["full/pretrain"]
    assert json.loads((tmp_path / "grid" / again.name / RECORD).read_text())["summary"] is None


def test_a_report_trains_nothing(configs: Path, tmp_path: Path) -> None:
    source = grid(configs, tmp_path / "grid")
    ended = CliRunner().invoke(cli.app, ["ablation", source, "--report"])
    assert ended.exit_code == 0, ended.output
    assert "all tasks" in ended.output
    assert {path.name for path in (tmp_path / "grid").iterdir()} == {
        "ablation.json",
        "ablation.md",
        "ablation.png",
    }


def test_changed_settings_are_refused(done: tuple[str, Path, dict[str, Any]]) -> None:
    source, *_ = done
    wanted = (
        r"full/easy/ablation\.json: optimisation\.lr was 0\.0005 there and is 0\.25 here; wanted the same"
    )
    changed = "finetune.easy.overrides=[optimisation.lr=0.25]"
    with pytest.raises(InputError, match=wanted) as caught:
        run_ablation(source, [changed])
    assert "\n" not in str(caught.value)
    # a log line more or less changes no figure
    run_ablation(source, ["pretrain.overrides=[run.log_every=7]"], report_only=True)


@pytest.mark.parametrize("content", ["", '{"settings": {', "[1]", '{"settings": 1, "summary": null}', "\xff"])
def test_a_damaged_record_is_named(
    done: tuple[str, Path, dict[str, Any]], configs: Path, tmp_path: Path, content: str
) -> None:
    source = grid(configs, tmp_path / "grid")
    record = tmp_path / "grid/scratch/vqa" / RECORD
    record.parent.mkdir(parents=True)
    record.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"scratch/vqa/ablation\.json: ") as caught:
        run_ablation(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"arms": []}, "arms: .*at least 1"),
        ({"arms": ...}, "arms: Field required"),
        ({"arms": [ARMS[0], ARMS[0]]}, "arms wants each name once, 'full' is there more often"),
        ({"arms": [ARMS[0] | {"epochs": 3}]}, "arms.0.epochs: unknown key, found 3"),
        ({"arms": [{"name": "x"}]}, "arms.0.pretrain: Field required"),
        ({"arms": [ARMS[0] | {"name": "a/b"}]}, "arms.0.name: .*'a/b'"),
        ({"arms": [ARMS[0] | {"name": ".."}]}, r"arms.0.name: .*'\.\.'"),
        ({"arms": [ARMS[0] | {"name": True}]}, "arms.0.name: .*True"),
        (
            {"arms": [ARMS[0] | {"pretrain": ["data.words=1"]}]},
            "arm 'full': .*pretrain.yaml: data.words: unknown",
        ),
        ({"arms": [ARMS[0] | {"finetune": ["optimisation.lr=nan"]}]}, "arm 'full': .*optimisation.lr: .*nan"),
        ({"arms": [ARMS[0] | {"finetune": ["optimisation.lr"]}]}, "arm 'full': override 'optimisation.lr'"),
        (
            {"arms": [ARMS[0] | {"finetune": {"gqa": []}}]},
            "arm 'full' fine-tunes on 'gqa', wanted one of vqa",
        ),
        (
            {"arms": [ARMS[0] | {"paper": "table9/x"}]},
            "the paper has no row 'table9/x', wanted one of table3",
        ),
        ({"pretrain": ...}, "arm 'full' is pre-trained, but there is no section `pretrain`"),
        ({"pretrain": {"config": "nowhere"}}, "nowhere: no such configuration file"),
        ({"finetune": {}}, "finetune: .*at least 1"),
        ({"finetune": {"pretrain": {"config": "vqa"}}}, "finetune wants another name than 'pretrain'"),
        ({"title": 3}, "title: .*3"),
        ({"task": "vqa"}, "task: .*'vqa'"),
    ],
)
def test_a_wrong_grid_is_named(configs: Path, tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line) as caught:
        load_grid(grid(configs, tmp_path / "grid", **changes))
    assert "\n" not in str(caught.value)


def test_arms_want_validation_questions(configs: Path, tmp_path: Path) -> None:
    arms = [ARMS[3] | {"finetune": ["data.valid=null"]}]
    with pytest.raises(InputError, match="no validation questions, by which arms are compared"):
        load_grid(grid(configs, tmp_path / "grid", arms=arms))


def test_an_output_that_cannot_be_written_is_one_line(configs: Path, tmp_path: Path) -> None:
    source = grid(configs, tmp_path / "grid")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        run_ablation(source, [f"run.output={tmp_path / 'file'}"], report_only=True)


SHIPPED = sorted(path.stem for path in CONFIGS.glob("ablation_*.yaml"))


def test_the_papers_tables_ship() -> None:
    """Every row of the paper that is a model of its own authors is an arm."""
    rows = {
        arm.paper
        for name in SHIPPED
        if name.startswith("ablation_table")
        for arm in load_grid(name).settings.arms
        if arm.paper
    }
    assert rows == ABLATIONS.keys() - {"table3/lstm-butd", "table3/bert-butd"}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_grids_are_valid(name: str) -> None:
    assert load_grid(name).finetunings
