"""GQA's official files: of any size, in one file or a folder of shards."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from small_data import write_json
from test_official_vqa import call, refusal

from lxmert_fast.data import json_list
from lxmert_fast.data.json_writing import write_entries
from lxmert_fast.data.official.gqa import read_gqa_questions
from lxmert_fast.data.vqa import entry_of, read_questions
from lxmert_fast.errors import InputError


def gqa(count: int, first: int = 0, answer: bool = True) -> dict[str, Any]:
    return {
        f"{number:08d}": {"imageId": f"n{number % 7}", "question": f"what is {number}?"}
        | ({"answer": f"a{number % 5}"} if answer else {})
        for number in range(first, first + count)
    }


def test_the_real_rows(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "formats/gqa"
    wanted = [
        {
            "question_id": "202218649",
            "img_id": "n578564",
            "sent": "What is hanging above the chalkboard?",
            "label": {"picture": 1.0},
            "answer_type": "open",
            "question_type": "query",
        },
        {
            "question_id": "20240871",
            "img_id": "n166008",
            "sent": "Does the table below the water look wooden and round?",
            "label": {"yes": 1.0},
            "answer_type": "binary",
            "question_type": "logical",
        },
    ]
    for source, count in (("questions.json", 1), ("question_dir", 2)):
        assert call("gqa", folder / source, tmp_path / "out.json").exit_code == 0
        assert json.loads((tmp_path / "out.json").read_text()) == wanted[:count]


@pytest.mark.parametrize("kind", ["verify", "logical", "choose", "compare", "query"])
def test_only_queries_are_open(tmp_path: Path, kind: str) -> None:
    content = gqa(1)
    content["00000000"]["types"] = {"structural": kind}
    (question,) = read_gqa_questions(write_json(tmp_path / "q.json", content))
    assert (question.answer_type, question.question_type) == ("open" if kind == "query" else "binary", kind)


def test_shards_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for shard in range(12):
        write_json(tmp_path / f"train_all_questions_{shard}.json", gqa(2, 2 * shard))
    found = [question.question_id for question in read_gqa_questions(tmp_path)]
    assert found == list(gqa(24))


def test_submission_questions_have_no_label(tmp_path: Path) -> None:
    result = call("gqa", write_json(tmp_path / "q.json", gqa(3, answer=False)), tmp_path / "submit.json")
    assert "3 questions" in result.output
    assert [question.label for question in read_questions(tmp_path / "submit.json")] == [None] * 3


def test_answers_of_train_and_valid(tmp_path: Path) -> None:
    files = [write_json(tmp_path / "t.json", gqa(3)), write_json(tmp_path / "v.json", gqa(3, 2))]
    assert call("gqa-answers", *files, "--out", tmp_path).exit_code == 0
    assert json.loads((tmp_path / "trainval_label2ans.json").read_text()) == ["a0", "a1", "a2", "a3", "a4"]
    like = write_json(tmp_path / "like.json", ["a3", "a0", "a4", "a1", "a2"])
    assert call("gqa-answers", *files, "--out", tmp_path, "--like", like).exit_code == 0
    assert json.loads((tmp_path / "trainval_label2ans.json").read_text())[0] == "a3"
    unlabelled = write_json(tmp_path / "s.json", gqa(3, answer=False))
    assert "no answers" in refusal("gqa-answers", unlabelled, "--out", tmp_path)


def test_the_originals_order_comes_back(shared_data: Path, tmp_path: Path) -> None:
    like = shared_data / "lxmert/gqa_trainval_label2ans.json"
    names = json.loads(like.read_text())
    content = {
        f"{number}": {"imageId": "1", "question": "?", "answer": name}
        for number, name in enumerate(sorted(names))
    }
    path = write_json(tmp_path / "q.json", content)
    assert "1,842 answers" in call("gqa-answers", path, "--out", tmp_path, "--like", like).output
    assert json.loads((tmp_path / "trainval_label2ans.json").read_text()) == names


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the bytes that tell repeated ids (8 a question, 40 while they are sorted)."""
    monkeypatch.setattr(json_list, "_PIECE", 1 << 12)
    peaks = []
    for count in (1000, 5000):
        path = write_json(tmp_path / f"{count}.json", gqa(count))
        tracemalloc.start()
        assert write_entries(tmp_path / "out.json", map(entry_of, read_gqa_questions(path))) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 48 * 4000


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ([], "found '[', wanted an object"),
        ({}, "found an empty object"),
        ({"1": 3}, "'1': found '3', wanted an object"),
        ({"1": {"question": "?"}}, "'1': imageId: found nothing"),
        ({"1": {"imageId": 4, "question": "?"}}, "'1': imageId: found 4, wanted a string"),
        ({"1": {"imageId": True, "question": "?"}}, "'1': imageId: found True"),
        ({"1": {"imageId": "4", "question": None}}, "'1': question: found nothing"),
        ({"1": {"imageId": "4", "question": "?", "answer": False}}, "'1': answer: found False"),
        ({"1": {"imageId": "4", "question": "?", "types": 1}}, "'1': types: found 1"),
        (gqa(2) | gqa(1, 2, answer=False), "'00000002': no answer, unlike the questions before"),
    ],
)
def test_bad_content(tmp_path: Path, content: Any, line: str) -> None:
    path = write_json(tmp_path / "q.json", content)
    error = refusal("gqa", path, tmp_path / "out.json")
    assert line in error
    assert str(path) in error
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "the end of the file, wanted an object"),
        (b'{"1": {"imageId": "4"', "not JSON"),
        (b'{"1" 2}', "wanted ':'"),
        (b"{1: 2}", "found '1', wanted a string"),
        (b'{"1": {"imageId": "4", "question": "?"} 2}', "found '2' after it, wanted ',' or '}'"),
        (b'{"1": {"imageId": "4", "question": "?"}} 2', "after the end"),
        (b'{"1": {"imageId": "\xff"}}', "UTF-8"),
        (
            b'{"1": {"imageId": "4", "question": "?"}, "1": {"imageId": "4", "question": "?"}}',
            "in .* already",
        ),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes, line: str) -> None:
    path = tmp_path / "q.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=line):
        list(read_gqa_questions(path))


def test_a_question_of_two_shards(tmp_path: Path) -> None:
    first, second = write_json(tmp_path / "s_0.json", gqa(3)), write_json(tmp_path / "s_1.json", gqa(3, 2))
    error = refusal("gqa", tmp_path, tmp_path / "out.json")
    assert error == f"{second}: '00000002': the question is in {first} already"


def test_no_shards(tmp_path: Path) -> None:
    assert "no .json file in it" in refusal("gqa", tmp_path, tmp_path / "out.json")
