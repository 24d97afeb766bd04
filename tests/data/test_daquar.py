"""`lxmert-fast data daquar`: what the folder holds, and one line for each mistake in the source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from daquar_source import TEST, TRAIN, daquar_features, daquar_questions, write_source
from typer.testing import CliRunner

from lxmert_fast.commands.data import app
from lxmert_fast.data.check import check_folder
from lxmert_fast.data.daquar import Splits, export
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.data.vqa import VqaFolder, read_questions
from lxmert_fast.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("daquar")
    export(write_source(place / "source"), place / "data")
    return place / "data"


def test_files(folder: Path) -> None:
    questions = {name: read_questions(folder / f"{name}.json") for name in ("train", "valid", "test")}
    whole = {name: read_questions(folder / f"{name}.json") for name in ("train_valid", "test_all")}
    images = {name: {row.image_id for row in rows} for name, rows in questions.items()}
    assert not images["train"] & images["valid"]
    assert images["train"] | images["valid"] == {row.image_id for row in whole["train_valid"]} == set(TRAIN)
    assert images["test"] == {row.image_id for row in whole["test_all"]} == set(TEST)
    # one answer is one answer in the source: ["bag", "shoe", "bag"] is a set
    assert len(whole["test_all"]) == 9
    assert len(questions["test"]) == 6
    assert {row.answer_type for row in questions["valid"]} == {"thing", "number"}
    several = next(row for row in questions["train"] if row.answer_type == "set")
    assert several.label == {"bag": 1.0, "shoe": 1.0}
    assert VqaFolder(folder).answers().names == ["0", "1", "2", "bag", "light_bulb", "picture", "shoe"]
    assert list(check_folder(folder)) == [None] * sum(map(len, questions.values()))


def test_validation_is_whole_runs_of_numbers(tmp_path: Path) -> None:
    numbers = [number for scene in range(30) for number in range(20 * scene, 20 * scene + 3 + scene % 9)]
    splits = Splits([f"image{number}" for number in reversed(numbers)], [])
    held = splits.validation(0.1)
    assert abs(len(held) / len(numbers) - 0.1) < 0.03
    for number in numbers:
        if number + 1 in numbers:
            assert (f"image{number}" in held) == (f"image{number + 1}" in held)


def test_regions(folder: Path) -> None:
    members = daquar_features()
    with RegionStore(folder / "regions.h5") as store:
        assert (store.feature_size, store.num_objects, store.num_attributes) == (4 + 81, 81, 1)
        for row, image_id in enumerate(members["image_id"]):
            read = store.read(np.array([store.row(str(image_id))]))
            np.testing.assert_array_equal(read.features[0, :, :4], members["features"][row])
            expected = np.zeros((5, 81), np.float32)
            for box, (label, sure) in enumerate(
                zip(members["obj_id"][row], members["obj_conf"][row], strict=True)
            ):
                expected[box, label] = 1 if label == 80 else sure
            np.testing.assert_array_equal(read.features[0, :, 4:], expected)
            # shares of width and height go to pixels and back: two roundings of fp32
            np.testing.assert_allclose(read.boxes[0], members["boxes"][row], rtol=2**-22)


def test_pretraining_entries_are_of_the_training_photos(folder: Path) -> None:
    entries = json.loads((folder / "pretrain.json").read_text())
    assert {entry["img_id"] for entry in entries} == set(TRAIN)
    statements = [text for entry in entries for text in entry["sentf"]["statement"]]
    assert "what is on the wall ? light bulb" in statements


def test_own_vocabulary(tmp_path: Path, folder: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwall\n")
    source = write_source(tmp_path / "source")
    done = CliRunner().invoke(app, ["daquar", str(source), str(tmp_path / "out"), "--vocabulary", str(words)])
    assert done.exit_code == 0, done.output
    assert "vocab.txt: 6" in done.output
    assert TextEncoder(tmp_path / "out/vocab.txt").vocab_size == 6
    encoder = TextEncoder(folder / "vocab.txt")
    assert encoder.unk_id not in encoder.encode(["what is on the wall ? light bulb"])[0]


def changed(**values: Any) -> list[dict[str, Any]]:
    rows = daquar_questions()
    rows[4] |= values
    return rows


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (changed(question_id=3), "entry 4: question_id 3 is also that of entry 3"),
        (changed(question_id=True), "question_id: found True"),
        (changed(answers=["a", 2]), "answers: found 2, wanted a string"),
        (changed(answers="chair"), "answers: found 'chair', wanted a list"),
        (changed(answers=[]), "answers: found [], wanted a list"),
        (changed(answers=[" "]), "answers: found ' ', wanted a word"),
        (changed(split="dev"), "split: found 'dev'"),
        (changed(split="test"), "image 'image2' of split 'test' is not in test_images_list.txt"),
        (changed(image_id=None), "image_id: found nothing, wanted a string"),
        (changed(question=7), "question: found 7, wanted a string"),
        (daquar_questions()[:21], "found no question for test.json"),
    ],
)
def test_bad_questions(tmp_path: Path, rows: Any, words: str) -> None:
    refused(write_source(tmp_path / "source", rows), "daquar_all.json", words)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"obj_id": None}, "found no member 'obj_id'"),
        ({"boxes": daquar_features()["boxes"][:, :4]}, "boxes (10, 4, 4), features (10, 5, 4)"),
        ({"features": daquar_features()["features"][:9]}, "features (9, 5, 4), obj_id (10, 5)"),
        ({"features": daquar_features()["features"][0]}, "features (5, 4)"),
        ({"image_id": np.array("image1")}, "found shapes image_id ()"),
        ({"image_id": np.arange(10)}, "image_id: found type int64, wanted strings"),
        ({"obj_conf": np.full((10, 5), "x")}, "obj_conf: found type <U1, wanted floating-point"),
        ({"obj_conf": np.full((10, 5), np.nan)}, "obj_conf: found nan in box 0, wanted 0 to 1"),
        ({"obj_id": np.full((10, 5), 81)}, "obj_id: found class 81 in box 0, wanted 0 to 80"),
        ({"features": np.full((10, 5, 4), np.inf)}, "features: found inf in box 0"),
        ({"boxes": daquar_features()["boxes"] * 3}, "wanted it inside the 640 x 480 image"),
        ({"image_id": np.array(["image1"] * 10)}, "image_id: found an id twice"),
        ({"image_id": np.array([f"photo{i}" for i in range(10)])}, "found no 'image1' (10 listed images"),
    ],
)
def test_bad_features(tmp_path: Path, members: dict[str, Any], words: str) -> None:
    refused(write_source(tmp_path / "source", **members), "features.npz", words)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("daquar_all.json", b"", "wanted a list"),
        ("daquar_all.json", b'[{"question_id": 0, ', "not JSON"),
        ("daquar_all.json", b'[{"question": "caf\xe9"}]', "byte 0xe9 is not UTF-8"),
        ("daquar_all.json", None, "cannot be read"),
        ("train_images_list.txt", b"image1\xff\n", "byte 6 is not UTF-8"),
        ("train_images_list.txt", b" \n", "empty, wanted an image id a line"),
        ("train_images_list.txt", b"image1\nimage1\n", "found 'image1' twice"),
        ("train_images_list.txt", None, "cannot be read"),
        ("test_images_list.txt", b"image4\nimage1\n", "'image1' is also in train_images_list.txt"),
        ("features.npz", b"", "cannot be read"),
        ("features.npz", b"PK\x03\x04 but no zip", "cannot be read"),
        ("features.npz", None, "cannot be read: No such file"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    source = write_source(tmp_path / "source")
    if content is None:
        (source / name).unlink()
    else:
        (source / name).write_bytes(content)
    refused(source, name, words)


def test_unwritable_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        export(write_source(tmp_path / "source"), tmp_path / "file")


def test_the_real_lists(shared_data: Path, tmp_path: Path) -> None:
    """The counts of the data's description."""
    counts = export(shared_data / "daquar", tmp_path)
    assert counts["train_valid.json"] == 6795
    assert (counts["test.json"], counts["test_all.json"], counts["regions.h5"]) == (5076, 5673, 1449)
    train = {row.image_id for row in read_questions(tmp_path / "train.json")}
    assert train.isdisjoint(row.image_id for row in read_questions(tmp_path / "valid.json"))


def refused(source: Path, name: str, words: str) -> None:
    """One line that begins with the file; no region file is left."""
    with pytest.raises(InputError) as error:
        export(source, source / "out")
    line = str(error.value)
    assert line.startswith(str(source / name)), line
    assert words in line
    assert "\n" not in line
    assert not (source / "out/regions.h5").exists()
