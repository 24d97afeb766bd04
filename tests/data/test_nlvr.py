"""NLVR v1: its files, what is drawn of a scene, and the data-set folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nlvr_files import cut_down_nlvr
from small_data import write_json

from lxmert_fast.data.grid import pictures_in
from lxmert_fast.data.nlvr import read_official, read_training
from lxmert_fast.data.nlvr_folder import make_folder
from lxmert_fast.data.nlvr_regions import (
    BOX,
    CELLS,
    CHANNELS,
    FEATURE_SIZE,
    GREY,
    KNOTS,
    PITCH,
    WINDOW,
    Scene,
    draw,
    regions_of,
)
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.vqa import read_questions
from lxmert_fast.errors import InputError

WHAT = CELLS * CELLS * CHANNELS


@pytest.fixture(scope="module")
def source(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cut_down_nlvr(shared_data / "nlvr", tmp_path_factory.mktemp("nlvr"), pairs=60, held_out=20)


def test_the_official_counts(shared_data: Path):
    train = read_training(shared_data / "nlvr")
    assert len(train.examples) == 70_214
    assert len(train.scenes) == 12_410
    assert len({example.sentence for example in train.examples}) <= 2_227
    for file, count in (("dev.json", 989), ("test.json", 990)):
        assert len(read_official(shared_data / "nlvr" / file).examples) == count


def test_features_are_the_picture(source: Path):
    """A window's ink is counted again in the picture, pixel by pixel, wherever the picture goes on."""
    for scene in list(read_training(source).scenes.values())[:20]:
        picture = np.asarray(draw(scene.boxes)).astype(int)
        found = regions_of(scene)
        for box, kind, colour, feature in zip(
            found.boxes, found.object_ids, found.attribute_ids, found.features, strict=True
        ):
            window = feature[:WHAT].reshape(CELLS, CELLS, CHANNELS).astype(float)
            assert (window.sum(-1) <= 1 + 1e-3).all()
            if kind == 3:
                assert tuple(box) in {(PITCH * k, 0, PITCH * k + BOX, BOX) for k in range(3)}
                continue
            left, top, right, bottom = box.astype(int)
            x, y = (left + right) // 2 - WINDOW // 2, (top + bottom) // 2 - WINDOW // 2
            first, last = left // PITCH * PITCH, left // PITCH * PITCH + BOX
            cut = picture[max(y, 0) : y + WINDOW, max(x, first) : min(x + WINDOW, last)]
            ink = (cut != np.array(GREY)).any(-1).sum()
            # cells are shares of 25 pixels, exact in float16 to 2^-11 of the largest
            cells = (WINDOW // CELLS) ** 2
            assert window[..., :3].sum() * cells == pytest.approx(ink, abs=WINDOW * WINDOW * 2**-11)
            outside = WINDOW * WINDOW - cut.shape[0] * cut.shape[1]
            assert window[..., 3].sum() * cells == pytest.approx(outside, abs=WINDOW * WINDOW * 2**-11)
            middle = picture[(top + bottom) // 2, (left + right) // 2]
            assert tuple(middle) == ((0, 0, 0), (255, 255, 0), (0, 153, 255))[colour]


def test_hats_tell_every_edge(source: Path):
    for scene in list(read_training(source).scenes.values())[:5]:
        found = regions_of(scene)
        hats = found.features[:, WHAT:].reshape(len(found.boxes), 4, len(KNOTS)).astype(float)
        edges = hats @ KNOTS
        wanted = found.boxes - np.stack([found.boxes[:, 0] // PITCH * PITCH * k for k in (1, 0, 1, 0)], 1)
        # two shares of at most 1, each rounded by 2^-12, times knots up to 100
        assert np.abs(edges - wanted).max() <= 2 * 100 * 2**-12
        assert np.allclose(hats.sum(-1), 1, atol=2**-11)


def test_an_order_moves_boxes_and_nothing_else(source: Path):
    scene = next(iter(read_training(source).scenes.values()))
    turned = regions_of(scene.ordered((2, 0, 1), "turned"))
    plain = regions_of(scene)
    sizes = [1 + len(box) for box in scene.boxes]
    rows = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    moved = np.concatenate([rows[2], rows[0], rows[1]])
    assert np.array_equal(turned.features, plain.features[moved])
    assert np.array_equal(turned.object_ids, plain.object_ids[moved])
    assert np.array_equal(turned.boxes % PITCH, plain.boxes[moved] % PITCH)
    assert not np.array_equal(turned.boxes, plain.boxes)


def test_the_folder(source: Path, tmp_path: Path):
    make_folder(source, tmp_path, orders=3)
    train = read_questions(tmp_path / "train.json")
    assert len(train) == 3 * 60
    assert len({question.question_id for question in train}) == len(train)
    valid = read_questions(tmp_path / "valid.json")
    assert [question.question_id for question in valid] == [
        json.loads(line)["identifier"] for line in (source / "dev.json").read_text().splitlines()
    ]
    with RegionStore(tmp_path / "regions.h5") as store:
        assert store.feature_size == FEATURE_SIZE
        for question in (*train, *valid, *read_questions(tmp_path / "test.json")):
            assert question.image_id in store
    assert pictures_in(tmp_path / "images").keys() == {
        question.image_id for question in (*valid, *read_questions(tmp_path / "test.json"))
    }
    entries = json.loads((tmp_path / "pretrain.json").read_text())
    assert sum(len(entry["sentf"]["nlvr"]) for entry in entries) == len(train)


def test_sentences_of_training_are_told_apart(source: Path, tmp_path: Path):
    dev = source / "dev.json"
    rows = [json.loads(line) for line in dev.read_text().splitlines()]
    known = next(iter(json.loads((source / "train_sentences.json").read_text()).values()))["sentence"]
    folder = tmp_path / "source"
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    rows[0]["sentence"] = f"{known.upper()} "
    (folder / "dev.json").write_text("\n".join(map(json.dumps, rows)))
    make_folder(folder, tmp_path / "out", orders=1)
    kinds = {q.question_id: q.question_type for q in read_questions(tmp_path / "out/valid.json")}
    assert kinds[rows[0]["identifier"]] == "sentence in training"


def _dev(**changes: Any) -> dict[str, Any]:
    item = {"x_loc": 0, "y_loc": 0, "size": 10, "type": "square", "color": "Black"}
    return {"identifier": "1-0", "sentence": "s", "label": "true", "structured_rep": [[item]] * 3} | changes


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (_dev(label=True), 'label: found True, wanted "true" or "false"'),
        (_dev(structured_rep=[[]] * 2), "wanted 3 lists of objects"),
        (_dev(structured_rep=[[]] * 3), "box 0: 0 objects, wanted 1 to 8"),
        (_dev(structured_rep=[[{"x_loc": 0}]] * 3), "wanted an object with x_loc, y_loc, size, type, color"),
        (
            _dev(
                structured_rep=[
                    [{"x_loc": 95, "y_loc": 0, "size": 10, "type": "square", "color": "Black"}],
                ]
                * 3
            ),
            "inside the 100 x 100 box",
        ),
        (
            _dev(
                structured_rep=[
                    [{"x_loc": 0, "y_loc": 0, "size": True, "type": "square", "color": "Black"}],
                ]
                * 3
            ),
            "wanted an object of size",
        ),
        (_dev(identifier=7), "identifier: found 7, wanted a string"),
        ([1], "wanted an object"),
    ],
)
def test_a_wrong_line_is_named(row: Any, says: str, tmp_path: Path):
    file = write_json(tmp_path / "dev.json", row)
    with pytest.raises(InputError, match="line 1") as error:
        read_official(file)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_an_identifier_that_occurs_twice(tmp_path: Path):
    file = tmp_path / "dev.json"
    file.write_text("\n".join([json.dumps(_dev())] * 2))
    with pytest.raises(InputError, match=r"line 2 \(identifier '1-0'\): it occurs twice"):
        read_official(file)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "empty"), (b'{"a": ', "line 1"), (b"\xff\xfe", "not UTF-8"), (b"NaN\n", "NaN")],
)
def test_a_damaged_file_is_named(content: bytes, says: str, tmp_path: Path):
    file = tmp_path / "dev.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_official(file)
    with pytest.raises(InputError, match=r"missing\.json: cannot be read"):
        read_official(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        (["nobody", "1-0", 1], "sentence 'nobody' is not in train_sentences"),
        (["s", "9-9", 1], "scene '9-9' is not in train_scenes"),
        (["s", "1-0", True], "label: found True, wanted 1 or 0"),
        (["s", "1-0"], "wanted"),
        ([["s"], "1-0", 1], "sentence: found .* wanted a string"),
    ],
)
def test_a_wrong_pair_is_named(pair: Any, says: str, tmp_path: Path):
    write_json(tmp_path / "train_scenes.jsonl", ["1-0", 1, "scatter", [[[0, 0, 10, 0, 0]]] * 3])
    write_json(tmp_path / "train_sentences.json", {"s": {"sentence": "a box"}})
    write_json(tmp_path / "train_pairs.jsonl", pair)
    with pytest.raises(InputError, match=says):
        read_training(tmp_path)


def test_scenes_are_drawn_exactly():
    """A square is its pixels, whatever else: corners inside, the next pixel outside."""
    objects = np.array([[5, 7, 20, 0, 2]])
    picture = np.asarray(draw(Scene("x", (objects, objects, objects)).boxes))
    for k in range(3):
        assert tuple(picture[7, PITCH * k + 5]) == tuple(picture[26, PITCH * k + 24]) == (0, 153, 255)
        assert tuple(picture[6, PITCH * k + 5]) == tuple(picture[27, PITCH * k + 24]) == GREY
