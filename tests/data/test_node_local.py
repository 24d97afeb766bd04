"""Copies on the node's disk: one a node, whole or not there, never old, refused in time."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import time
from collections import namedtuple
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from region_files import random_image, write_images

from lxmert_fast.data import node_local
from lxmert_fast.data.node_local import copy_to_node
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.errors import InputError


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """Two region files of one name."""
    found = []
    for seed, name in enumerate(("train", "valid")):
        (tmp_path / name).mkdir()
        images = [random_image(10 * seed + row, 5, 200) for row in range(4)]
        found.append(write_images(tmp_path / name / "regions.h5", images))
    return found


@pytest.fixture
def node(tmp_path: Path) -> Path:
    return tmp_path / "local" / "scratch"


def whole_files(node: Path) -> set[str]:
    return {path.name for path in node.iterdir() if path.name != ".copying.lock"}


def test_copies_are_the_files(sources: list[Path], node: Path) -> None:
    copies = copy_to_node(sources, node)
    assert [copy.read_bytes() for copy in copies] == [source.read_bytes() for source in sources]
    assert whole_files(node) == {copy.name for copy in copies}
    assert len(RegionStore(*copies)) == 8
    inodes = [copy.stat().st_ino for copy in copies]
    assert copy_to_node([str(source) for source in sources], node) == copies
    assert [copy.stat().st_ino for copy in copies] == inodes


def test_a_source_that_changed_is_copied_again(sources: list[Path], node: Path) -> None:
    first, second = copy_to_node(sources, node)
    kept = second.stat().st_ino
    content = bytearray(sources[0].read_bytes())
    content[-1] ^= 1
    sources[0].write_bytes(content)
    assert copy_to_node(sources, node) == [first, second]
    assert first.read_bytes() == bytes(content)
    assert second.stat().st_ino == kept


def test_a_copy_that_was_cut_is_made_again(sources: list[Path], node: Path) -> None:
    copies = copy_to_node(sources, node)
    os.truncate(copies[0], 100)
    copy_to_node(sources, node)
    assert copies[0].read_bytes() == sources[0].read_bytes()


def copy_and_tell(sources: list[Path], node: Path, barrier: Barrier, results: Any) -> None:
    copied = []
    copy = node_local._copy

    def slow(source: Path, target: Path, advance: Any) -> None:
        copied.append(source)
        time.sleep(0.02)  # long enough for the others to come
        copy(source, target, advance)

    node_local._copy = slow
    barrier.wait()
    results.put((copy_to_node(sources, node), copied))


def test_any_number_at_once_copy_once(sources: list[Path], node: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(6, timeout=60), context.SimpleQueue()
    processes = [
        context.Process(target=copy_and_tell, args=(sources, node, barrier, results)) for _ in range(6)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 6
    found = [results.get() for _ in processes]
    assert [copies for copies, _ in found] == [copy_to_node(sources, node)] * 6
    assert sorted(len(copied) for _, copied in found) == [0] * 5 + [2]


def die_in_the_middle(sources: list[Path], node: Path) -> None:
    node_local._CHUNK = 1000
    node_local.sync = lambda _: None  # type: ignore[assignment]
    told = 0

    class Bar:
        def __enter__(self) -> Any:
            def advance(amount: int) -> None:
                nonlocal told
                told += amount
                if told > 3000:
                    os.kill(os.getpid(), signal.SIGKILL)

            return advance

        def __exit__(self, *_: object) -> None:
            pass

    node_local.progress = lambda *_: Bar()  # type: ignore[assignment]
    copy_to_node(sources, node)


def test_what_a_killed_run_left_is_removed_before_room_is_asked_for(
    sources: list[Path], node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = multiprocessing.get_context("fork").Process(target=die_in_the_middle, args=(sources, node))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (half,) = whole_files(node)
    assert half.endswith(".partial")
    usage, seen = shutil.disk_usage, list[set[str]]()

    def looked_at(folder: Path) -> Any:
        seen.append(whole_files(node))
        return usage(folder)

    monkeypatch.setattr(shutil, "disk_usage", looked_at)
    copies = copy_to_node(sources, node)
    assert seen == [set()]
    assert whole_files(node) == {copy.name for copy in copies}
    assert copies[0].read_bytes() == sources[0].read_bytes()


class TestRefusals:
    def test_no_room(self, sources: list[Path], node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        wanted = sum(source.stat().st_size for source in sources)
        usage = namedtuple("usage", "total used free")(10**6, 10**6 - wanted + 1, wanted - 1)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(InputError, match=f"{wanted:,} bytes wanted, {wanted - 1:,} bytes free") as caught:
            copy_to_node(sources, node)
        assert str(caught.value).startswith(f"{node}: no room for copies of {sources[0]}, {sources[1]}: ")
        assert whole_files(node) == set()

    def test_a_limit_met_in_the_middle(self, sources: list[Path], node: Path) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            with pytest.raises(InputError, match=r"partial: no room to write: .* \(a limit on file size"):
                copy_to_node(sources, node)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert whole_files(node) == set()
        assert len(copy_to_node(sources, node)) == 2

    def test_a_source_that_grows_meanwhile(
        self, sources: list[Path], node: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Bar:
            def __enter__(self) -> Any:
                return lambda _: sources[0].write_bytes(b"other")

            def __exit__(self, *_: object) -> None:
                pass

        monkeypatch.setattr(node_local, "progress", lambda *_: Bar())
        monkeypatch.setattr(node_local, "_CHUNK", 1000)
        with pytest.raises(InputError, match=r"train/regions\.h5: changed while it was copied: found "):
            copy_to_node(sources, node)
        assert whole_files(node) == set()

    def test_missing_sources_and_folders_that_are_none(self, sources: list[Path], tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"none\.h5: no such file"):
            copy_to_node([*sources, tmp_path / "none.h5"], tmp_path / "node")
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="file: cannot write"):
            copy_to_node(sources, tmp_path / "file")
