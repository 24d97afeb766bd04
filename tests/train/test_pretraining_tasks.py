"""Pre-training with some of the tasks: losses, validation, resuming, and what fine-tuning takes from it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import job, train, write_data, write_questions
from transformers import LxmertConfig

from lxmert_fast.checkpoint import load_model
from lxmert_fast.errors import InputError
from lxmert_fast.flops import forward_flops
from lxmert_fast.pretraining_tasks import TASKS, task_flags
from lxmert_fast.train.metrics import read_metrics
from lxmert_fast.train.plan_inputs import Pair

SUBSETS = [
    ["mask_lm", "matched"],
    ["mask_lm", "matched", "feat"],
    ["obj", "attr"],
    ["mask_lm", "qa"],
    ["matched", "qa"],
]
HEADS = {"obj": "obj_predict_head.decoder_dict.obj.", "attr": "obj_predict_head.decoder_dict.attr."} | {
    "feat": "obj_predict_head.decoder_dict.feat.",
    "qa": "answer_head.",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    torch.set_num_threads(1)
    return write_data(tmp_path_factory.mktemp("data"))


def run(base: dict[str, Any], output: Path, tasks: list[str], **more: Any) -> dict[str, Any]:
    return train(job(base, output, **({"epochs": 1, "data": {"tasks": tasks}} | more)))


@pytest.mark.parametrize("tasks", SUBSETS, ids="-".join)
def test_any_of_the_tasks(base: dict[str, Any], tmp_path: Path, tasks: list[str]) -> None:
    run(base, tmp_path / "run", tasks)
    lines = read_metrics(tmp_path / "run/metrics.jsonl")
    assert {line["split"] for line in lines} == {"train", "valid"}
    for line in lines:
        losses = dict(line["losses"])
        assert set(losses) == {"total", *tasks}
        assert losses.pop("total") == pytest.approx(sum(losses.values()), rel=1e-4)
        assert ("matched_answer_accuracy" in line) is (line["split"] == "valid" and "qa" in tasks)
    model = load_model(tmp_path / "run/last")
    for name, prefix in HEADS.items():
        assert any(key.startswith(prefix) for key in model.state_dict()) is (name in tasks)
    assert (tmp_path / "run/last/label2ans.json").is_file() is ("qa" in tasks)


def test_all_tasks_are_the_default(base: dict[str, Any], tmp_path: Path) -> None:
    run(base, tmp_path / "default", [], data={})
    run(base, tmp_path / "all", [*TASKS])
    one, two = (load_model(tmp_path / name / "last").state_dict() for name in ("default", "all"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_subset_goes_on_where_it_stopped(base: dict[str, Any], tmp_path: Path) -> None:
    tasks = ["mask_lm", "matched", "feat"]
    run(base, tmp_path / "whole", tasks, epochs=2)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut", symlinks=True)
    # as after a kill in the second epoch: its checkpoints are not there yet
    checkpoints = tmp_path / "cut/checkpoints"
    for step in checkpoints.glob("step_*"):
        if step.name > "step_00000005":
            shutil.rmtree(step)
    (checkpoints / "latest").write_text("step_00000005\n")
    assert run(base, tmp_path / "cut", tasks, epochs=2)["resumed_at"] == 5
    whole, cut = (load_model(tmp_path / name / "last").state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_fine_tuning_starts_with_a_new_answer_head(base: dict[str, Any], tmp_path: Path) -> None:
    run(base, tmp_path / "pretrained", ["mask_lm", "matched"])
    questions = write_questions(tmp_path, base)
    tree = job(base, tmp_path / "finetuned", epochs=1) | {
        "task": "vqa", "data": questions, "model": {"start_from": str(tmp_path / "pretrained/last")},
    }  # fmt: skip
    summary = train(tree)
    assert 0 <= summary["best"]["accuracy"] <= 1
    before = load_model(tmp_path / "pretrained/last").state_dict()
    after = load_model(tmp_path / "finetuned/last").state_dict()
    name = "lxmert.encoder.layer.0.attention.self.query.weight"
    assert (after[name] - before[name]).norm() < 0.5 * before[name].norm()


def test_the_second_phase_with_more_tasks(
    base: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(base, tmp_path / "first", ["mask_lm", "matched", "obj"])
    start = {"start_from": str(tmp_path / "first/last")}
    tree = job(base, tmp_path / "second", epochs=1, lr=1e-12, data={"tasks": ["mask_lm", "feat", "qa"]})
    tree["model"] = start
    train(tree)
    told = caplog.text
    assert "answer_head, obj_predict_head.decoder_dict.feat start anew" in told
    assert "obj_predict_head.decoder_dict.obj are left" in told
    first, second = (load_model(tmp_path / name / "last") for name in ("first", "second"))
    kept = first.state_dict().keys() & second.state_dict().keys()
    assert "obj_predict_head.transform.dense.weight" in kept
    for name in kept:
        torch.testing.assert_close(first.state_dict()[name], second.state_dict()[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("tasks", "line"),
    [
        ([], "data.tasks: .*at least 1"),
        (["mask_lm", "words"], "data.tasks.1: .*'words'"),
        (["feat", "feat"], "tasks wants each task once"),
        (True, "data.tasks: .*True"),
    ],
)
def test_wrong_tasks_are_named(base: dict[str, Any], tmp_path: Path, tasks: Any, line: str) -> None:
    with pytest.raises(InputError, match=line) as caught:
        run(base, tmp_path / "run", tasks)
    assert "\n" not in str(caught.value)


def test_a_plan_counts_the_tasks_heads() -> None:
    def flops(tasks: list[str]) -> float:
        return forward_flops(LxmertConfig(**task_flags(tasks)), *Pair(tasks=tuple(tasks)).batch(32))

    every = flops([*TASKS])
    assert all(flops([name for name in TASKS if name != left]) < every for left in ("mask_lm", "obj", "qa"))
