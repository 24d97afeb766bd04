"""VQA v2's official files: soft scores, the list of answers, minival, and every way they can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_data import write_json
from typer.testing import CliRunner, Result

from lxmert_fast.commands.official import app
from lxmert_fast.data.vqa import read_questions
from lxmert_fast.errors import InputError

TEN = ["Net!", "net", "the net", "net", "mesh", "mesh", "two", "2", "none", ""]


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refusal(*arguments: str | Path) -> str:
    error = call(*arguments).exception
    assert isinstance(error, InputError)
    assert "\n" not in str(error)
    return str(error)


def official_questions(subset: str = "val2014", images: int = 3) -> dict[str, Any]:
    """Two questions an image."""
    return {
        "info": {"version": "2.0"},
        "data_subtype": subset,
        "questions": [
            {"image_id": image, "question": f"what is {which}?", "question_id": 10 * image + which}
            for image in range(images)
            for which in range(2)
        ],
    }


def annotation(question_id: int, answers: list[str], **more: Any) -> dict[str, Any]:
    votes = [
        {"answer": answer, "answer_confidence": "yes", "answer_id": n} for n, answer in enumerate(answers, 1)
    ]
    return {"question_id": question_id, "answers": votes} | more


def official_annotations(images: int = 3) -> dict[str, Any]:
    return {
        "annotations": [
            annotation(
                10 * image + which,
                TEN,
                image_id=image,
                multiple_choice_answer="net",
                answer_type="other",
                question_type="what is",
            )
            for image in range(images)
            for which in range(2)
        ],
        "data_type": "mscoco",
    }


class Files:
    """Official files of three images, changed as a test wants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.questions, self.annotations = official_questions(), official_annotations()
        self.out = folder / "out.json"

    def arguments(self, *more: str | Path) -> list[str | Path]:
        questions = write_json(self.folder / "questions.json", self.questions)
        annotations = write_json(self.folder / "annotations.json", self.annotations)
        return ["vqa", questions, self.out, "--annotations", annotations, *more]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_soft_scores_of_the_answers_in_the_list(files: Files) -> None:
    """Spelt as the official evaluation spells them; votes for "none" and "" are for none of the list."""
    answers = write_json(files.folder / "label2ans.json", ["mesh", "2", "net", "cat"])
    result = call(*files.arguments("--answers", answers))
    assert result.exit_code == 0, result.output
    assert (
        "0 of 6 questions have no answer in the list; 12 of 60 votes are for answers outside it"
        in result.output
    )
    assert json.loads(files.out.read_text())[1] == {
        "question_id": 1,
        "img_id": "COCO_val2014_000000000000",
        "sent": "what is 1?",
        "label": {"net": 1.0, "mesh": 0.6, "2": 0.6},
        "answer_type": "other",
        "question_type": "what is",
    }
    assert len(read_questions(files.out)) == 6


def test_a_question_may_be_left_with_an_empty_label(files: Files) -> None:
    answers = write_json(files.folder / "label2ans.json", ["cat"])
    result = call(*files.arguments("--answers", answers))
    assert "6 of 6 questions have no answer in the list; 60 of 60 votes" in result.output
    assert all(question.label == {} for question in read_questions(files.out))


def test_test_questions_have_no_label(files: Files) -> None:
    for subset in ("test2015", "test-dev2015"):
        questions = write_json(files.folder / "q.json", official_questions(subset))
        assert call("vqa", questions, files.out).exit_code == 0
        first = json.loads(files.out.read_text())[0]
        assert first == {
            "question_id": 0,
            "img_id": "COCO_test2015_000000000000",
            "sent": "what is 0?",
        }


