"""A run is the same on one rank, two and four, at every ZeRO stage, and goes on from one to another.

Tolerances. Losses: 1e-5 relative, the issue's. Weights: 1e-4 of each tensor's norm: the ranks add gradients
in another order (fp32, 1e-7 relative), and BertAdam divides by their own size, so that an element whose
gradient nearly cancels keeps no more than a few of its digits at each of 20 updates.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import job, run_ranks, train, write_data, write_questions

from lxmert_fast.train.metrics import read_metrics
from lxmert_fast.train.trace import read_trace

OFFLOADED = {"stage": 3, "offload_optimizer": True, "offload_parameters": True}
WAYS: dict[int, dict[str, dict[str, Any]]] = {
    1: {"zero 1": {"zero": {"stage": 1}}},
    2: {
        "zero 0": {"zero": {"stage": 0}},
        "zero 1": {"zero": {"stage": 1}},
        "zero 2": {"zero": {"stage": 2}},
        "zero 3": {"zero": {"stage": 3}},
        "zero 3 offloaded": {"zero": OFFLOADED},
        "zero 2, four passes": {"zero": {"stage": 2}, "micro_batch_size": 2},
        "zero 2, optimizer offloaded": {"zero": {"stage": 2, "offload_optimizer": True}},
        "zero 3, activations again": {"zero": {"stage": 3}, "gradient_checkpointing": True},
        "lamb, zero 1": {"zero": {"stage": 1}, "optimizer": "lamb"},
        "adamw, zero 2": {"zero": {"stage": 2}, "optimizer": "adamw"},
    },
    3: {"zero 1, shares of 5 and 6": {"zero": {"stage": 1}}},
    4: {"zero 3": {"zero": {"stage": 3}}},
}
"""By ranks: what is asked of each run."""
RARE = {"word_mask_rate": 0.01, "object_mask_rate": 0.0, "valid": []}
LATE = {"answer_from_epoch": 1, "valid": []}
SHORT: dict[str, dict[str, Any]] = {
    "rare, zero 1": {"data": RARE, "zero": {"stage": 1}},
    "rare, zero 3": {"data": RARE, "zero": {"stage": 3}},
    "late, zero 2": {"data": LATE, "zero": {"stage": 2}},
    "bf16, zero 2": {"precision": "bf16", "zero": {"stage": 2}},
    "bf16, zero 3": {"precision": "bf16", "zero": {"stage": 3}},
    # a small first scale: an object hidden by zeros has a gradient of 1e4 while its bias is zero
    "fp16, zero 1": {
        "precision": "fp16",
        "zero": {"stage": 1},
        "deepspeed": {"fp16": {"initial_scale_power": 2}},
    },
}
"""Runs of two epochs on two ranks, and what is asked of them."""
CASES = [(ranks, way) for ranks, ways in WAYS.items() for way in ways]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def base(folder: Path) -> dict[str, Any]:
    return write_data(folder / "data")


@pytest.fixture(scope="module")
def alone(folder: Path, base: dict[str, Any]) -> Any:
    """One process without a launcher, by optimizer."""
    found: dict[str, Path] = {}

    def run(optimizer: str) -> Path:
        if optimizer not in found:
            found[optimizer] = folder / f"alone-{optimizer}"
            tree = job(base, found[optimizer], optimizer=optimizer)
            train(tree)
        return found[optimizer]

    return run


@pytest.fixture(scope="module")
def questions(folder: Path, base: dict[str, Any]) -> Any:
    """The job of a fine-tuning."""
    data = write_questions(folder, base)

    def make(output: Path, **asked: Any) -> dict[str, Any]:
        return job(base, output, **asked) | {"data": data, "task": "vqa"}

    return make


@dataclass(frozen=True)
class Done:
    """A run of several ranks."""

    run: Path
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def together(folder: Path, base: dict[str, Any], alone: Any, questions: Any) -> Any:
    """A run by ranks and name. All on so many ranks go one after another in one process group: a rank starts
    in seconds and trains in tenths of one."""
    found: dict[int, dict[str, Done]] = {}

    def goes_on(name: str, run: Path, update: int, stage: int) -> dict[str, Any]:
        return job(base, cut_back(run, folder / name, update), zero={"stage": stage})

    def jobs(ranks: int) -> dict[str, dict[str, Any]]:
        made = {
            name: job(base, folder / f"{ranks}-{number}", **asked)
            for number, (name, asked) in enumerate(WAYS[ranks].items())
        }
        if ranks == 2:
            made |= {name: job(base, folder / name, epochs=2, **asked) for name, asked in SHORT.items()}
            for stage in (2, 3):
                name = f"questions, zero {stage}"
                made[name] = questions(folder / name, zero={"stage": stage})
        if ranks == 3:
            made["from 2"] = goes_on("from 2", run(2, "zero 2").run, 8, stage=3)
            made["from 3"] = goes_on("from 3", run(2, "zero 3").run, 12, stage=1)
            made["from 1"] = goes_on("from 1", alone("bertadam"), 4, stage=0)
        return made

    def run(ranks: int, name: str) -> Done:
        if ranks not in found:
            asked = jobs(ranks)
            outputs = [Path(tree["run"]["output"]) for tree in asked.values()]
            summaries = run_ranks(ranks, list(asked.values()), timeout=600)
            found[ranks] = dict(zip(asked, map(Done, outputs, summaries), strict=True))
        return found[ranks][name]

    return run


def lines(run: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(run / "metrics.jsonl") if line["split"] == "train"]


def assert_same_run(found: Path, wanted: Path) -> None:
    """Losses of every update, final weights, and who was seen when."""
    assert len(lines(found)) == len(lines(wanted)) == 20
    for here, there in zip(lines(found), lines(wanted), strict=True):
        assert here["losses"] == pytest.approx(there["losses"], rel=1e-5)
        assert here["lr"] == there["lr"]
    assert_same_weights(found, wanted)
    assert read_trace(found) == read_trace(wanted)


def assert_same_weights(found: Path, wanted: Path) -> None:
    here, there = (load_file(run / "last" / "model.safetensors") for run in (found, wanted))
    assert here.keys() == there.keys()
    for name, weight in there.items():
        off = (here[name] - weight).norm() / weight.norm().clamp(min=1e-3)
        assert off < 1e-4, f"{name} is {off:.1e} of its norm away"


@pytest.mark.parametrize(("ranks", "way"), CASES, ids=[f"{ranks} ranks, {way}" for ranks, way in CASES])
def test_the_same_run(alone: Any, together: Any, ranks: int, way: str) -> None:
    assert_same_run(together(ranks, way).run, alone(WAYS[ranks][way].get("optimizer", "bertadam")))


def cut_back(run: Path, copy: Path, update: int) -> Path:
    """A copy of a run as it was when that checkpoint was its newest."""
    shutil.copytree(run, copy, symlinks=True)
    for checkpoint in (copy / "checkpoints").glob("step_*"):
        if int(checkpoint.name[5:13]) > update:
            shutil.rmtree(checkpoint)
    (copy / "checkpoints" / "latest").unlink()
    shutil.rmtree(copy / "last", ignore_errors=True)
    (copy / "last").unlink(missing_ok=True)
    return copy


def test_a_run_goes_on_with_other_ranks_and_another_stage(
    folder: Path, base: dict[str, Any], alone: Any, together: Any
) -> None:
    """From two ranks at stage 2 and 3 to three at others, and to one process and back."""
    wanted = alone("bertadam")
    to = cut_back(together(2, "zero 1").run, folder / "to 1", 16)
    assert train(job(base, to))["resumed_at"] == 16
    assert_same_run(to, wanted)
    for name, update in (("from 2", 8), ("from 3", 12), ("from 1", 4)):
        done = together(3, name)
        assert done.summary["resumed_at"] == update
        assert_same_run(done.run, wanted)


def test_without_a_single_label_on_a_rank_and_none_at_all(
    folder: Path, base: dict[str, Any], together: Any
) -> None:
    """A rank whose batch has no answer and no masked word reduces zeros; a run without any answer trains."""
    late = together(2, "late, zero 2")
    for done in (together(2, "rare, zero 1"), together(2, "rare, zero 3"), late):
        assert done.summary["updates"] == 10
        assert all(torch.tensor(list(done.summary["last_losses"].values())).isfinite())
    train(job(base, folder / "late alone", epochs=2, data=LATE))
    # the answer head rests in the first epoch: under ZeRO too it must not decay then
    assert_same_weights(late.run, folder / "late alone")


def test_half_precision_trains(together: Any) -> None:
    whole, other, scaled = (together(2, name) for name in ("bf16, zero 2", "bf16, zero 3", "fp16, zero 1"))
    assert scaled.summary["last_losses"]["total"] < 0.9 * scaled.summary["first_losses"]["total"]
    assert lines(scaled.run)[-1]["loss_scale"] >= 1.0
    last = whole.summary["last_losses"]["total"]
    assert last < 0.9 * whole.summary["first_losses"]["total"]
    # 8 bits of a significand, ten updates: two stages agree to a few of them
    assert other.summary["last_losses"]["total"] == pytest.approx(last, rel=2**-5)
    state = load_file(whole.run / "last" / "model.safetensors")
    assert {x.dtype for x in state.values()} == {torch.float32}


def test_fine_tuning_is_the_same_too(folder: Path, questions: Any, together: Any) -> None:
    """Losses, weights, and the validation whose questions the ranks share."""
    alone = train(questions(folder / "asked"))
    for stage in (2, 3):
        done = together(2, f"questions, zero {stage}")
        assert_same_run(done.run, folder / "asked")
        assert done.summary["best"]["accuracy"] == pytest.approx(alone["best"]["accuracy"])
        assert done.summary["best"]["epoch"] == alone["best"]["epoch"]
