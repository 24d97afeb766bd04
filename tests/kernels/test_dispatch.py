"""Who serves a call: by the device, for a block, and for a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lxmert_fast.kernels import dispatch
from lxmert_fast.kernels.dispatch import VARIABLE, implementation, runs_triton, use_operators

REPO = Path(__file__).resolve().parents[2]
X = torch.zeros(1)


def test_a_cpu_takes_the_reference_unless_told():
    assert not use_operators(X)
    with implementation("operator"):
        assert use_operators(X)
        with implementation("reference"):
            assert not use_operators(X)
        assert use_operators(X)
    assert not use_operators(X)


def test_a_block_that_fails_leaves_nothing_behind():
    with pytest.raises(KeyError), implementation("operator"):
        raise KeyError
    assert not use_operators(X)


def test_a_choice_that_is_none():
    with pytest.raises(ValueError, match=r"LXMERT_FAST_KERNELS is 'fast', wanted one of auto, operator"):
        implementation("fast").__enter__()
    assert not use_operators(X)


def test_a_cpu_runs_no_triton():
    assert not runs_triton(X)
    assert dispatch.architecture(X.device) == 80
    assert dispatch.processors(X.device) > 0


def in_a_process(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, env={**os.environ, **environment}, text=True,
        capture_output=True, check=False,
    )  # fmt: skip


PROGRAM = """
import torch
from lxmert_fast.kernels.dispatch import use_operators
print(use_operators(torch.zeros(1)))
"""


@pytest.mark.parametrize(
    ("choice", "wanted"), [("auto", "False"), ("operator", "True"), ("reference", "False")]
)
def test_a_process_is_told_by_its_environment(choice: str, wanted: str):
    assert in_a_process(PROGRAM, **{VARIABLE: choice}).stdout.strip() == wanted


def test_a_wrong_environment_is_said_at_the_first_call():
    done = in_a_process(PROGRAM, **{VARIABLE: "fastest"})
    assert done.returncode != 0
    assert "LXMERT_FAST_KERNELS is 'fastest'" in done.stderr