def test_the_real_rows(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "formats/vqav2"
    made = call("vqa-answers", folder / "annotations.json", "--out", tmp_path, "--min-occurrence", "1")
    assert made.exit_code == 0, made.output
    names = json.loads((tmp_path / "trainval_label2ans.json").read_text())
    assert names == ["net", "orange", "pitcher"]
    assert json.loads((tmp_path / "trainval_ans2label.json").read_text()) == {
        "net": 0,
        "orange": 1,
        "pitcher": 2,
    }
    out = tmp_path / "train.json"
    arguments = [
        "--annotations",
        folder / "annotations.json",
        "--answers",
        tmp_path / "trainval_label2ans.json",
    ]
    assert call("vqa", folder / "questions.json", out, *arguments).exit_code == 0
    assert json.loads(out.read_text())[0] == {
        "question_id": 458752000,
        "img_id": "COCO_train2014_000000458752",
        "sent": "What is this photo taken looking through?",
        "label": {"net": 1.0, "pitcher": 0.3, "orange": 0.3},
    }


def test_minival_goes_by_image(files: Files) -> None:
    """By number, by name, or by the original's own minival.json; never by the order of rows."""
    rest = files.folder / "nominival.json"
    by_number = [2, 0]
    by_name = ["COCO_val2014_000000000002", "COCO_val2014_000000000000"]
    original = [{"img_id": name, "question_id": 20, "sent": ""} for name in by_name]
    for content in (by_number, by_name, original):
        minival = write_json(files.folder / "ids.json", content)
        result = call(*files.arguments("--minival", minival, "--rest", rest))
        assert result.exit_code == 0, result.output
        assert [question.question_id for question in read_questions(files.out)] == [0, 1, 20, 21]
        assert [question.question_id for question in read_questions(rest)] == [10, 11]
        assert f"{rest}: 2 questions" in result.output


def test_minival_must_be_of_these_questions(files: Files) -> None:
    rest = files.folder / "nominival.json"
    for content, line in (
        ([0, 77], "1 of its 2 images have no question, such as 'COCO_val2014_000000000077'"),
        ([True], "entry 0: image id: found True, wanted a string"),
        ([{"image": 3}], "entry 0: img_id: found nothing"),
        ({}, "wanted a list of image ids"),
        ([0, 1, 2], "nominival.json: no entry to write"),
    ):
        minival = write_json(files.folder / "ids.json", content)
        assert line in refusal(*files.arguments("--minival", minival, "--rest", rest))
    assert "wanted both or neither" in refusal(*files.arguments("--minival", minival))
    assert not rest.exists()


def test_answers_need_annotations(files: Files) -> None:
    questions = files.arguments()[1]
    assert "wanted --annotations too" in refusal("vqa", questions, files.out, "--answers", questions)


def change(edit: Callable[[list[dict[str, Any]], list[dict[str, Any]]], Any]) -> Callable[[Files], Any]:
    return lambda files: edit(files.questions["questions"], files.annotations["annotations"])


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (
            change(lambda q, a: q[1].update(question_id=0)),
            "questions: entry 1 (question 0): question_id occurs",
        ),
        (
            change(lambda q, a: a[1].update(question_id=0)),
            "annotations: entry 1 (question 0): question_id occurs",
        ),
        (change(lambda q, a: q.pop(2)), "1 annotations of questions that are not in"),
        (change(lambda q, a: a.pop(2)), "entry 2 (question 10): has no annotation in"),
        (change(lambda q, a: a[3].update(image_id=9)), "(question 11): image_id is 1, its annotation"),
        (change(lambda q, a: a[0]["answers"].pop()), "answers: found 9 of them, wanted a list of 10"),
        (change(lambda q, a: a[0].update(answers="net")), "answers: found 'net', wanted a list of 10"),
        (
            change(lambda q, a: a[0]["answers"].__setitem__(4, "net")),
            "answers[4]: found 'net', wanted an object",
        ),
        (change(lambda q, a: a[0]["answers"][4].update(answer=True)), "answers[4].answer: found True"),
        (change(lambda q, a: a[0].update(multiple_choice_answer=3)), "multiple_choice_answer: found 3"),
        (change(lambda q, a: a[0].update(answer_type=[])), "answer_type: found []"),
        (
            change(lambda q, a: q[0].update(question_id=True)),
            "entry 0: question_id: found True, wanted a number",
        ),
        (change(lambda q, a: q[0].update(question_id="0")), "entry 0: question_id: found '0'"),
        (change(lambda q, a: q[0].update(image_id=1.5)), "image_id: found 1.5"),
        (change(lambda q, a: q[0].update(image_id=-1)), "image_id: found -1"),
        (change(lambda q, a: q[0].update(question=None)), "question: found nothing, wanted a string"),
        (change(lambda q, a: q.__setitem__(0, 3)), "questions: entry 0: found 3, wanted an object"),
        (change(lambda q, a: a.__setitem__(0, 3)), "annotations: entry 0: found '3', wanted an object"),
        (
            lambda files: files.questions.update(data_subtype="val2017"),
            "data_subtype: found 'val2017', wanted one",
        ),
        (lambda files: files.questions.update(data_subtype=True), "data_subtype: found True"),
        (lambda files: files.questions.pop("questions"), "wanted an object with a list of questions"),
        (lambda files: files.annotations.pop("annotations"), "no 'annotations' in it"),
        (lambda files: files.questions.update(questions=[]), "annotations of questions that are not in"),
        (lambda files: files.annotations.update(annotations=[]), "annotations: found an empty list"),
    ],
)
def test_bad_files(files: Files, edit: Callable[[Files], Any], line: str) -> None:
    edit(files)
    error = refusal(*files.arguments())
    assert line in error
    assert str(files.folder) in error
    assert not files.out.exists()


