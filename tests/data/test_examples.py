"""Aggregated files become examples exactly, or are refused in one line that names the place."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_data import aggregated, known_store, small_encoder, write_json

from lxmert_fast.data import json_list
from lxmert_fast.data.answers import AnswerMap, AnswerTable
from lxmert_fast.data.examples import Examples, labels_of, read_examples
from lxmert_fast.data.json_list import read_entries, read_json
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.data.tsv import TsvIndex, convert
from lxmert_fast.errors import InputError

# The example of reference 3.3, with sentences of our own.
REAL = [
    {
        "img_id": "COCO_train2014_000000573195",
        "sentf": {
            "mscoco": ["A man on a horse.", "Two people."],
            "vqa": ["Is it raining?", "Is this a field?", "What color is the horse?"],
        },
        "labelf": {"vqa": [{"no": 1}, {"Yes": 1}, {"blue": 1, "blue and white": 0.3, "zzz zzz": 0.3}]},
    },
    {"img_id": "COCO_train2014_000000000001", "sentf": {"mscoco": ["Not there."]}, "labelf": {}},
    {"img_id": "COCO_train2014_000000578174", "sentf": {"vg": ["a bus", ""]}, "labelf": {}},
]


@pytest.fixture(scope="session")
def real_store(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> RegionStore:
    path = tmp_path_factory.mktemp("rcnn") / "train2014.h5"
    convert(TsvIndex.scan(shared_data / "rcnn_features/train2014_obj36.tsv"), path)
    return RegionStore(path)


def test_real_images_vocabulary_and_table(shared_data: Path, real_store: RegionStore, tmp_path: Path) -> None:
    text = TextEncoder(shared_data / "bert_vocab/vocab.txt")
    table = AnswerTable(shared_data / "lxmert/lxmert_all_ans.json")
    examples = read_examples([write_json(tmp_path / "a.json", REAL)], real_store, text, table)
    assert (len(examples), examples.dropped_images) == (7, 1)
    assert examples.category_names == ["mscoco", "vqa", "vg"]
    names = [examples.name(row, real_store.image_ids) for row in range(7)]
    assert names[2] == "COCO_train2014_000000573195_vqa_000"
    assert names[4] == "COCO_train2014_000000573195_vqa_002"
    assert names[6] == "COCO_train2014_000000578174_vg_001"
    assert text.decode(examples.sentences[0].tolist()) == "[CLS] a man on a horse. [SEP]"
    assert examples.sentences[6].tolist() == [101, 102]
    found = [[table.names[i] for i in examples.answers[row]] for row in range(7)]
    assert found == [[], [], ["no"], ["yes"], ["blue", "blue and white"], [], []]
    np.testing.assert_array_equal(examples.scores, np.float32([1, 1, 1, 0.3]))
    assert list(labels_of([tmp_path / "a.json"]))[1] == {"Yes": 1}


def test_several_files_are_one_set_and_nothing_is_deduplicated(tmp_path: Path) -> None:
    store, text = known_store(tmp_path, [2, 3]), small_encoder(tmp_path)
    entries = [{"img_id": "i1", "sentf": {"x": ["w1", "w1"]}, "labelf": {}}]
    files = [write_json(tmp_path / f"{k}.json", entries) for k in range(2)]
    examples = read_examples(files, store, text, AnswerMap(["a"]))
    assert len(examples) == 4
    assert examples.images.tolist() == [1] * 4
    assert examples.numbers.tolist() == [0, 1, 0, 1]


def test_what_an_example_costs(tmp_path: Path) -> None:
    store, text = known_store(tmp_path, [1] * 50), small_encoder(tmp_path)
    path = write_json(tmp_path / "a.json", aggregated(50, 10, 10))
    examples = read_examples([path], store, text, AnswerMap(["a0", "a1"]))
    tokens, answers = len(examples.sentences.values), len(examples.answers.values)
    assert answers == 2 * 500
    assert examples.nbytes == 25 * len(examples) + 2 * tokens + 8 * answers + 16


def test_long_files_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, text = known_store(tmp_path, [1] * 40), small_encoder(tmp_path)
    path = write_json(tmp_path / "a.json", aggregated(40, 5, 5))
    whole = read_examples([path], store, text, AnswerMap(["a0", "a1"]))
    for piece in (1, 7, 100):
        monkeypatch.setattr(json_list, "_PIECE", piece)
        assert [entry for _, entry in read_entries(path)] == json.loads(path.read_text())
    parts = read_examples([path], store, text, AnswerMap(["a0", "a1"]))
    np.testing.assert_array_equal(whole.sentences.values, parts.sentences.values)


def good() -> list[Any]:
    return aggregated(3, 2, 2)


def change(edit: Callable[[list[Any]], Any]) -> list[Any]:
    entries = good()
    edit(entries)
    return entries


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (change(lambda e: e[1].pop("sentf")), r"entry 1 \(img_id 'i1'\): sentf: found nothing"),
        (change(lambda e: e[1].pop("labelf")), r"entry 1 \(img_id 'i1'\): labelf: found nothing"),
        (change(lambda e: e[2].pop("img_id")), "entry 2: img_id: found nothing, wanted a string"),
        (change(lambda e: e[2].update(img_id=7)), "entry 2: img_id: found 7, wanted a string"),
        (
            change(lambda e: e[0]["sentf"]["vqa"].append("w1")),
            r"'i0'\): labelf.vqa: found 2 labels, wanted 3",
        ),
        (change(lambda e: e[0]["labelf"].update(vg=[{"a": 1}])), "labelf.vg: found 1 labels, wanted 0"),
        (change(lambda e: e[0]["labelf"].update(vqa=[])), "labelf.vqa: found 0 labels, wanted 2"),
        (
            change(lambda e: e[0]["sentf"].update(vqa=["w1", None])),
            r"sentf.vqa\[1\]: found nothing, wanted a str",
        ),
        (change(lambda e: e[0]["sentf"].update(vqa="w1")), "sentf: found .*, wanted {category"),
        (
            change(lambda e: e[0]["labelf"]["vqa"].__setitem__(1, ["a"])),
            r"labelf.vqa\[1\]: found \['a'\], wanted",
        ),
        (change(lambda e: e[0]["labelf"]["vqa"][0].update(a0=-1)), "answer 'a0' has score -1, wanted 0 to 1"),
        (change(lambda e: e[0]["labelf"]["vqa"][0].update(a0=True)), "answer 'a0' has score True"),
        (change(lambda e: e[0]["labelf"]["vqa"][0].update(a0="1")), "answer 'a0' has score '1'"),
        (change(lambda e: e[0]["labelf"]["vqa"][0].update(a0=math.nan)), "entry 0: not JSON: NaN"),
        (change(lambda e: e[0]["sentf"].update(x=["half \ud800"])), "half of a surrogate pair"),
        (change(lambda e: e.append(3)), "entry 3: found '3', wanted an object"),
        ({"a": 1}, "found '{', wanted a list of objects"),
        ([], "found an empty list"),
        (
            [{"img_id": "far", "sentf": {"x": ["w1"]}, "labelf": {}}],
            "no example left: 1 of its images are not in",
        ),
        ([{"img_id": "i0", "sentf": {"x": []}, "labelf": {}}], "no example left"),
    ],
)
def test_bad_entries(tmp_path: Path, content: Any, message: str) -> None:
    store, text = known_store(tmp_path, [1, 1, 1]), small_encoder(tmp_path)
    path = write_json(tmp_path / "bad.json", content)
    with pytest.raises(InputError, match=message) as caught:
        read_examples([path], store, text, AnswerMap(["a0", "a1"]))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", [read_json, lambda path: list(read_entries(path))])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "empty|end of the file"),
        (b" \n", "empty|end of the file"),
        (b'[{"a": 1}', "end of the file|delimiter"),
        (b'[{"a": "x', "Unterminated string"),
        (b'[{"a": "\xff"}]', "0xff is not UTF-8"),
        (b'[{"a": 1}] 2', "after the end|Extra data"),
        (b'[{"a": 1} {"b": 2}]', "wanted ','|delimiter"),
        (b'[{"a": 1},]', "wanted an object|Illegal trailing comma|Expecting value"),
        (b'[{"a": ' + b"9" * 5000 + b"}]", "not JSON"),
        (b'[{"a": ' + b'{"a":' * 100_000, "not JSON"),
    ],
)
def test_files_that_are_not_json(
    tmp_path: Path, reader: Callable[[Path], Any], content: bytes | None, message: str
) -> None:
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        reader(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def by_hand(path: Path, store: RegionStore, text: TextEncoder, answers: AnswerMap) -> list[tuple]:
    """The examples of a file in plain Python: image, category, number, token ids, label."""
    found = []
    for entry in json.loads(path.read_text(encoding="utf-8-sig")):
        if entry["img_id"] not in store:
            continue
        for category, sentences in entry["sentf"].items():
            labels = entry["labelf"].get(category) or [{}] * len(sentences)
            for number, (sentence, label) in enumerate(zip(sentences, labels, strict=True)):
                ids, mask = text.encode([sentence])
                kept = {answers.ids[a]: np.float32(s) for a, s in label.items() if a in answers.ids}
                kept = {a: s for a, s in kept.items() if s >= np.finfo(np.float32).tiny}
                image = store.row(entry["img_id"])
                found.append((image, category, number, ids[0, : mask.sum()].tolist(), kept))
    return found


def as_listed(examples: Examples) -> list[tuple]:
    bounds = examples.answers.offsets
    return [
        (
            int(examples.images[row]),
            examples.category_names[examples.categories[row]],
            int(examples.numbers[row]),
            examples.sentences[row].tolist(),
            dict(
                zip(
                    examples.answers[row].tolist(),
                    examples.scores[bounds[row] : bounds[row + 1]],
                    strict=True,
                )
            ),
        )
        for row in range(len(examples))
    ]


BYTES = st.one_of(st.sampled_from(list(b'{}[]",:0123456789 eE.-\\utrfn\xff\x00')), st.integers(0, 255))
EDITS = st.lists(
    st.tuples(st.sampled_from(["delete", "insert", "replace"]), st.floats(0, 1), BYTES, st.integers(1, 30)),
    min_size=1,
    max_size=3,
)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just([]), st.just({})
)


def mutate_bytes(data: bytes, edits: list[tuple[str, float, int, int]]) -> bytes:
    for kind, place, value, length in edits:
        at = int(place * len(data))
        if kind == "delete":
            data = data[:at] + data[at + length :]
        else:
            data = data[:at] + bytes([value]) + data[at + (kind == "replace") :]
    return data


def containers(value: Any) -> list[Any]:
    inner = (
        list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list) else []
    )
    return [value, *(found for item in inner for found in containers(item))] if inner else []


def mutate_tree(entries: list[Any], draw: Callable[[st.SearchStrategy], Any]) -> None:
    holder = draw(st.sampled_from(containers(entries)))
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    key = draw(st.sampled_from(keys))
    if draw(st.booleans()):
        del holder[key]
    else:
        holder[key] = draw(VALUES)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RegionStore, TextEncoder, AnswerMap]:
    folder = tmp_path_factory.mktemp("mutations")
    return folder / "m.json", known_store(folder, [1, 1]), small_encoder(folder), AnswerMap(["a0", "a1"])


def read_exactly_or_refused(world: tuple[Path, RegionStore, TextEncoder, AnswerMap]) -> None:
    path = world[0]
    found, refused = None, ""
    try:
        found = as_listed(read_examples([path], *world[1:]))
    except InputError as error:
        refused = str(error)
    if found is None:
        assert refused.startswith(str(path))
        assert "\n" not in refused
    else:
        assert found == by_hand(*world)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS)
def test_mutated_bytes(world: tuple[Path, RegionStore, TextEncoder, AnswerMap], edits: list[Any]) -> None:
    world[0].write_bytes(mutate_bytes(json.dumps(aggregated(3, 1, 1)).encode(), edits))
    read_exactly_or_refused(world)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_keys_and_types(
    world: tuple[Path, RegionStore, TextEncoder, AnswerMap], data: st.DataObject
) -> None:
    entries = aggregated(3, 1, 1)
    mutate_tree(entries, data.draw)
    world[0].write_text(json.dumps(entries), encoding="utf-8")
    read_exactly_or_refused(world)
