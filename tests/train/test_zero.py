"""Training under DeepSpeed gives what plain PyTorch gives, at every ZeRO stage: real ranks, on the CPU.

fp32: losses and weights to 1e-5 of their largest value. bf16 rounds weights and activations to 8 bits, 4e-3 a
time: to 5e-2, as a check that it runs and goes the same way.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from zero_ranks import CASES

HERE = Path(__file__).resolve().parent
FP32, BF16 = 1e-5, 5e-2
#: A single rank has the whole of everything.
ALONE = ["stage 2, questions, round robin", "stage 3, checkpointing"]

pytest.importorskip("deepspeed", reason="DeepSpeed is an extra")


def train(ranks: int, names: list[str], folder: Path) -> dict[str, list[dict]]:
    """Run cases on some processes; what each of them found, by case."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = [str(HERE.parent / "model"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }
    logs = [folder / f"{rank}.log" for rank in range(ranks)]
    processes = []
    for rank, log in enumerate(logs):
        of_rank = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        with log.open("w") as out:
            command = [sys.executable, str(HERE / "zero_ranks.py"), str(folder), *names]
            processes.append(subprocess.Popen(command, env=of_rank, stdout=out, stderr=out))
    try:
        for process, log in zip(processes, logs, strict=True):
            assert process.wait(timeout=300) == 0, log.read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]
    return {name: [of_rank[name] for of_rank in found] for name in names}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, list[dict]]:
    return train(1, ALONE, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> dict[str, list[dict]]:
    return train(2, list(CASES), tmp_path_factory.mktemp("together"))


@pytest.mark.parametrize("name", CASES)
def test_two_ranks(together, name: str):
    check(together[name], BF16 if CASES[name].bf16 else FP32)


@pytest.mark.parametrize("name", ALONE)
def test_one_rank(alone, name: str):
    check(alone[name], FP32)


def check(found: list[dict], tolerance: float) -> None:
    for of_rank in found:
        assert of_rank["finite"]
        assert of_rank["losses"] <= tolerance, of_rank
        assert of_rank["weights"] <= tolerance, of_rank
        # of hooks that do not find their tensors, for one
        assert not [line for line in of_rank["warnings"] if "untested optimizer" not in line]