@pytest.mark.parametrize("which", ["questions", "annotations"])
@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "cannot be read"),
        (b"", "empty|end of the file"),
        (b'{"a": [1', "not JSON|line 1"),
        (b'{"\xff', "UTF-8"),
    ],
)
def test_unreadable_files(files: Files, which: str, content: bytes | None, line: str) -> None:
    arguments = files.arguments()
    path = files.folder / f"{which}.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=line) as caught:
        raise call(*arguments).exception or AssertionError
    assert str(path) in str(caught.value)


class TestTheListOfAnswers:
    @staticmethod
    def made(folder: Path, best: dict[str, int], *more: str | Path) -> Result:
        """Annotations whose best answers occur so often."""
        entries = [
            annotation(number, ["x"] * 10, multiple_choice_answer=answer)
            for number, answer in enumerate(answer for answer, count in best.items() for _ in range(count))
        ]
        half = len(entries) // 2
        files = [
            write_json(folder / f"{name}.json", {"annotations": part})
            for name, part in (("train", entries[:half]), ("val", entries[half:]))
        ]
        return call("vqa-answers", *files, "--out", folder, *more)

    def test_nine_times_is_enough_and_eight_is_not(self, shared_data: Path, tmp_path: Path) -> None:
        """The original's list comes back from annotations that hold each of its answers nine times."""
        like = shared_data / "lxmert/vqa_trainval_label2ans.json"
        names = json.loads(like.read_text())
        best = dict.fromkeys(names, 9) | {f"zz {number}": 8 for number in range(50)}
        result = self.made(tmp_path, best, "--like", like)
        assert "3,129 answers" in result.output
        assert json.loads((tmp_path / "trainval_label2ans.json").read_text()) == names
        wanted = json.loads((shared_data / "lxmert/vqa_trainval_ans2label.json").read_text())
        assert json.loads((tmp_path / "trainval_ans2label.json").read_text()) == wanted

    def test_answers_are_counted_in_the_official_spelling(self, tmp_path: Path) -> None:
        self.made(tmp_path, {"Two": 1, "2": 1, "the cat": 2, "dog": 1}, "--min-occurrence", "2")
        assert json.loads((tmp_path / "trainval_label2ans.json").read_text()) == ["2", "cat"]

    def test_a_list_of_other_answers(self, tmp_path: Path) -> None:
        like = write_json(tmp_path / "like.json", ["dog", "cat", "cow"])
        error = self.made(tmp_path, {"cat": 9, "hen": 9, "dog": 9}, "--like", like).exception
        assert isinstance(error, InputError)
        assert "like.json: its 3 answers are not the 3 of" in str(error)
        assert "1 ('cow') only in the list, 1 ('hen') only in the files" in str(error)
        assert not (tmp_path / "trainval_label2ans.json").exists()

    def test_too_few(self, tmp_path: Path) -> None:
        assert "no answers" in str(self.made(tmp_path, {"cat": 8}).exception)
        assert self.made(tmp_path, {"cat": 8}, "--min-occurrence", "0").exit_code == 2

    def test_no_folder(self, tmp_path: Path) -> None:
        error = self.made(tmp_path, {"cat": 9}, "--out", tmp_path / "none").exception
        assert "cannot be written" in str(error)
