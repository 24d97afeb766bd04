"""Kill ranks of a run at random, start it again, and compare what comes out with an unbroken run.

    python tests/train/soak.py --kills 50        (make soak KILLS=50)

Two ranks train a small model with dropout, from a loader with a worker, under the supervisor. Every kill is a
SIGKILL of a random rank at a random moment; the waits are drawn so that they fall into starting, training and
the writing of checkpoints alike. At the end: are the weights equal to the last bit, and has each update seen
the examples that it saw in the unbroken run, none missing, none twice?
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml
from safetensors.torch import load_file
from small_runs import free_port, job, write_data

from lxmert_fast.train.trace import read_trace

RANKS = 2
EPOCH = 5
"""Updates of an epoch: 80 examples, 16 an update."""


@dataclass(frozen=True)
class Result:
    """What a soak found."""

    kills: int
    steps: int
    restarts: int
    missed: int
    repeated: int
    weights_equal: bool

    @property
    def good(self) -> bool:
        return self.weights_equal and not self.missed and not self.repeated

    def line(self) -> str:
        return (
            f"kills {self.kills}, steps {self.steps}, restarts {self.restarts}, "
            f"examples missed {self.missed}, examples repeated {self.repeated}, "
            f"weights {'equal' if self.weights_equal else 'NOT equal'}"
        )


def soak(folder: Path, kills: int, steps: int, seed: int = 0, stage: int = 1) -> Result:
    """An unbroken run and one with so many kills, each of so many steps, rounded up to whole epochs."""
    epochs = -(-steps // EPOCH)
    base = write_data(folder / "data")
    for name in ("whole", "killed"):
        tree = job(
            base,
            folder / name,
            epochs=epochs,
            zero={"stage": stage},
            model={"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
            data={"valid": []},
            run={"workers": 1, "keep": 2, "checkpoint_every": 3, "heartbeat": 20},
        )
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    assert _start(folder, "whole", 0).wait() == 0, (folder / "whole.log").read_text()[-4000:]
    done, restarts = _with_kills(folder, kills, random.Random(seed))
    return _compare(folder, done, restarts)


def _start(folder: Path, name: str, restarts: int) -> subprocess.Popen[bytes]:
    words = ["launch", "pretrain", str(folder / f"{name}.yaml"), "--ranks", str(RANKS)]
    words += ["--master-port", str(free_port()), "--max-restarts", str(restarts)]
    return subprocess.Popen(
        [sys.executable, "-m", "lxmert_fast.cli", *words],
        env=os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        stdout=(folder / f"{name}.log").open("ab"),
        stderr=subprocess.STDOUT,
    )


def _with_kills(folder: Path, kills: int, draw: random.Random) -> tuple[int, int]:
    """How many kills there were, and how often the supervisor has started the run again."""
    process = _start(folder, "killed", kills + 1)
    done = 0
    while process.poll() is None and done < kills:
        ranks = _ranks_of(process.pid)
        if len(ranks) < RANKS:
            time.sleep(0.05)
            continue
        pause = _pause(folder, draw)
        until = time.monotonic() + pause
        while time.monotonic() < until and process.poll() is None:
            time.sleep(0.01)
        victims = _ranks_of(process.pid)
        if victims and process.poll() is None:
            draw.choice(victims).send_signal(signal.SIGKILL)
            done += 1
            _until_gone(victims)
    code = process.wait()
    log = (folder / "killed.log").read_text(errors="replace")
    assert code == 0, log[-4000:]
    return done, log.count("starting again from")


def _pause(folder: Path, draw: random.Random) -> float:
    """Seconds until a kill: one in five while ranks start, the others within seconds of a training that goes
    on, where a checkpoint is written at every third update."""
    if draw.random() < 0.2:
        return draw.uniform(0.0, 6.0)
    log, seen = folder / "killed.log", _updates(folder / "killed.log")
    until = time.monotonic() + 40
    while _updates(log) == seen and time.monotonic() < until:
        time.sleep(0.01)
    return draw.uniform(0.0, 1.5)


def _updates(log: Path) -> int:
    return log.read_bytes().count(b"update ") if log.is_file() else 0


def _ranks_of(supervisor: int) -> list[psutil.Process]:
    """The ranks, not their loaders or launchers."""
    found = []
    try:
        for process in psutil.Process(supervisor).children(recursive=True):
            words = process.cmdline()
            if any(word.endswith("train/pretrain.py") for word in words[:4]) and "--config" in words:
                parent = process.parent()
                of_rank = parent is not None and "deepspeed.launcher.launch" in " ".join(parent.cmdline())
                if of_rank:
                    found.append(process)
    except psutil.Error:
        return []
    return found


def _until_gone(processes: list[psutil.Process]) -> None:
    psutil.wait_procs(processes, timeout=90)


def _compare(folder: Path, kills: int, restarts: int) -> Result:
    whole, killed = read_trace(folder / "whole"), read_trace(folder / "killed")
    missed = repeated = 0
    for key in whole.keys() | killed.keys():
        wanted, found = Counter(whole.get(key, [])), Counter(killed.get(key, []))
        missed += (wanted - found).total()
        repeated += (found - wanted).total()
    weights = [load_file(folder / name / "last" / "model.safetensors") for name in ("whole", "killed")]
    equal = weights[0].keys() == weights[1].keys() and all(
        weights[0][name].equal(weights[1][name]) for name in weights[0]
    )
    return Result(kills, len(killed), restarts, missed, repeated, equal)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=2000, help="of the run that is killed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stage", type=int, default=1, help="ZeRO stage")
    parser.add_argument("--folder", type=Path, help="where the runs are kept; a temporary folder if absent")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        result = soak(folder, given.kills, given.steps, given.seed, given.stage)
        (folder / "soak.json").write_text(json.dumps(result.__dict__))
    print(result.line())
    sys.exit(0 if result.good else 1)


if __name__ == "__main__":
    main()
