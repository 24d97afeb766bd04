"""The TSV: exact reading, every fault named, conversion that survives kills, 700 random mutations."""

from __future__ import annotations

import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from region_files import (
    FIELDS,
    as_the_original_reads,
    assert_same_image,
    cut_down,
    encoded,
    real_lines,
    with_column,
)

from lxmert_fast.data import tsv
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.tsv import TsvIndex, convert
from lxmert_fast.errors import InputError


@pytest.fixture(scope="session")
def lines(shared_data: Path) -> list[bytes]:
    return real_lines(shared_data)


@pytest.fixture(scope="session")
def small(lines: list[bytes]) -> list[bytes]:
    """Real rows with two to four boxes of 32 features."""
    return [cut_down(line, boxes=2 + i % 3) for i, line in enumerate(lines)]


def write(path: Path, rows: list[bytes]) -> Path:
    path.write_bytes(b"".join(rows))
    return path


class TestConversion:
    def test_float32_is_exact(self, shared_data: Path, lines: list[bytes], tmp_path: Path) -> None:
        source = shared_data / "rcnn_features/train2014_obj36.tsv"
        done: list[int] = []
        assert convert(source, tmp_path / "a.h5", "float32", advance=done.append) == (10, 0)
        assert sum(done) == 10
        wanted = as_the_original_reads(b"".join(lines))
        store = RegionStore(tmp_path / "a.h5")
        assert list(store.image_ids) == [image.image_id for image in wanted]
        assert (store.num_objects, store.num_attributes) == (1600, 400)
        regions = store.read(np.arange(10))
        assert regions.features.shape == (10, 36, 2048)
        assert regions.mask is None
        for row, image in enumerate(wanted):
            assert_same_image(store.image(row), image)
            boxes = image.boxes.copy()
            boxes[:, (0, 2)] /= image.width
            boxes[:, (1, 3)] /= image.height
            np.testing.assert_array_equal(regions.boxes[row], boxes)

    def test_float16_rounds_to_nearest_even(
        self, shared_data: Path, lines: list[bytes], tmp_path: Path
    ) -> None:
        convert(shared_data / "rcnn_features/train2014_obj36.tsv", tmp_path / "a.h5")
        store = RegionStore(tmp_path / "a.h5")
        for row, image in enumerate(as_the_original_reads(b"".join(lines))):
            found = store.image(row)
            assert found.features.dtype == np.float16
            # Half of the spacing of the 11-bit significand, or of the subnormal grid below 2^-14.
            half_step = np.maximum(np.abs(image.features) * 2.0**-11, 2.0**-25)
            assert (np.abs(found.features.astype(np.float64) - image.features) <= half_step).all()
            np.testing.assert_array_equal(found.boxes, image.boxes)
        halfway = np.array([[2049, 2051, 1 + 2**-11, 0.0]], np.float32)
        line = with_column(cut_down(lines[0], 1, 4), "features", encoded(halfway, "<f4"))
        convert(write(tmp_path / "b.tsv", [line]), tmp_path / "b.h5")
        assert RegionStore(tmp_path / "b.h5").image(0).features.tolist() == [[2048, 2052, 1, 0]]

    def test_crlf_lf_and_no_last_line_end(self, small: list[bytes], tmp_path: Path) -> None:
        wanted = list(tsv.read(write(tmp_path / "a.tsv", small)))
        for text in (
            b"".join(small).replace(b"\r\n", b"\n"),
            b"".join(small)[:-1],
            b"".join(small)[:-2],
        ):
            (tmp_path / "b.tsv").write_bytes(text)
            for found, image in zip(tsv.read(tmp_path / "b.tsv"), wanted, strict=True):
                assert_same_image(found, image)

    def test_different_numbers_of_boxes(self, small: list[bytes], tmp_path: Path) -> None:
        convert(write(tmp_path / "a.tsv", small), tmp_path / "a.h5", "float32")
        store = RegionStore(tmp_path / "a.h5")
        assert store.counts.tolist() == [2 + i % 3 for i in range(10)]
        for row, image in enumerate(as_the_original_reads(b"".join(small))):
            assert_same_image(store.image(row), image)

    def test_bad_rows_are_left_out_and_reported(self, small: list[bytes], tmp_path: Path) -> None:
        rows = list(small)
        rows[1] = rows[1].replace(b"\t", b" ", 1)
        rows[4] = with_column(rows[4], "objects_id", b"!" + rows[4].split(b"\t")[3][1:])
        rows[7] = with_column(rows[7], "img_id", rows[0].split(b"\t")[0])
        source = write(tmp_path / "a.tsv", rows)
        with pytest.raises(InputError, match="row 2"):
            convert(source, tmp_path / "a.h5", "float32")
        reported: list[InputError] = []
        assert convert(source, tmp_path / "a.h5", "float32", report=reported.append) == (7, 1)
        assert [re.search(r"row (\d+)", str(error)).group(1) for error in reported] == ["2", "8", "5"]
        store = RegionStore(tmp_path / "a.h5")
        wanted = as_the_original_reads(b"".join(small))
        assert list(store.image_ids) == [wanted[i].image_id for i in (0, 2, 3, 5, 6, 8, 9)]
        assert_same_image(store.image(3), wanted[5])
        assert list(store.faults()) == [None] * 7

    def test_memory_does_not_grow_with_the_file(self, lines: list[bytes], tmp_path: Path) -> None:
        row = lines[0]
        source = write(tmp_path / "a.tsv", [with_column(row, "img_id", b"i%d" % i) for i in range(60)])
        bound = 9_000_000
        assert source.stat().st_size > 2.5 * bound
        tracemalloc.start()
        convert(source, tmp_path / "a.h5")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # One 4 MiB read buffer, and a row as text, as bytes, as float32 and as float16.
        assert peak < bound

    def test_an_existing_file_stays(self, small: list[bytes], tmp_path: Path) -> None:
        (tmp_path / "a.h5").write_bytes(b"mine")
        with pytest.raises(InputError, match="exists already"):
            convert(write(tmp_path / "a.tsv", small), tmp_path / "a.h5")
        assert (tmp_path / "a.h5").read_bytes() == b"mine"
        convert(tmp_path / "a.tsv", tmp_path / "a.h5", overwrite=True)
        assert len(RegionStore(tmp_path / "a.h5")) == 10


