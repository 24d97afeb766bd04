"""Examples read once: the same arrays without tokenising, and never those of other files."""

from __future__ import annotations

import json
import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
from small_data import aggregated, known_store, small_encoder, write_json

from lxmert_fast.data import examples_cache
from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.data.examples import Examples, read_examples
from lxmert_fast.data.examples_cache import read_examples_once
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.errors import InputError

Arguments = tuple[Any, ...]


@pytest.fixture
def arguments(tmp_path: Path) -> Arguments:
    """Two files, one with an image that the store does not hold."""
    paths = [
        write_json(tmp_path / f"{name}.json", aggregated(images, 3, 2, seed=images))
        for name, images in (("a", 4), ("b", 7))
    ]
    return paths, known_store(tmp_path, [2] * 6), small_encoder(tmp_path), AnswerMap(["a0", "a1"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "examples"


def assert_same_examples(found: Examples, wanted: Examples) -> None:
    for name, value in vars(wanted).items():
        for one, two in zip(parts(getattr(found, name)), parts(value), strict=True):
            np.testing.assert_array_equal(one, two, err_msg=name)
            assert getattr(one, "dtype", None) == getattr(two, "dtype", None), name


def parts(value: Any) -> list[Any]:
    return list(vars(value).values()) if hasattr(value, "offsets") else [value]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Arguments]:
    """What had to be read."""
    found: list[Arguments] = []

    def counted(*arguments: Any) -> Examples:
        found.append(arguments)
        return read_examples(*arguments)

    monkeypatch.setattr(examples_cache, "read_examples", counted)
    return found


def test_the_second_time_nothing_is_read(arguments: Arguments, folder: Path, reads: list[Arguments]) -> None:
    wanted = read_examples(*arguments)
    assert wanted.dropped_images == 1
    for _ in range(3):
        assert_same_examples(read_examples_once(*arguments, folder), wanted)
    assert len(reads) == 1


def test_whatever_the_examples_follow_from_is_read_anew(
    arguments: Arguments, folder: Path, tmp_path: Path, reads: list[Arguments]
) -> None:
    paths, store, text, answers = arguments
    read_examples_once(*arguments, folder)
    vocabulary = tmp_path / "other.txt"
    words = text.vocabulary.read_text(encoding="utf-8").splitlines()
    vocabulary.write_text("\n".join([*words[:-2], words[-1], words[-2]]), encoding="utf-8")
    (tmp_path / "fewer").mkdir()
    changed: list[Arguments] = [
        (paths[::-1], store, text, answers),
        (paths, known_store(tmp_path / "fewer", [2] * 5), text, answers),
        (paths, store, TextEncoder(vocabulary), answers),
        (paths, store, TextEncoder(text.vocabulary, 6), answers),
        (paths, store, text, AnswerMap(["a1", "a0"])),
    ]
    for number, other in enumerate(changed, 2):
        assert_same_examples(read_examples_once(*other, folder), read_examples(*other))
        assert len(reads) == number
    content = paths[0].read_text(encoding="utf-8")
    paths[0].write_text(content.replace('"w', '"w9 w', 1), encoding="utf-8")
    assert_same_examples(read_examples_once(*arguments, folder), read_examples(*arguments))
    assert len(reads) == len(changed) + 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_file_is_made_anew(
    arguments: Arguments, folder: Path, reads: list[Arguments], damage: str
) -> None:
    wanted = read_examples_once(*arguments, folder)
    (path,) = folder.glob("*.npz")
    content = bytearray(path.read_bytes())
    content[content.index(wanted.sentences.values.tobytes()) + 5] ^= 1
    path.write_bytes({"cut": content[:-40], "flipped": content, "empty": b""}[damage])
    for _ in range(2):
        assert_same_examples(read_examples_once(*arguments, folder), wanted)
    assert len(reads) == 2


def read_together(arguments: Arguments, folder: Path, barrier: Barrier, results: Any) -> None:
    told: list[int] = []

    def counted(*arguments: Any) -> Examples:
        told.append(1)
        time.sleep(0.1)  # long enough for the others to come
        return read_examples(*arguments)

    examples_cache.read_examples = counted
    barrier.wait()
    results.put((read_examples_once(*arguments, folder).sentences.values.sum(), len(told)))


def test_of_many_at_once_one_reads(arguments: Arguments, folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4, timeout=60), context.SimpleQueue()
    processes = [
        context.Process(target=read_together, args=(arguments, folder, barrier, results)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    sums, reads = zip(*(results.get() for _ in processes), strict=True)
    assert set(sums) == {read_examples(*arguments).sentences.values.sum()}
    assert sum(reads) == 1


def test_a_disk_without_locks(
    arguments: Arguments, folder: Path, reads: list[Arguments], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: object) -> None:
        raise NotImplementedError("no locks here")

    monkeypatch.setattr(filelock.FileLock, "acquire", refused)
    for _ in range(2):
        assert_same_examples(read_examples_once(*arguments, folder), read_examples(*arguments))
    assert len(reads) == 1


def test_mistakes(arguments: Arguments, folder: Path, tmp_path: Path) -> None:
    paths, *others = arguments
    with pytest.raises(InputError, match=r"none\.json: No such file"):
        read_examples_once([tmp_path / "none.json"], *others, folder)
    (tmp_path / "taken").touch()
    with pytest.raises(InputError, match="taken: cannot write"):
        read_examples_once(*arguments, tmp_path / "taken")
    paths[1].write_text(json.dumps([{"img_id": "i0", "sentf": 3, "labelf": {}}]), encoding="utf-8")
    with pytest.raises(InputError, match="sentf: found 3"):
        read_examples_once(*arguments, folder)
    assert list(folder.glob("*.npz")) == []
