"""The command: help for strangers, one line and exit code 2 for mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("lxmert-fast")


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COMMAND), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("pretrain",),
        ("finetune",),
        ("evaluate",),
        ("predict",),
        ("demo",),
        ("verify",),
        ("features", "convert"),
        ("features", "check"),
        ("features", "grid"),
        ("data", "easyvqa"),
        ("checkpoint", "convert"),
        ("bench", "counts"),
        ("bench", "report"),
        ("bench", "compare"),
    ],
    ids="-".join,
)
def test_every_command_explains_itself(command):
    done = call(*command, "--help")
    assert done.returncode == 0
    assert "Usage: lxmert-fast" in done.stdout
    assert len(done.stdout.split("\n\n")[1].strip()) > 20


CASES = {
    "missing configuration": (("pretrain", "none.yaml"), "none.yaml: no such configuration file"),
    "unknown key": (("pretrain", "{config}", "run.sed=1"), "run.sed: unknown key"),
    "settings of another task": (("finetune", "{config}", "task=vqa"), "data.train"),
    "missing model": (("evaluate", "nowhere", "q.json", "--regions", "r.h5"), "nowhere"),
    "missing checkpoint": (("checkpoint", "convert", "nowhere.pth", "out"), "nowhere.pth"),
    "missing tsv": (("features", "convert", "none.tsv", "out.h5"), "none.tsv"),
    "missing folder": (("demo", "--data", "nowhere"), "nowhere"),
}


@pytest.mark.parametrize(("arguments", "words"), CASES.values(), ids=CASES)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config.yaml"
    config.write_text("data: {train: [t.json], regions: [r.h5], vocabulary: v.txt}\nrun: {output: out}\n")
    done = call(*(argument.format(config=config) for argument in arguments))
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("lxmert-fast: ")]
    assert len(lines) == 1, done.stderr
    assert words in lines[0]
    assert "Traceback" not in done.stderr
