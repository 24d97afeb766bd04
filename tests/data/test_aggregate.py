"""VG-QA, captions, and all of it in one pre-training file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_data import write_json
from test_official_vqa import call, refusal

from lxmert_fast.data.examples import read_sentences
from lxmert_fast.data.vqa import read_questions


def vg(images: int = 2) -> list[dict[str, Any]]:
    return [
        {
            "id": image,
            "qas": [{"image_id": image, "qa_id": 10 * image, "question": "What?", "answer": "A cat."}],
        }
        for image in range(images)
    ]


def coco() -> dict[str, Any]:
    return {
        "images": [{"id": 9, "file_name": "COCO_train2014_000000000009.jpg"}],
        "annotations": [
            {"image_id": 9, "id": 1, "caption": "a cat."},
            {"image_id": 9, "id": 2, "caption": "cats"},
        ],
    }


def test_the_real_rows_of_visual_genome(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "formats/vgqa/question_answers.json"
    assert call("vgqa", source, tmp_path / "vg.json").exit_code == 0
    questions = read_questions(tmp_path / "vg.json")
    assert len(questions) == sum(len(image["qas"]) for image in json.loads(source.read_text()))
    first = questions[0]
    assert (first.question_id, first.image_id, first.label) == (987278, "4", {"Sailboats.": 1.0})
    assert first.sentence == "What is on the curtains?"


def test_all_in_one_file(tmp_path: Path) -> None:
    image = "COCO_train2014_000000000009"
    questions = [
        {"question_id": number, "img_id": name, "sent": f"q{number}", "label": {"yes": 1.0}}
        for number, name in enumerate((image, "n1", image))
    ]
    files = [write_json(tmp_path / f"{name}.json", [row]) for name, row in zip("abc", questions, strict=True)]
    captions = write_json(tmp_path / "captions.json", coco())
    call("vgqa", write_json(tmp_path / "vg.json", vg()), tmp_path / "v.json")
    sources = ["--vqa", files[0], "--gqa", files[1], "--gqa", files[2], "--visual7w", tmp_path / "v.json"]
    result = call("aggregate", tmp_path / "out.json", *sources, "--captions", captions)
    assert "4 images" in result.output
    found = {entry.image_id: entry for entry in read_sentences(tmp_path / "out.json")}
    assert found[image].sentences == {"vqa": ["q0"], "gqa": ["q2"], "mscoco": ["a cat.", "cats"]}
    assert found[image].labels == {"vqa": [{"yes": 1.0}], "gqa": [{"yes": 1.0}]}
    assert found["1"].labels == {"visual7w": [{"A cat.": 1.0}]}
    assert found["n1"].sentences == {"gqa": ["q1"]}


def test_nothing_to_put_together(tmp_path: Path) -> None:
    assert "no entry to write" in refusal("aggregate", tmp_path / "out.json")
    bare = write_json(tmp_path / "q.json", [{"question_id": 1, "img_id": "i", "sent": "?"}])
    assert "question 1 has no label" in refusal("aggregate", tmp_path / "out.json", "--vqa", bare)


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda e: e[1].pop("id"), "entry 1: id: found nothing, wanted a number"),
        (lambda e: e[1].update(qas={}), "entry 1: qas: found {}, wanted a list"),
        (lambda e: e[1].update(qas=[1]), "entry 1: qas[0]: found 1, wanted an object"),
        (lambda e: e[1]["qas"][0].update(qa_id=True), "qas[0]: qa_id: found True"),
        (lambda e: e[1]["qas"][0].update(qa_id=0), "entry 1: qas[0] (question 0): qa_id occurs twice"),
        (lambda e: e[1]["qas"][0].update(image_id=7), "(question 10): image_id is 7, its image's id is 1"),
        (lambda e: e[1]["qas"][0].update(answer=None), "answer: found nothing"),
        (lambda e: e[1]["qas"][0].update(question=3), "question: found 3"),
    ],
)
def test_bad_visual_genome(tmp_path: Path, edit: Callable[[Any], Any], line: str) -> None:
    content = vg()
    edit(content)
    assert line in refusal("vgqa", write_json(tmp_path / "vg.json", content), tmp_path / "out.json")


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda e: e.pop("images"), "no 'images' in it"),
        (lambda e: e["images"][0].update(file_name=3), "images: entry 0: file_name: found 3"),
        (lambda e: e["annotations"][1].update(image_id=8), "annotations: entry 1: image_id 8 is not among"),
        (lambda e: e["annotations"][1].update(caption=None), "entry 1: caption: found nothing"),
    ],
)
def test_bad_captions(tmp_path: Path, edit: Callable[[Any], Any], line: str) -> None:
    content = coco()
    edit(content)
    captions = write_json(tmp_path / "captions.json", content)
    assert line in refusal("aggregate", tmp_path / "out.json", "--captions", captions)
