"""A run is the same on one rank, two and four, at every ZeRO stage, and goes on from one to another.

Tolerances. Losses: 1e-5 relative, the issue's. Weights: 1e-4 of each tensor's norm: the ranks add gradients
in another order (fp32, 1e-7 relative), and BertAdam divides by their own size, so that an element whose
gradient nearly cancels keeps no more than a few of its digits at each of 20 updates.
"""

from __future__ import annotations

import shutil
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
def together(folder: Path, base: dict[str, Any]) -> Any:
    """All runs on so many ranks, one after another in one process group."""
    done: set[int] = set()

    def run(ranks: int, way: str) -> Path:
        outputs = {name: folder / f"{ranks}-{number}" for number, name in enumerate(WAYS[ranks])}
        if ranks not in done:
            done.add(ranks)
            jobs = [job(base, outputs[name], **asked) for name, asked in WAYS[ranks].items()]
            run_ranks(ranks, jobs)
        return outputs[way]

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
    assert_same_run(together(ranks, way), alone(WAYS[ranks][way].get("optimizer", "bertadam")))


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
    """From two ranks at stage 2 and 3 to three and two at others, and to one process and back."""
    wanted = alone("bertadam")
    from_2 = cut_back(together(2, "zero 2"), folder / "from 2", 8)
    from_3 = cut_back(together(2, "zero 3"), folder / "from 3", 12)
    from_1 = cut_back(wanted, folder / "from 1", 4)
    to = cut_back(together(2, "zero 1"), folder / "to 1", 16)
    tree = job(base, to)
    assert train(tree)["resumed_at"] == 16
    jobs = [
        job(base, from_2, zero={"stage": 3}),
        job(base, from_3, zero={"stage": 1}),
        job(base, from_1, zero={"stage": 0}),
    ]
    assert [summary["resumed_at"] for summary in run_ranks(3, jobs)] == [8, 12, 4]
    for run in (from_2, from_3, from_1, to):
        assert_same_run(run, wanted)


def test_without_a_single_label_on_a_rank_and_none_at_all(folder: Path, base: dict[str, Any]) -> None:
    """A rank whose batch has no answer and no masked word reduces zeros; a run without any answer trains."""
    data = {"word_mask_rate": 0.01, "object_mask_rate": 0.0, "valid": []}
    rare = [job(base, folder / f"rare-{n}", epochs=2, data=data, zero={"stage": n}) for n in (1, 3)]
    late = job(base, folder / "late", epochs=2, data={"answer_from_epoch": 1, "valid": []}, zero={"stage": 2})
    alone = job(base, folder / "late alone", epochs=2, data={"answer_from_epoch": 1, "valid": []})
    for summary in run_ranks(2, [*rare, late]):
        assert summary["updates"] == 10
        assert all(torch.tensor(list(summary["last_losses"].values())).isfinite())
    train(alone)
    # the answer head rests in the first epoch: under ZeRO too it must not decay then
    assert_same_weights(folder / "late", folder / "late alone")


def test_half_precision_trains(folder: Path, base: dict[str, Any]) -> None:
    half = [
        job(base, folder / "bf16", epochs=2, precision="bf16", zero={"stage": 2}),
        job(base, folder / "bf16 again", epochs=2, precision="bf16", zero={"stage": 3}),
    ]
    # a small first scale: an object hidden by zeros has a gradient of 1e4 while its bias is zero
    small = {"fp16": {"initial_scale_power": 2}}
    half.append(job(base, folder / "fp16", epochs=2, precision="fp16", zero={"stage": 1}, deepspeed=small))
    whole, other, scaled = run_ranks(2, half)
    assert scaled["last_losses"]["total"] < 0.9 * scaled["first_losses"]["total"]
    assert lines(folder / "fp16")[-1]["loss_scale"] >= 1.0
    assert whole["last_losses"]["total"] < 0.9 * whole["first_losses"]["total"]
    # 8 bits of a significand, ten updates: two stages agree to a few of them
    assert other["last_losses"]["total"] == pytest.approx(whole["last_losses"]["total"], rel=2**-5)
    state = load_file(folder / "bf16" / "last" / "model.safetensors")
    assert {x.dtype for x in state.values()} == {torch.float32}


def test_fine_tuning_is_the_same_too(folder: Path, base: dict[str, Any]) -> None:
    """Losses, weights, and the validation whose questions the ranks share."""
    data = write_questions(folder, base)

    def questions(output: Path, **asked: Any) -> dict[str, Any]:
        return job(base, output, **asked) | {"data": data, "task": "vqa"}

    alone = train(questions(folder / "asked"))
    stages = {stage: folder / f"asked at {stage}" for stage in (2, 3)}
    found = run_ranks(2, [questions(run, zero={"stage": stage}) for stage, run in stages.items()])
    for summary, run in zip(found, stages.values(), strict=True):
        assert_same_run(run, folder / "asked")
        assert summary["best"]["accuracy"] == pytest.approx(alone["best"]["accuracy"])
        assert summary["best"]["epoch"] == alone["best"]["epoch"]
