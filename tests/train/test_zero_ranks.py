"""The plan's bytes against DeepSpeed: tensors in the engines of two ranks, and what their hosts send.

One run serves all of it. Where network namespaces are allowed the ranks are on two hosts and an interface of
each is read; elsewhere both are on one, whose loopback carries what both send.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from two_hosts import make_two_hosts, why_not
from zero_worker import BUCKET, SIZES, THRESHOLD

from lxmert_fast.models import LxmertConfig, LxmertForPreTraining
from lxmert_fast.train.memory import ELEMENT_BYTES, MAX_REUSE_DISTANCE, ModelSize, Partition, rank_memory
from lxmert_fast.train.wire import bytes_sent

WORKER = Path(__file__).with_name("zero_worker.py")
#: Losses and buffers of a few kB and DeepSpeed's alignment; headers and packets sent again.
MEMORY, WIRE = 0.02, 0.1


def case(stage: int, precision: str, accumulation: int, reuse: int = MAX_REUSE_DISTANCE) -> dict[str, Any]:
    return {
        "stage": stage,
        "precision": precision,
        "accumulation": accumulation,
        "max_reuse_distance": reuse,
    }


CASES = [
    *(case(stage, "fp32", 2) for stage in range(4)),
    case(3, "fp32", 1, reuse=0),
    *(case(stage, "bf16", 1) for stage in (0, 2, 3)),
]
IDS = ["-".join(map(str, one.values())) for one in CASES]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What rank 0 found; "sent" is of one rank, the one of which fewer packets were lost and sent again."""
    folder = tmp_path_factory.mktemp("zero")
    arguments = [str(WORKER), json.dumps(CASES), str(folder)]
    if why_not() is None:
        with make_two_hosts() as hosts:
            codes = [run.wait(300) for run in hosts.deepspeed(folder, arguments)]
        together = 1
    else:
        codes = [rank.wait(300) for rank in on_one_host(arguments)]
        together = 2
    assert codes == [0, 0], "\n".join(log.read_text() for log in folder.glob("*.log"))
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    return [
        first | {"sent": min(first["sent"], second["sent"]) / together}
        for first, second in zip(*ranks, strict=True)
    ]


def on_one_host(arguments: list[str]) -> list[subprocess.Popen]:
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517", "LOCAL_RANK": "0"}
    common |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return [
        subprocess.Popen([sys.executable, *arguments], env=os.environ | common | {"RANK": str(rank)})
        for rank in range(2)
    ]


def size() -> ModelSize:
    with torch.device("meta"):
        model = LxmertForPreTraining(LxmertConfig(**SIZES))
    model.tie_weights()
    sizes = [p.numel() for p in model.parameters()]
    return ModelSize(sum(sizes), sum(n for n in sizes if n <= THRESHOLD))


def partition(found: dict[str, Any]) -> Partition:
    return Partition(
        found["stage"],
        2,
        ELEMENT_BYTES[found["precision"]],
        bucket=BUCKET,
        max_reuse_distance=found["max_reuse_distance"],
    )


@pytest.mark.parametrize("number", range(len(CASES)), ids=IDS)
def test_what_a_rank_keeps(measured: list[dict[str, Any]], number: int) -> None:
    found = measured[number]
    how, one = partition(found), rank_memory(size(), partition(found))
    bucket = how.element * BUCKET
    # stage 3 keeps its share of the gradients, and a bucket, between updates
    always = one.gradients + bucket if how.stage == 3 else 0
    assert found["resting"] == pytest.approx(one.resting + always, rel=MEMORY)
    # stage 1 keeps whole gradients, and the bucket that waits for them, until they are reduced to its share
    whole = how.element * size().parameters if how.stage == 1 else 0
    ready = one.resting + (always or one.gradients - whole)
    assert found["ready"] == pytest.approx(ready, rel=MEMORY)
    if "accumulating" in found:
        share = how.element * size().parameters / how.shared
        waiting = one.resting + one.gradients - share + bucket if whole else ready
        assert found["accumulating"] == pytest.approx(waiting, rel=MEMORY)
    assert found["gathered"] == pytest.approx(one.gathered, rel=MEMORY)


@pytest.mark.parametrize("number", range(len(CASES)), ids=IDS)
def test_what_an_update_takes(measured: list[dict[str, Any]], number: int) -> None:
    """From stage 1 on a rank updates one flat tensor; before, PyTorch takes one after the other on a CPU."""
    found, how = measured[number], partition(measured[number])
    expected = rank_memory(size(), how).update
    if how.stage:
        assert found["update"] == pytest.approx(expected, rel=MEMORY)
    else:
        assert found["update"] < expected


@pytest.mark.parametrize("number", range(len(CASES)), ids=IDS)
def test_what_a_rank_sends(measured: list[dict[str, Any]], number: int) -> None:
    found = measured[number]
    sent = bytes_sent(
        size().parameters,
        partition(found),
        accumulation=found["accumulation"],
        backend="gloo",
        tied=SIZES["vocab_size"] * SIZES["hidden_size"],
    ).sent
    assert found["sent"] == pytest.approx(sent, rel=WIRE)
