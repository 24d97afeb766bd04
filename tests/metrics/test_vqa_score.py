"""The official VQA accuracy against its definition, real annotations and what a checker refuses."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from small_data import write_json
from typer.testing import CliRunner

from lxmert_fast.commands.score import app
from lxmert_fast.errors import InputError
from lxmert_fast.metrics.vqa import score_vqa, vqa_accuracy
from lxmert_fast.metrics.vqa_answers import normalise_vqa


def by_definition(answer: str, truths: list[str]) -> float:
    """Ten choices of nine annotators, one by one."""
    if len(set(truths)) > 1:
        answer, truths = normalise_vqa(answer), [normalise_vqa(truth) for truth in truths]
    nines = [truths[:place] + truths[place + 1 :] for place in range(10)]
    return sum(min(nine.count(answer) / 3, 1) for nine in nines) / 10


@pytest.mark.parametrize("votes", range(11))
def test_every_number_of_votes(votes: int) -> None:
    truths = ["cat"] * votes + ["dog"] * (10 - votes)
    assert vqa_accuracy("cat", truths) == pytest.approx(by_definition("cat", truths), abs=1e-12)
    assert vqa_accuracy("cat", truths) == pytest.approx((0, 0.3, 0.6, 0.9, *[1] * 7)[votes], abs=1e-12)


def test_random_answers() -> None:
    rng = random.Random(0)
    words = ["Two", "2", "a cat", "cat", "dont", "don't", "dog.", "dog"]
    for _ in range(300):
        truths, answer = rng.choices(words, k=10), rng.choice(words)
        assert vqa_accuracy(answer, truths) == pytest.approx(by_definition(answer, truths), abs=1e-12)


def test_answers_are_respelt_only_where_annotators_differ() -> None:
    """The official rule: ten equal answers are compared as they stand."""
    assert vqa_accuracy("two", ["Two"] * 10) == 0
    assert vqa_accuracy("two", ["Two"] * 9 + ["three"]) == 1
    assert vqa_accuracy(" Two\n", ["Two\t"] * 10) == 1


Files = tuple[Path, Path, Path]


def write_files(folder: Path, predictions: Any = None, **changes: Any) -> Files:
    """Four questions; "cat" is right, by 10, 3, 2 and 0 annotators."""
    votes = {11: 10, 12: 3, 13: 2, 14: 0}
    annotations = [
        {
            "question_id": number,
            "answers": [{"answer": "cat" if k < count else "dog", "answer_id": k + 1} for k in range(10)],
            "answer_type": "other" if number < 14 else "yes/no",
            "question_type": "what" if number % 2 else "is it",
        }
        for number, count in votes.items()
    ]
    annotations[0] |= changes
    if predictions is None:
        predictions = [{"answer": "cat", "question_id": number} for number in votes]
    questions = [{"question_id": number, "image_id": 1, "question": "what?"} for number in votes]
    return (
        write_json(folder / "p.json", predictions),
        write_json(folder / "q.json", {"questions": questions}),
        write_json(folder / "a.json", {"annotations": annotations}),
    )


def test_scores_by_type(tmp_path: Path) -> None:
    scores = score_vqa(*write_files(tmp_path))
    assert scores.count == 4
    assert scores.overall == pytest.approx(2.5 / 4)
    assert scores.by_answer_type == {"other": (pytest.approx(2.5 / 3), 3), "yes/no": (0, 1)}
    assert scores.by_question_type == {"is it": (pytest.approx(0.45), 2), "what": (pytest.approx(0.8), 2)}


def test_the_command_prints_two_decimals(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["vqa", *map(str, write_files(tmp_path))])
    assert result.exit_code == 0
    assert "62.50" in result.output
    assert "83.33" in result.output


def test_real_annotations(shared_data: Path, tmp_path: Path) -> None:
    """The first 8 of 10 say "net", one in ten "catcher", ten of ten "orange"; they have no types."""
    files = [shared_data / f"formats/vqav2/{name}.json" for name in ("questions", "annotations")]
    answers = ["Net", "a catcher", "orange"]
    rows = [{"answer": answer, "question_id": 458752000 + number} for number, answer in enumerate(answers)]
    result = CliRunner().invoke(app, ["vqa", *map(str, [write_json(tmp_path / "p.json", rows), *files])])
    assert result.exit_code == 0
    assert f"{100 * (1 + 0.3 + 1) / 3:.2f}" in result.output
    assert "has no answer types" in result.output


ROWS = [{"answer": "cat", "question_id": number} for number in (11, 12, 13, 14)]
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "one missing": ({"predictions": ROWS[:3]}, "p.json: no answer to question 14 of"),
    "one more": ({"predictions": [*ROWS, {"answer": "", "question_id": 9}]}, "answers question 9, which"),
    "nine annotators": ({"answers": [{"answer": "cat"}] * 9}, "11): answers: found 9, wanted a list of 10"),
    "no annotators": ({"answers": None}, "(question 11): answers: found nothing"),
    "answer is a number": ({"answers": [{"answer": 1}] * 10}, "answers: answer: found 1, wanted a string"),
    "annotation of another": ({"question_id": 10}, "(question 10): is not in"),
    "annotation twice": ({"question_id": 12}, "question_id 12 occurs twice"),
    "id is true": ({"question_id": True}, "annotations: entry 0: question_id: found True"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        score_vqa(*write_files(tmp_path, **changes))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    predictions, questions, annotations = write_files(tmp_path)
    with pytest.raises(InputError, match=r"q\.json: no 'annotations' in it"):
        score_vqa(predictions, questions, questions)
    fewer = {"annotations": json.loads(annotations.read_text())["annotations"][1:]}
    write_json(annotations, fewer)
    with pytest.raises(InputError, match=r"a\.json: no answer to question 11 of"):
        score_vqa(predictions, questions, annotations)
    for content in ([], {"questions": []}, {"questions": 3}):
        with pytest.raises(InputError, match=r"q\.json: "):
            score_vqa(predictions, write_json(questions, content), annotations)


def labelled() -> list[dict[str, Any]]:
    return [
        {"question_id": 1, "img_id": "i", "sent": "?", "label": {"cat": 0.3}, "answer_type": "other"},
        {"question_id": "x", "img_id": "i", "sent": "?", "label": {}},
    ]


def test_the_label_score_that_the_original_reports(tmp_path: Path) -> None:
    rows = [{"answer": "cat", "question_id": number} for number in (1, "x")]
    files = [write_json(tmp_path / "p.json", rows), write_json(tmp_path / "q.json", labelled())]
    result = CliRunner().invoke(app, ["labels", *map(str, files)])
    assert result.exit_code == 0, result.exception
    assert "15.00" in result.output
    assert "30.00" in result.output
    write_json(files[0], [{"prediction": "cat", "questionId": "x"}])
    write_json(files[1], labelled()[1:])
    result = CliRunner().invoke(app, ["labels", *map(str, files), "--format", "gqa"])
    assert result.exit_code == 0, result.exception


def test_labels_that_are_not_there(tmp_path: Path) -> None:
    rows = [{"answer": "cat", "question_id": 1}]
    questions = [{key: value for key, value in labelled()[0].items() if key != "label"}]
    files = [write_json(tmp_path / "p.json", rows), write_json(tmp_path / "q.json", questions)]
    error = CliRunner().invoke(app, ["labels", *map(str, files)]).exception
    assert isinstance(error, InputError)
    assert "have no labels" in str(error)
