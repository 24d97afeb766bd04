"""`lxmert-fast launch` with a launcher that is a few lines of Python: no rank trains here."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lxmert_fast.errors import InputError
from lxmert_fast.train import supervisor
from lxmert_fast.train.supervisor import Hosts, read_hostfile, supervise

RUNNER = """
import os, pathlib, subprocess, sys, time
folder = pathlib.Path(os.environ["FAKE"])
with (folder / "starts").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
"""
"""In the place of DeepSpeed's launcher: it writes down what it was asked, then does what the test says."""

PLAN = """
number = len((folder / "starts").read_text().splitlines()) - 1
code, checkpoint = (folder / "plan").read_text().splitlines()[number].split(",")
if checkpoint:
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "latest").write_text(checkpoint)
sys.exit(int(code))
"""

RANK = """
import pathlib, signal, sys, time
folder = pathlib.Path(__file__).parent
for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
    def save(number, frame, name=name):
        (folder / "told").write_text(name)
        sys.exit(0)
    signal.signal(getattr(signal, name), save)
(folder / "ready").write_text(str(__import__("os").getpid()))
time.sleep(15)
"""

WITH_A_RANK = """
sys.exit(subprocess.call([sys.executable, "-u", *sys.argv[3:]]))
"""


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a launcher of these lines in DeepSpeed's place, and a rank that waits in `train/pretrain.py`'s."""
    package = tmp_path / "path" / "deepspeed" / "launcher"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setattr(supervisor, "TRAIN", tmp_path)
    pause = time.sleep
    monkeypatch.setattr(supervisor.time, "sleep", lambda seconds: pause(0.0 if seconds == 1.0 else seconds))
    (tmp_path / "pretrain.py").write_text(RANK)

    def put(lines: str) -> Path:
        (package / "runner.py").write_text(RUNNER + lines)
        return tmp_path

    return put


def run(folder: Path, max_restarts: int = 0, **more: Any) -> tuple[int, list[str], list[str]]:
    """Exit code, what the launcher was asked for at each start, what was said."""
    said: list[str] = []
    code = supervise(
        "pretrain",
        ["--config", "c.yaml"],
        Hosts(**more),
        max_restarts=max_restarts,
        checkpoints=folder / "checkpoints",
        say=said.append,
    )
    return code, (folder / "starts").read_text().splitlines(), said


def plan(folder: Path, *codes: int | tuple[int, str]) -> Path:
    """Exit codes of the starts in turn, with the checkpoint that is the newest after each."""
    steps = [code if isinstance(code, tuple) else (code, "") for code in codes]
    (folder / "plan").write_text("".join(f"{code},{checkpoint}\n" for code, checkpoint in steps))
    return folder


@pytest.mark.parametrize("code", [3, 247, 70])
def test_a_lost_rank_is_worth_another_start(launcher: Any, code: int) -> None:
    folder = plan(launcher(PLAN), code, 0)
    found, starts, said = run(folder, 2)
    assert found == 0
    asked = f"--master_port 29500 {folder / 'pretrain.py'} --config c.yaml"
    assert starts == [asked, asked]
    assert said == [f"lxmert-fast: exit code {code}; starting again from the beginning, 1 restarts left"]


@pytest.mark.parametrize("code", [0, 1, 2])
def test_what_would_go_the_same_way_again_is_not_started_again(launcher: Any, code: int) -> None:
    found, starts, said = run(plan(launcher(PLAN), code), 5)
    assert (found, len(starts), said) == (code, 1, [])


def test_restarts_without_progress_end(launcher: Any) -> None:
    found, starts, said = run(plan(launcher(PLAN), 3, 3, 70), 2)
    assert (found, len(starts)) == (70, 3)
    assert said[-1] == "lxmert-fast: exit code 70, and 2 restarts brought no new checkpoint"


def test_a_new_checkpoint_is_progress(launcher: Any) -> None:
    """One restart without progress is allowed; the second start made a checkpoint, the third did not."""
    folder = plan(launcher(PLAN), (3, ""), (3, "step_00000005"), (3, "step_00000005"), (0, ""))
    found, starts, said = run(folder, 1)
    assert (found, len(starts)) == (3, 3)
    assert "starting again from step_00000005, 0 restarts left" in said[1]
    (folder / "starts").unlink()
    codes = [(3, f"step_{update:08d}") for update in range(6, 10)]
    found, starts, said = run(plan(folder, *codes, 0), 1)
    assert (found, len(starts)) == (0, 5)


def test_without_restarts_the_exit_code_is_all(launcher: Any) -> None:
    assert run(plan(launcher(PLAN), 3))[::2] == (3, [])


def signal_when(there: Path, *numbers: int) -> threading.Thread:
    """Sends this process signals once a file is there; so the supervisor's own thread takes them."""

    def send() -> None:
        until = time.monotonic() + 20
        while not there.exists() and time.monotonic() < until:
            time.sleep(0.01)
        for number in numbers:
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("number", "told"),
    [(signal.SIGTERM, "SIGTERM"), (signal.SIGUSR1, "SIGUSR1"), (signal.SIGINT, "SIGTERM")],
    ids=["SIGTERM", "SIGUSR1", "SIGINT"],
)
def test_a_signal_goes_to_the_ranks_and_nothing_is_started_again(
    launcher: Any, number: int, told: str
) -> None:
    """The launcher would die of any of them; its rank saves and ends well, and so does the run."""
    before = [signal.getsignal(other) for other in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    folder = launcher(WITH_A_RANK)
    thread = signal_when(folder / "ready", number)
    found, starts, said = run(folder, 3)
    thread.join()
    assert (folder / "told").read_text() == told
    assert (found, len(starts), said) == (0, 1, [])
    assert [signal.getsignal(other) for other in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before


def test_a_signal_before_there_is_a_rank_ends_the_launcher(launcher: Any) -> None:
    folder = launcher("(folder / 'ready').write_text('')\ntime.sleep(15)\n")
    thread = signal_when(folder / "ready", signal.SIGUSR1)
    began = time.monotonic()
    found, starts, said = run(folder, 3)
    thread.join()
    assert (found, len(starts), said) == (-signal.SIGTERM, 1, [])
    assert time.monotonic() - began < 10  # not the launcher's own end


def test_a_signal_while_the_launcher_is_started_is_not_lost(
    launcher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after the handlers are there and before there is a process to pass it on to."""
    folder = launcher("time.sleep(15)\n")
    popen = supervisor.subprocess.Popen

    def signalled(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return popen(*args, **kwargs)

    monkeypatch.setattr(supervisor.subprocess, "Popen", signalled)
    code = supervise("pretrain", [], Hosts(), max_restarts=3, checkpoints=folder)
    assert code == -signal.SIGTERM


def test_a_signal_to_a_launcher_that_is_gone_is_no_error() -> None:
    pid = os.spawnv(os.P_NOWAIT, "/bin/true", ["true"])
    os.waitpid(pid, 0)
    supervisor._signal_ranks(pid, signal.SIGTERM)


def test_what_a_launch_leaves_behind_is_ended(launcher: Any) -> None:
    """A rank that outlives its launcher would hold the port and the GPUs."""
    folder = launcher(
        "subprocess.Popen([sys.executable, '-u', *sys.argv[3:]])\n"
        "while not (folder / 'ready').exists(): time.sleep(0.01)\n"
        "sys.exit(3)\n"
    )
    found, *_ = run(folder)
    assert found == 3
    left = int((folder / "ready").read_text() or 0)
    until = time.monotonic() + 10
    while _lives(left) and time.monotonic() < until:
        time.sleep(0.02)
    assert not _lives(left)


def _lives(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    return False


HOSTFILES = {
    "no slots": ("one slots=8\ntwo\n", "line 2: found 'two', wanted `name slots=N`"),
    "other word": ("one gpus=8\n", "line 1: found 'one gpus=8', wanted `name slots=N`"),
    "no number": ("# hosts\n\none slots=all\n", "line 3: found 'one slots=all', wanted `name slots=N`"),
    "a raised number": ("one slots=²\n", "line 1: found 'one slots=²', wanted `name slots=N`"),
    "no slot": ("one slots=0\n", "line 1: found 'one slots=0', wanted `name slots=N`"),
    "more words": ("one slots=8 fast\n", "line 1: found 'one slots=8 fast', wanted `name slots=N`"),
    "twice": ("one slots=8\ntwo slots=8\none slots=4\n", "line 3: host one is named twice"),
    "nobody": ("# one slots=8\n\n", "names no host, wanted lines `name slots=N`"),
}


@pytest.mark.parametrize(("text", "problem"), HOSTFILES.values(), ids=HOSTFILES)
def test_a_wrong_hostfile_is_named_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "hostfile"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        Hosts(hostfile=file).words()
    assert str(caught.value) == f"{file}: {problem}"


def test_a_missing_hostfile(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: no such hostfile"):
        read_hostfile(tmp_path / "none")


def test_comments_and_empty_lines_are_nobody(tmp_path: Path) -> None:
    file = tmp_path / "hostfile"
    file.write_text("# our hosts\none slots=8  # the first\n\n  two   slots=4\n")
    assert read_hostfile(file) == {"one": 8, "two": 4}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"node_rank": 2, "master": "one"}, r"--node-rank is 2, it names 2 hosts, wanted 0 to 1"),
        ({"node_rank": -1, "master": "one"}, r"--node-rank is -1, it names 2 hosts, wanted 0 to 1"),
        ({"node_rank": 0}, r"--node-rank wants --master-addr"),
        ({"node_rank": 0, "hostfile": None}, r"--node-rank wants --hostfile"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    file = tmp_path / "hostfile"
    file.write_text("one slots=8\ntwo slots=4\n")
    with pytest.raises(InputError, match=problem):
        Hosts(**{"hostfile": file} | options).words()


def test_words_for_the_launcher(tmp_path: Path) -> None:
    file = tmp_path / "hostfile"
    file.write_text("one slots=8\ntwo slots=4\n")
    assert Hosts(4, port=7).words() == ["--master_port", "7", "--num_gpus", "4"]
    by_ssh = ["--master_port", "29500", "--hostfile", str(file)]
    assert Hosts(hostfile=file).words() == by_ssh
    by_hand = Hosts(hostfile=file, node_rank=1, master="one")
    assert by_hand.words() == [
        *by_ssh, "--no_ssh", "--node_rank", "1", "--master_addr", "one",
    ]  # fmt: skip
