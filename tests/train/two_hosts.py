"""Two hosts on one machine: network namespaces that see each other through a pair of virtual interfaces.

    from two_hosts import TwoHosts, two_hosts  # noqa: F401 (a fixture is used by its name)

    def test_it(two_hosts: TwoHosts, tmp_path: Path) -> None:
        runs = two_hosts.deepspeed(tmp_path, ["train/pretrain.py", "--config", "..."])
        assert [run.wait(60) for run in runs] == [0, 0]

Both share the machine's file system, its name, its clock and its process numbers; what they do not share is
everything that goes over a network, and their loopback. Making a namespace takes root.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

_NUMBERS = count()


@dataclass(frozen=True)
class Host:
    """One of them."""

    namespace: str
    interface: str
    address: str
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, *arguments: object) -> list[str]:
        """What runs these arguments on this host."""
        return ["ip", "netns", "exec", self.namespace, *map(str, arguments)]

    def bytes_sent(self) -> int:
        """By its interface since it came up, headers included."""
        path = f"/sys/class/net/{self.interface}/statistics/tx_bytes"
        return int(subprocess.check_output(self.command("cat", path)))

    def environment(self) -> dict[str, str]:
        """What ranks on this host need: gloo would look the machine's name up, which is no address here."""
        return {
            "GLOO_SOCKET_IFNAME": self.interface,
            "TP_SOCKET_IFNAME": self.interface,
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
        }

    def start(
        self, arguments: Sequence[object], log: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process on this host, its output into a file; it leads a process group of its own."""
        with log.open("wb") as file:
            process = subprocess.Popen(
                self.command(*arguments),
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment() | (env or {}),
                start_new_session=True,
            )
        self.started.append(process)
        return process


@dataclass(frozen=True)
class TwoHosts:
    """The pair; the first is where rank 0 goes."""

    hosts: tuple[Host, Host]

    def deepspeed(
        self,
        folder: Path,
        arguments: Sequence[object],
        slots: int = 1,
        env: Mapping[str, str] | None = None,
    ) -> list[subprocess.Popen]:
        """The `deepspeed` launcher with these arguments on both hosts, `slots` ranks on each."""
        hostfile = folder / "hostfile"
        hostfile.write_text("".join(f"{host.address} slots={slots}\n" for host in self.hosts))
        launcher = Path(sys.executable).with_name("deepspeed")
        return [
            host.start(
                [
                    *(sys.executable, launcher, "--hostfile", hostfile, "--no_ssh", "--node_rank", number),
                    *("--master_addr", self.hosts[0].address, *arguments),
                ],
                folder / f"host{number}.log",
                env,
            )
            for number, host in enumerate(self.hosts)
        ]


def why_not() -> str | None:
    """Why this machine cannot have two hosts; None if it can."""
    if shutil.which("ip") is None:
        return "needs the command ip (iproute2)"
    if os.geteuid() != 0:
        return "needs root to make network namespaces"
    name = f"lxtry{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces are not allowed here: {made.stderr.strip()}"
    pair = ["ip", "-n", name, "link", "add", "t0", "type", "veth", "peer", "name", "t1"]
    linked = subprocess.run(pair, capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", name], check=False)
    return f"virtual interfaces are not allowed here: {linked.stderr.strip()}" if linked.returncode else None


@contextmanager
def make_two_hosts() -> Iterator[TwoHosts]:
    """Make them, and take them away with every process that is still on them."""
    mark = f"lx{os.getpid()}n{next(_NUMBERS)}"
    names = [f"{mark}{letter}" for letter in "ab"]
    hosts = tuple(Host(name, f"veth{number}", f"10.77.0.{number + 1}") for number, name in enumerate(names))

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    try:
        for host in hosts:
            ip("netns", "add", host.namespace)
        first, second = hosts
        peer = ["peer", "name", second.interface, "netns", second.namespace]
        ip("-n", first.namespace, "link", "add", first.interface, "type", "veth", *peer)
        for host in hosts:
            ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", host.interface)
            ip("-n", host.namespace, "link", "set", host.interface, "up")
            ip("-n", host.namespace, "link", "set", "lo", "up")
        yield TwoHosts((first, second))
    finally:
        for host in hosts:
            _end_processes(host)
            subprocess.run(["ip", "netns", "del", host.namespace], check=False, capture_output=True)


def _end_processes(host: Host) -> None:
    # one that has only just been started may not be on its host yet
    for process in host.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    found = subprocess.run(
        ["ip", "netns", "pids", host.namespace], capture_output=True, text=True, check=False
    )
    for pid in found.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


@pytest.fixture
def two_hosts() -> Iterator[TwoHosts]:
    """Two hosts for one test, which is skipped where there can be none."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with make_two_hosts() as hosts:
        yield hosts
