"""NLVR2 in the original's form: what a batch holds, and every wrong entry in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import make_config, scatter
from small_data import small_encoder, write_json
from small_pairs import pair_entries, regions_of

from lxmert_fast.data.batches import BatchKey
from lxmert_fast.data.check import check_file
from lxmert_fast.data.nlvr2 import Nlvr2Dataset
from lxmert_fast.errors import InputError
from lxmert_fast.models import LxmertForImagePairs

ENTRIES = pair_entries(3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nlvr2")
    regions_of(path / "regions.h5", ENTRIES)
    write_json(path / "pairs.json", ENTRIES)
    return path


def dataset(folder: Path, *names: str, **options: Any) -> Nlvr2Dataset:
    from lxmert_fast.data.regions import RegionStore

    paths = [folder / name for name in names or ("pairs.json",)]
    return Nlvr2Dataset(paths, RegionStore(folder / "regions.h5"), small_encoder(folder), **options)


def key(*rows: int) -> BatchKey:
    return BatchKey(0, 0, np.array(rows))


def test_sentences_and_images_stand_once(folder: Path) -> None:
    """Both sentences of two pairs of images: two texts and four images for eight sentence-image pairs."""
    found = dataset(folder)[key(5, 0, 1, 4)]
    inputs = found.inputs
    assert inputs["input_ids"].shape[0] == 2
    assert inputs["visual_feats"].shape[:2] == (4, 3)
    assert inputs["image_index"].shape == (4, 2)
    assert inputs["text_index"].tolist() == [1, 0, 0, 1]
    assert torch.equal(inputs["image_index"][0], inputs["image_index"][2])
    assert torch.equal(inputs["image_index"][1], inputs["image_index"][3])
    assert dataset(folder)[key(4, 1)].inputs["image_index"].tolist() == [[0, 1], [2, 3]]
    assert inputs["labels"].tolist() == [ENTRIES[row]["label"] for row in (5, 0, 1, 4)]
    assert inputs["labels"].dtype is torch.int64
    assert found.example_ids == [ENTRIES[row]["identifier"] for row in (5, 0, 1, 4)]


def test_the_images_are_the_entrys_left_then_right(folder: Path) -> None:
    found = dataset(folder)
    inputs = found[key(3)].inputs
    for side, place in enumerate(inputs["image_index"][0].tolist()):
        wanted = found.store[ENTRIES[3][f"img{side}"]]
        boxes = wanted.features.shape[1]
        assert np.array_equal(inputs["visual_feats"][place, :boxes].numpy(), wanted.features[0])


def test_scores_are_those_of_plain_pairs(folder: Path) -> None:
    """The shared batch against (B, 2, O, F) tensors that repeat sentences and images; fp64, so 1e-12."""
    found = dataset(folder)
    rows = [0, 1, 4, 5, 9]
    inputs = found[key(*rows)].inputs
    model = scatter(LxmertForImagePairs(make_config(vocab_size=100, visual_feat_dim=4))).double().eval()
    text, image = inputs["text_index"], inputs["image_index"]
    double = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
    plain = {
        "input_ids": inputs["input_ids"][text],
        "attention_mask": inputs["attention_mask"][text],
        **{name: double[name][image] for name in ("visual_feats", "visual_pos", "visual_attention_mask")},
    }
    with torch.no_grad():
        shared, alone = model(**double), model(**plain, labels=inputs["labels"])
    torch.testing.assert_close(shared.logits, alone.logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(shared.loss, alone.loss, rtol=1e-12, atol=1e-12)


def test_a_group_is_a_sentence_and_a_set_its_images(folder: Path) -> None:
    found = dataset(folder)
    assert found.groups[:5] == ["train-0--0"] * 4 + ["train-0--1"]
    assert found.sets.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert found.texts.tolist()[:9] == [0] * 4 + [4] * 4 + [8]


def test_the_first_images_of_every_file(folder: Path) -> None:
    """Four images are the first two pairs, with both sentences; of each file, as they name them."""
    write_json(folder / "first.json", ENTRIES[:8])
    write_json(folder / "rest.json", ENTRIES[8:])
    found = dataset(folder, "first.json", "rest.json", images_per_file=4)
    assert found.identifiers == [ENTRIES[row]["identifier"] for row in (0, 1, 4, 5, 8, 9, 12, 13)]
    assert (len(found), found.left_out) == (8, 16)


def test_an_example_of_two_files_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"identifier 'train-0-0-0' is also that of .*pairs\.json: entry 0"):
        dataset(folder, "pairs.json", "first.json")


def test_without_labels(folder: Path) -> None:
    write_json(folder / "hidden.json", pair_entries(1, labelled=False))
    found = dataset(folder, "hidden.json")
    assert not found.labelled
    assert "labels" not in found[key(0, 1)].inputs


def change(**values: Any) -> Callable[[list[dict[str, Any]]], Any]:
    """Other values in entry 2; `...` takes the key away."""

    def apply(entries: list[dict[str, Any]]) -> Any:
        entries[2] = {name: x for name, x in (entries[2] | values).items() if x is not ...}
        return entries

    return apply


ENTRY = "entry 2 (train-0-2-0)"
WRONG: dict[str, tuple[Any, str]] = {
    "one image": (change(img1=...), f"{ENTRY}: found img0, wanted two images"),
    "no image": (change(img0=..., img1=...), f"{ENTRY}: found no image, wanted two images"),
    "three images": (change(img2="x"), f"{ENTRY}: found img0, img1, img2, wanted two images"),
    "an image that is a number": (change(img0=7), f"{ENTRY}: img0: found 7, wanted a string"),
    "no regions": (change(img1="train-9-9-img1"), f"{ENTRY}: img1: image 'train-9-9-img1' is not in "),
    "a boolean label": (change(label=True), f"{ENTRY}: label: found True, wanted the number 0 or 1"),
    "a label in words": (change(label="True"), f"{ENTRY}: label: found 'True', wanted the number 0 or 1"),
    "label 2": (change(label=2), f"{ENTRY}: label: found 2, wanted the number 0 or 1"),
    "null as a label": (change(label=None), f"{ENTRY}: label: found nothing, wanted the number 0 or 1"),
    "a label that lacks": (change(label=...), "entry 2: no label, wanted labels on all entries or on none"),
    "an identifier twice": (change(identifier="train-0-0-0"), "entry 2: identifier 'train-0-0-0' is also"),
    "a uid twice": (change(uid="nlvr2_train_0"), "entry 2: uid 'nlvr2_train_0' is also that of "),
    "no uid": (change(uid=...), f"{ENTRY}: uid: found nothing, wanted a string"),
    "a short identifier": (change(identifier="train-0-2"), "entry 2: identifier: found 'train-0-2', wanted "),
    "a comma": (change(identifier="a-b,-c-d"), "wanted split-set-pair-sentence"),
    "a sentence that is true": (change(sent=True), f"{ENTRY}: sent: found True, wanted a string"),
    "no list": (lambda entries: entries[0], "found '{', wanted a list of objects"),
    "an empty list": (lambda entries: [], "found an empty list, wanted a list of objects"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_entries_are_named(folder: Path, case: str) -> None:
    apply, words = WRONG[case]
    path = write_json(folder / "wrong.json", apply([dict(entry) for entry in ENTRIES]))
    with pytest.raises(InputError) as caught:
        dataset(folder, "wrong.json")
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_check_names_every_wrong_entry(folder: Path) -> None:
    store = dataset(folder).store
    assert list(check_file(folder / "pairs.json", images=store)) == [None] * len(ENTRIES)
    entries = [dict(entry) for entry in ENTRIES]
    entries[1]["label"], entries[3]["img0"], entries[4]["uid"] = True, "x", ENTRIES[0]["uid"]
    faults = check_file(write_json(folder / "wrong.json", entries), images=store)
    found = [fault.split("entry ")[1] for fault in faults if fault]
    assert found == [
        "1 (train-0-1-0): label: found True, wanted the number 0 or 1",
        "3 (train-0-3-0): image 'x' is not in the data set",
        f"4: uid 'nlvr2_train_0' is also that of {folder / 'wrong.json'}: ",
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "found the end of the file, wanted a list"),
        (b'[{"identifier": "a-b', "not JSON"),
        (b'[{"identifier": "\xff"}]', "byte 0xff is not UTF-8"),
    ],
)
def test_files_that_are_no_json(folder: Path, content: bytes, words: str) -> None:
    (folder / "wrong.json").write_bytes(content)
    with pytest.raises(InputError, match=words):
        dataset(folder, "wrong.json")