KILLED = """
import os, signal, sys
from lxmert_fast.data.tsv import convert

source, out = sys.argv[1:3]
for point in map(int, sys.argv[3:]):
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        print(point, os.WIFSIGNALED(status))
        continue
    calls = 0
    def counted(call):
        def run(*arguments):
            global calls
            calls += 1
            if calls == point:
                # Half of a write may reach the file before the end.
                if call is os.pwrite and len(arguments[1]) > 1:
                    call(arguments[0], arguments[1][:len(arguments[1]) // 2], arguments[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments)
        return run
    real = {name: getattr(os, name) for name in ("pwrite", "fsync", "replace", "posix_fallocate")}
    for name, call in real.items():
        setattr(os, name, counted(call))
    convert(source, out + str(point), "float32", sync_every=3)
    os._exit(0)
"""


def test_killed_anywhere_and_resumed(small: list[bytes], tmp_path: Path) -> None:
    """kill -9 at the n-th call that changes the disk; the resumed file is the same to the last byte."""
    source = write(tmp_path / "a.tsv", small)
    convert(source, tmp_path / "whole.h5", "float32")
    points = [1, 2, 3, 4, 5, 6, 9, 14, 20, 31, 32, 33, 45, 60, 75, 86, 93, 96, 99, 101, 103, 140]
    command = [sys.executable, "-c", KILLED, source, tmp_path / "killed", *map(str, points)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    killed = [int(line.split()[0]) for line in run.stdout.splitlines() if line.endswith("True")]
    assert len(killed) > 15
    assert killed != points, "the last point should lie beyond the end"
    resumed = 0
    for point in killed:
        out = tmp_path / f"killed{point}"
        if not out.exists():  # else the kill came after the renaming
            done: list[int] = []
            convert(source, out, "float32", sync_every=3, advance=done.append)
            resumed += done[0]
        assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes(), f"killed at call {point}"
    assert resumed > 20, "no work was saved"


def test_another_source_is_not_resumed(small: list[bytes], tmp_path: Path) -> None:
    source = write(tmp_path / "a.tsv", small)
    stop = RuntimeError()

    def advance(_: int) -> None:
        advance.calls += 1
        if advance.calls == 4:
            raise stop

    advance.calls = 0
    with pytest.raises(RuntimeError):
        convert(source, tmp_path / "a.h5", sync_every=1, advance=advance)
    changed = list(small)
    conf = np.frombuffer(b"\0" * 8, "<f4")
    changed[0] = with_column(changed[0], "attrs_conf", encoded(conf, "<f4"))
    assert len(changed[0]) == len(small[0])
    write(source, changed)
    with pytest.raises(InputError, match=r"a\.h5\.partial: was begun with another source"):
        convert(source, tmp_path / "a.h5")
    write(source, small)
    convert(source, tmp_path / "a.h5")


BOXES = np.array([[0, 0, 10, 10], [5, 5, 20, 30]], np.float32)


def _boxes(index: tuple[int, int], value: float) -> bytes:
    boxes = BOXES.copy()
    boxes[index] = value
    return encoded(boxes, "<f4")


def _features(value: float) -> bytes:
    features = np.ones((2, 32), np.float32)
    features[1, 7] = value
    return encoded(features, "<f4")


#: What is wrong: column, its text, words of the message.
FAULTS: dict[str, tuple[str, bytes, str]] = {
    "too few fields": ("img_h", b"480 640", ""),
    "empty id": ("img_id", b"", "column img_id: found ''"),
    "id in Latin-1": ("img_id", b"caf\xe9", "column img_id: found bytes"),
    "id with a quote": ("img_id", b'"a"', "column img_id"),
    "id with a null": ("img_id", b"a\0b", "column img_id"),
    "width zero": ("img_w", b"0", "column img_w: found 0 pixels, wanted 1"),
    "width negative": ("img_w", b"-5", "column img_w: found '-5', wanted an integer"),
    "height not whole": ("img_h", b"4.5", "column img_h: found '4.5', wanted an integer"),
    "height huge": ("img_h", b"99999999", "column img_h: found 99999999 pixels"),
    "no boxes": ("num_boxes", b"0", "column num_boxes: found 0, wanted 1"),
    "box count wrong": ("num_boxes", b"4", "column features: found 16 numbers a box, wanted 32"),
    "box count odd": ("num_boxes", b"3", "column features: found 256 bytes, wanted a multiple of 12"),
    "base64 alphabet": ("objects_conf", b"*AAAgD8AAIA/", "column objects_conf: found broken base64"),
    "base64 padding": ("objects_conf", b"AACAPwAAgD", "column objects_conf: found broken base64"),
    "ids too short": ("objects_id", encoded([1], "<i8"), "objects_id: found 8 bytes, wanted 16 (2 int64)"),
    "boxes too long": ("boxes", encoded([0] * 12, "<f4"), "found 48 bytes, wanted 32 (2 x 4 float32)"),
    "features not numbers": ("features", encoded([0] * 63, "<f4"), "column features: found 252 bytes"),
    "feature NaN": ("features", _features(np.nan), "column features: found nan in box 1, dimension 7"),
    "feature infinite": ("features", _features(-np.inf), "features: found -inf in box 1, dimension 7"),
    "feature too large": ("features", _features(7e4), "70000.0 in box 1, dimension 7, wanted at most 65504"),
    "box NaN": ("boxes", _boxes((1, 2), np.nan), "column boxes: found nan in box 1"),
    "box infinite": ("boxes", _boxes((1, 2), np.inf), "column boxes: found inf in box 1"),
    "box beyond": ("boxes", _boxes((1, 2), 501), "boxes: found box 1 at [5.0, 5.0, 501.0, 30.0], wanted"),
    "box before": ("boxes", _boxes((0, 1), -1), "inside the 500 x 333 image"),
    "box reversed": ("boxes", _boxes((1, 0), 21), "with x1 <= x2"),
    "object negative": ("objects_id", encoded([-1, 3], "<i8"), "column objects_id: found class -1 in box 0"),
    "object too large": ("objects_id", encoded([3, 1600], "<i8"), "class 1600 in box 1, wanted 0 to 1599"),
    "object wraps": ("objects_id", encoded([3, 2**32], "<i8"), "objects_id: found class 4294967296"),
    "attribute too large": ("attrs_id", encoded([400, 0], "<i8"), "attrs_id: found class 400 in box 0"),
    "confidence NaN": ("attrs_conf", encoded([0, np.nan], "<f4"), "column attrs_conf: found nan in box 1"),
    "confidence above one": ("objects_conf", encoded([1.1, 0], "<f4"), "column objects_conf: found 1.1"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(lines: list[bytes], tmp_path: Path, fault: str) -> None:
    column, text, words = FAULTS[fault]
    rows = [cut_down(line, 2) for line in lines[:3]]
    rows.append(with_column(cut_down(lines[0], 2), "img_id", b"bad"))
    rows[3] = with_column(rows[3], column, text)
    if fault == "too few fields":
        rows[3] = rows[3].replace(b"\t640\t", b"\t").replace(b"\t500\t", b"\t")
        words = "found 9 columns, wanted 10 (img_id img_h"
    source = write(tmp_path / "a.tsv", rows)
    with pytest.raises(InputError) as caught:
        convert(source, tmp_path / "a.h5")
    message = str(caught.value)
    assert message.startswith(f"{source}: row 4, " if fault != "too few fields" else f"{source}: row 4: ")
    assert words in message
    assert "\n" not in message
    if column != "img_id" and fault != "too few fields":
        assert "image 'bad'" in message
    assert not (tmp_path / "a.h5").exists()

    reported: list[InputError] = []
    assert convert(source, tmp_path / "b.h5", report=reported.append)[0] == 3
    assert [str(error) for error in reported] == [message]


def test_boxes_within_the_original_tolerance(lines: list[bytes], tmp_path: Path) -> None:
    row = with_column(cut_down(lines[0], 2), "boxes", _boxes((1, 2), np.float32(500.004)))
    assert [image.boxes[1, 2] for image in tsv.read(write(tmp_path / "a.tsv", [row]))] == [
        np.float32(500.004)
    ]
    row = with_column(row, "boxes", _boxes((1, 2), np.float32(500.006)))
    with pytest.raises(InputError, match="column boxes"):
        list(tsv.read(write(tmp_path / "a.tsv", [row])))


def test_other_class_counts(lines: list[bytes], tmp_path: Path) -> None:
    row = with_column(cut_down(lines[0], 2), "objects_id", encoded([3, 1999], "<i8"))
    convert(write(tmp_path / "a.tsv", [row]), tmp_path / "a.h5", num_objects=2000)
    assert RegionStore(tmp_path / "a.h5").num_objects == 2000


def test_duplicate_ids_are_found_before_the_work(small: list[bytes], tmp_path: Path) -> None:
    source = write(tmp_path / "a.tsv", [*small, small[2]])
    with pytest.raises(InputError, match=r"row 11, image 'COCO_.*', column img_id: .* of row 3 again"):
        convert(source, tmp_path / "a.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tsv"]


def test_whole_file_faults(small: list[bytes], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        TsvIndex.scan(tmp_path / "none.tsv")
    with pytest.raises(InputError, match="is not a file"):
        TsvIndex.scan(tmp_path)
    with pytest.raises(InputError, match="the file is empty"):
        TsvIndex.scan(write(tmp_path / "a.tsv", []))
    with pytest.raises(InputError, match="no well-formed row"):
        TsvIndex.scan(write(tmp_path / "a.tsv", [b"x\n"]), report=lambda _: None)
    with pytest.raises(InputError, match="no row with 64 features a box"):
        TsvIndex.scan(write(tmp_path / "a.tsv", small), feature_size=64, report=lambda _: None)


def test_a_file_without_line_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsv, "_LONGEST_ROW", 1000)
    with pytest.raises(InputError, match="row 1: found over 1,000 bytes without a line end"):
        TsvIndex.scan(write(tmp_path / "a.tsv", [b"A" * 5000]))


def test_cut_off_in_the_last_row(small: list[bytes], tmp_path: Path) -> None:
    text = b"".join(small)
    start = len(text) - len(small[-1])
    for length in range(start + 1, len(text) - 2):
        (tmp_path / "a.tsv").write_bytes(text[:length])
        with pytest.raises(InputError, match=rf"a\.tsv: row {len(small)}\b.*cut off here"):
            list(tsv.read(tmp_path / "a.tsv"))


# Mutations: each rejected in one line that names file and row, or read as the original reads it.


def _swap(text: bytearray, first: int, second: int) -> None:
    """Exchanges two fields of one row."""
    rows = bytes(text).split(b"\n")
    row = rows[first % len(rows)].split(b"\t")
    i, j = first % len(row), second % len(row)
    row[i], row[j] = row[j], row[i]
    rows[first % len(rows)] = b"\t".join(row)
    text[:] = b"\n".join(rows)


def _flip(text: bytearray, place: int, value: int) -> None:
    if text:
        text[place % len(text)] ^= 1 + value % 255


def _letter(text: bytearray, place: int, value: int) -> None:
    """Another letter of base64: often still a number."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    if text:
        text[place % len(text)] = alphabet[value % 64]


def _digit(text: bytearray, place: int, value: int) -> None:
    """Another digit for one that is there."""
    digits = [i for i, character in enumerate(text) if chr(character).isdigit()]
    if digits:
        text[digits[place % len(digits)]] = 48 + value % 10


def _delete(text: bytearray, place: int, length: int) -> None:
    place %= max(len(text), 1)
    del text[place : place + 1 + length % 40]


def _insert(text: bytearray, place: int, value: int) -> None:
    place %= len(text) + 1
    text[place:place] = [b"\t", b"\r", b"\n", b"A", b"=", b'"', b"\0", b"9", b"\r\n", b"AAAA"][value % 10]


def _truncate(text: bytearray, place: int, _: int) -> None:
    del text[place % (len(text) + 1) :]


def _repeat(text: bytearray, first: int, _: int) -> None:
    """A row twice."""
    rows = bytes(text).split(b"\n")
    rows.insert(first % len(rows), rows[first % len(rows)])
    text[:] = b"\n".join(rows)


MUTATIONS: list[Callable[[bytearray, int, int], None]] = [
    _flip, _letter, _letter, _digit, _delete, _insert, _truncate, _swap, _repeat
]  # fmt: skip

mutation = st.tuples(st.sampled_from(MUTATIONS), st.integers(0, 2**31), st.integers(0, 2**31))
options: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


def assert_rejected_or_exact(path: Path, text: bytes) -> bool:
    path.write_bytes(text)
    try:
        found = list(tsv.read(path))
    except InputError as error:
        message = str(error)
        if text:
            named = re.match(rf"{re.escape(str(path))}: row (\d+)[,:]", message)
            assert named, message
            assert 1 <= int(named.group(1)) <= text.count(b"\n") + 1
        assert message.startswith(str(path))
        assert "\n" not in message
        return False
    wanted = as_the_original_reads(text)
    assert len(found) == len(wanted)
    for image, original in zip(found, wanted, strict=True):
        assert_same_image(image, original)
        for name in FIELDS:
            assert getattr(image, name).tobytes() == getattr(original, name).tobytes()
    return True


outcomes = {True: 0, False: 0}


@settings(max_examples=600, **options)
@given(mutations=st.lists(mutation, min_size=1, max_size=3))
def test_600_mutations_of_small_rows(small: list[bytes], tmp_path: Path, mutations: list) -> None:
    text = bytearray(b"".join(small[:3]))
    for change, first, second in mutations:
        change(text, first, second)
    outcomes[assert_rejected_or_exact(tmp_path / "mutated.tsv", bytes(text))] += 1


@settings(max_examples=100, **options)
@given(change=mutation)
def test_100_mutations_of_full_rows(lines: list[bytes], tmp_path: Path, change: tuple) -> None:
    text = bytearray(b"".join(lines[:2]))
    change[0](text, change[1], change[2])
    outcomes[assert_rejected_or_exact(tmp_path / "mutated.tsv", bytes(text))] += 1


def test_mutations_had_both_outcomes() -> None:
    """A reader that refused everything, or a mutation that changed nothing, would prove nothing."""
    if not sum(outcomes.values()):
        pytest.skip("the mutation tests did not run in this process")
    assert min(outcomes.values()) > 0.1 * sum(outcomes.values()), outcomes
