"""The SLURM script runs as far as it can without SLURM, and the page names files that exist."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

TRAIN = Path(__file__).resolve().parents[2] / "train"
SCRIPT = TRAIN / "examples" / "slurm.sbatch"

#: What SLURM gives: names of the nodes, one run of a command a node, a job that queues again.
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then printf 'a1\\na2\\n'; else echo "$@" >> requeued; fi
"""
SRUN = """#!/bin/bash
shift
for node in 0 1; do SLURM_NODEID=$node "$@" || status=$?; done
exit ${status:-0}
"""
COMMAND = """#!/bin/bash
printf '%s|' "$@" >> calls; echo >> calls
exit $STATUS
"""


@pytest.fixture
def run_in(tmp_path: Path) -> Callable[..., int]:
    """The script in an empty folder, with commands that write down how they are called."""
    for name, text in {"scontrol": SCONTROL, "srun": SRUN, "lxmert-fast": COMMAND}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(status: int, done: bool = False) -> int:
        if done:
            (tmp_path / "runs" / "pretrain" / "last").mkdir(parents=True)
        given = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "a[1-2]", "SLURM_GPUS_ON_NODE": "4"}
        env = os.environ | given | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "STATUS": str(status)}
        arguments = ["bash", str(SCRIPT), "optimisation.zero.stage=1", "run.seed=two words"]
        return subprocess.run(arguments, cwd=tmp_path, env=env, check=False).returncode

    return run


def test_every_node_starts_its_ranks(run_in: Callable[..., int], tmp_path: Path) -> None:
    assert run_in(0) == 0
    hostfile = "runs/pretrain/hostfile-7"
    assert (tmp_path / hostfile).read_text() == "a1 slots=4\na2 slots=4\n"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == [
        f"launch|pretrain|train/configs/pretrain.yaml|--ranks|4|--hostfile|{hostfile}|--node-rank|{node}|"
        "--master-addr|a1|run.output=runs/pretrain|optimisation.zero.stage=1|run.seed=two words|"
        for node in (0, 1)
    ]


@pytest.mark.parametrize(
    ("status", "done", "again"),
    [(0, False, True), (3, False, True), (0, True, False), (1, False, False), (2, False, False)],
)
def test_the_job_queues_again_while_there_is_more_to_train(
    run_in: Callable[..., int], tmp_path: Path, status: int, done: bool, again: bool
) -> None:
    assert run_in(status, done) == status
    assert (tmp_path / "requeued").exists() is again


def test_the_page_names_files_that_exist() -> None:
    page = (TRAIN / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:train|tests)/[\w./]+\.\w+", page)) | {"train/examples/hostfile"}
    assert [name for name in sorted(named) if not (TRAIN.parent / name).is_file()] == []
    lines = (TRAIN / "examples" / "hostfile").read_text().splitlines()
    assert all(re.fullmatch(r"\S+ slots=\d+", line) for line in lines)
