"""The two hosts of one machine talk over their interfaces, count what they send, and leave nothing behind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from two_hosts import TwoHosts, make_two_hosts, two_hosts, why_not  # noqa: F401 (a fixture by its name)

#: Waits for one connection and says how much came over it.
LISTEN = """
import socket
with socket.create_server(("", 4000)) as server:
    print("ready", flush=True)
    connection = server.accept()[0]
    print(sum(iter(lambda: len(connection.recv(1 << 20)), 0)), flush=True)
"""
SEND = """
import socket, sys, time
for _ in range(200):
    try:
        connection = socket.create_connection((sys.argv[1], 4000), timeout=1)
        break
    except OSError:
        time.sleep(0.05)
connection.sendall(bytes(1_000_000))
"""


def test_one_million_bytes(two_hosts: TwoHosts, tmp_path: Path) -> None:  # noqa: F811
    first, second = two_hosts.hosts
    log = tmp_path / "listen"
    before = second.bytes_sent()
    listening = first.start(["python3", "-c", LISTEN], log)
    sending = second.start(["python3", "-c", SEND, first.address], tmp_path / "send")
    assert (sending.wait(30), listening.wait(30)) == (0, 0), (tmp_path / "send").read_text()
    assert log.read_text().split() == ["ready", "1000000"]
    assert 1_000_000 < second.bytes_sent() - before < 1_100_000


def test_loopbacks_are_apart(two_hosts: TwoHosts, tmp_path: Path) -> None:  # noqa: F811
    first, second = two_hosts.hosts
    first.start(["python3", "-c", LISTEN], tmp_path / "listen")
    connect = "import socket; socket.create_connection(('127.0.0.1', 4000), timeout=1)"
    assert second.start(["python3", "-c", connect], tmp_path / "connect").wait(30) == 1
    assert "ConnectionRefusedError" in (tmp_path / "connect").read_text()


def test_nothing_is_left(tmp_path: Path) -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with make_two_hosts() as pair:
        asleep = pair.hosts[0].start(["sleep", "60"], tmp_path / "log")
    assert asleep.wait(5) == -9
    there = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert not any(host.namespace in there for host in pair.hosts)
