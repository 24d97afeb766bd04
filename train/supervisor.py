"""`lxmert-fast launch`: DeepSpeed's launcher, started again when a rank dies.

On each host one supervisor starts the launcher, which starts that host's ranks. When a rank dies, its
launcher ends the others of the host, the watchdog those of the other hosts, and every supervisor starts its
launcher again; they meet anew and go on from the last checkpoint.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from lxmert_fast.errors import InputError

from .checkpoints import latest_name

TRAIN = Path(__file__).parent
WRONG_INPUT = 2
"""The exit code of a run whose files or settings are wrong: again would be wrong again."""
DIVERGED = 1


@dataclass(frozen=True)
class Hosts:
    """Where ranks run.

    Args:
        ranks: of this host; None for one a GPU (or a CPU's one).
        hostfile: "name slots=8" a line, for several hosts.
        node_rank: this host's line, from 0, where each host is started by hand or by SLURM; None lets the
            launcher reach the others by ssh.
        master: address of the first host; port of the meeting.
    """

    ranks: int | None = None
    hostfile: Path | None = None
    node_rank: int | None = None
    master: str | None = None
    port: int = 29500

    def words(self) -> list[str]:
        """Arguments of `deepspeed`.

        Raises:
            InputError: a hostfile that is wrong, or options that do not go together.
        """
        words = ["--master_port", str(self.port)]
        if self.hostfile is None:
            if self.node_rank is not None:
                raise InputError("--node-rank wants --hostfile, which says how many hosts there are")
            if self.ranks is not None:
                words += ["--num_gpus", str(self.ranks)]
        else:
            hosts = read_hostfile(self.hostfile)
            words += ["--hostfile", str(self.hostfile)]
            if self.node_rank is not None:
                if not 0 <= self.node_rank < len(hosts):
                    raise InputError(
                        f"{self.hostfile}: --node-rank is {self.node_rank}, it names {len(hosts)} hosts, "
                        f"wanted 0 to {len(hosts) - 1}"
                    )
                if self.master is None:
                    raise InputError("--node-rank wants --master-addr, where the hosts meet")
                words += ["--no_ssh", "--node_rank", str(self.node_rank)]
        if self.master is not None:
            words += ["--master_addr", self.master]
        return words


def read_hostfile(path: Path) -> dict[str, int]:
    """Host to slots of a hostfile.

    Raises:
        InputError: no such file, a line that is not "name slots=N", a host twice, or no host at all.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such hostfile")
    hosts: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        slots = words[1].removeprefix("slots=") if len(words) == 2 and words[1].startswith("slots=") else ""
        if not slots.isdecimal() or int(slots) < 1:
            raise InputError(f"{path}: line {number}: found {line.strip()!r}, wanted `name slots=N`")
        if words[0] in hosts:
            raise InputError(f"{path}: line {number}: host {words[0]} is named twice")
        hosts[words[0]] = int(slots)
    if not hosts:
        raise InputError(f"{path}: names no host, wanted lines `name slots=N`")
    return hosts


def supervise(
    command: str,
    arguments: list[str],
    hosts: Hosts,
    *,
    max_restarts: int = 0,
    checkpoints: Path | None = None,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> int:
    """Run `train/COMMAND.py` under the launcher until it ends well or may not be started again.

    SIGTERM, SIGINT and SIGUSR1 are passed on to the ranks, and then nothing is started again.

    Args:
        command: "pretrain" or "finetune".
        arguments: configuration and overrides.
        max_restarts: how often a run that made no progress is started again; a new checkpoint counts as
            progress.
        checkpoints: the run's folder of them.

    Returns:
        The last exit code.
    """
    words = [sys.executable, "-m", "deepspeed.launcher.runner", *hosts.words()]
    words += [str(TRAIN / f"{command}.py"), *arguments]
    left, newest = max_restarts, checkpoints and latest_name(checkpoints)
    while True:
        code, stopped = _run(words)
        if code == 0 or stopped or code in (WRONG_INPUT, DIVERGED):
            return code
        found = checkpoints and latest_name(checkpoints)
        if found != newest:
            left, newest = max_restarts, found
        if left == 0:
            if max_restarts:
                say(f"lxmert-fast: exit code {code}, and {max_restarts} restarts brought no new checkpoint")
            return code
        left -= 1
        place = found or "the beginning"
        say(f"lxmert-fast: exit code {code}; starting again from {place}, {left} restarts left")
        time.sleep(1.0)  # the port of the meeting is free again by then


def _run(words: list[str]) -> tuple[int, bool]:
    """One launch: its exit code, and whether a signal to us ended it."""
    stopped: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        stopped.append(signal.SIGTERM if number == signal.SIGINT else number)
        if process is not None:
            _signal_ranks(process.pid, stopped[-1])

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        # a session of its own: a signal reaches the ranks once, and what they leave can be ended with them
        process = subprocess.Popen(words, start_new_session=True)
        if stopped:  # before there was anybody to pass it on to
            _signal_ranks(process.pid, stopped[-1])
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if process is not None:
            _end_session(process.pid)
    return code, bool(stopped)


def _signal_ranks(launcher: int, number: int) -> None:
    """To the ranks, not to the launcher: it would end with a failure, while they save and end well.

    Where there are no ranks yet, or where they are on other hosts, the launcher is ended.
    """
    import psutil

    found = False
    with suppress(psutil.Error):
        for process in psutil.Process(launcher).children(recursive=True):
            with suppress(psutil.Error):
                if any(Path(word).parent == TRAIN for word in process.cmdline()[1:3]):
                    found = True
                    process.send_signal(number)
        if not found:
            psutil.Process(launcher).terminate()


def _end_session(session: int) -> None:
    """Whatever is left of a launch that has ended, such as loaders of a rank that was killed."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(session, signal.SIGKILL)
