"""The official GQA evaluation: every figure by hand, real rows, and what is missing or wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_data import write_json
from typer.testing import CliRunner

from lxmert_fast.commands.score import app
from lxmert_fast.errors import InputError
from lxmert_fast.metrics.gqa import chi_square, score_gqa


def question(answer: str, structural: str = "query", **changes: Any) -> dict[str, Any]:
    return {
        "question": "What is it there?",
        "answer": answer,
        "isBalanced": True,
        "types": {"structural": structural, "semantic": "rel", "detailed": "relS"},
        "groups": {"global": "thing", "local": "x"},
        "entailed": [],
        "semantic": [
            {"operation": "select", "argument": "dog (0)"},
            {"operation": "query", "argument": "name"},
        ],
    } | changes


def questions() -> dict[str, dict[str, Any]]:
    """a and b are answered right, c and d wrong; u and v are not balanced, u is answered right."""
    common = {"structural": "compare", "semantic": "attr", "detailed": "twoCommon"}
    return {
        "a": question("cat", entailed=["a", "u", "v"]),
        "b": question("yes", "verify", entailed=["u"], groups={"global": None, "local": "y"}),
        "c": question("dog", entailed=["v"]),
        "d": question("color", types=common),
        "u": question("yes", "verify", isBalanced=False),
        "v": question("no", "verify", isBalanced=False),
    }


ANSWERS = {"a": "cat", "b": "yes", "c": "cat", "d": "shape", "u": "yes", "v": "yes"}
CHOICES = {
    "a": {"valid": ["cat", "dog"], "plausible": ["cat"]},
    "b": {"valid": ["yes", "no"], "plausible": []},
    "c": {"valid": ["dog"], "plausible": ["cat"]},
    "d": {"valid": [], "plausible": []},
    "z": {"valid": [], "plausible": []},
}


class Files:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers(ANSWERS)
        self.questions = write_json(folder / "q.json", questions())
        self.choices = write_json(folder / "choices.json", CHOICES)

    def answers(self, answers: dict[str, str]) -> None:
        rows = [{"prediction": answer, "questionId": key} for key, answer in answers.items()]
        self.predictions = write_json(self.folder / "p.json", rows)

    def ask(self, **changes: dict[str, Any]) -> None:
        """Change questions by their ids."""
        asked = questions()
        for key, change in changes.items():
            asked[key] |= change
        write_json(self.questions, asked)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_every_figure_by_hand(files: Files) -> None:
    scores = score_gqa(files.predictions, files.questions, files.questions, files.choices)
    assert scores.accuracy == (0.5, 4)
    assert scores.open == (0.5, 2)
    assert scores.binary == (0.5, 2)
    assert scores.by_kind["structural"] == {"query": (0.5, 2), "verify": (1.0, 1), "compare": (0.0, 1)}
    assert scores.by_kind["semantic"] == {"rel": (pytest.approx(2 / 3), 3), "attr": (0.0, 1)}
    assert scores.by_kind["detailed"] == {"relS": (pytest.approx(2 / 3), 3), "twoCommon": (0.0, 1)}
    assert scores.by_kind["steps"] == {" 1": (0.5, 4)}
    assert scores.by_kind["words"] == {" 4": (0.5, 4)}
    # of a: u right, v wrong; of b: u right; c is wrong, what it entails does not count
    assert scores.consistency == ((0.5 + 1.0) / 2, 2)
    assert scores.validity == (3 / 4, 4)  # not c; d's choices are those of every common question
    assert scores.plausibility == (3 / 4, 4)  # not b
    # one group: cat 1 and predicted 2, dog 1 and 0, color 1 and 0; b has no group
    assert scores.distribution == pytest.approx((1 + 1 + 1) / 100)
    assert scores.others == 2
    assert set(scores.missing) == {"grounding"}


def test_groups_weigh_by_their_questions() -> None:
    gold = {"x": {"a": 3, "b": 1}, "y": {"c": 2}}
    predicted = {"x": {"a": 4, "z": 9}, "y": {"c": 2}}
    assert chi_square(gold, predicted) == pytest.approx(4 * (1 / 3 + 1) / 6 / 100)
    assert chi_square({}, {}) is None


def test_what_is_not_given_is_a_dash_and_why(files: Files) -> None:
    files.ask(b={"isBalanced": False}, d={"isBalanced": False})
    result = CliRunner().invoke(app, ["gqa", str(files.predictions), str(files.questions)])
    assert result.exit_code == 0, result.exception
    lines = {line.split("│")[1].strip(): line for line in result.output.splitlines() if line.count("│") > 3}
    for name, why in (
        ("binary", "no such questions"),
        ("consistency", "--all-questions"),
        ("validity", "--choices"),
        ("plausibility", "--choices"),
        ("grounding", "attention"),
    ):
        assert lines[name].split("│")[3].strip() == "-"
        assert why in lines[name]
    assert "4 answers to other questions, not scored" in result.output.replace("\n", " ")


def test_parts_in_a_folder_are_one_file(files: Files) -> None:
    whole = score_gqa(files.predictions, files.questions, files.questions, files.choices)
    parts = files.folder / "parts"
    parts.mkdir()
    rows = list(questions().items())
    write_json(parts / "0.json", dict(rows[:2]))
    write_json(parts / "1.json", dict(rows[2:]))
    assert score_gqa(files.predictions, parts, parts, files.choices) == whole
    write_json(parts / "2.json", dict(rows[:1]))
    with pytest.raises(InputError, match=r"2\.json: 'a': occurs twice in"):
        score_gqa(files.predictions, parts)


def test_real_rows(shared_data: Path, tmp_path: Path) -> None:
    """Two parts of the official format, a question each; the second is not balanced."""
    folder = shared_data / "formats/gqa/question_dir"
    rows = [{"prediction": "picture", "questionId": key} for key in ("202218649", "20240871")]
    scores = score_gqa(write_json(tmp_path / "p.json", rows), folder)
    assert (scores.accuracy, scores.others) == ((1.0, 1), 1)
    assert scores.by_kind["steps"] == {" 2": (1.0, 1)}
    assert scores.by_kind["words"] == {" 6": (1.0, 1)}


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no balance": ({"a": {"isBalanced": 1}}, "'a': isBalanced: found 1, wanted true or false"),
    "no types": ({"a": {"types": None}}, "'a': types: found nothing, wanted an object"),
    "no detailed type": ({"a": {"types": {"structural": "", "semantic": ""}}}, "'a': types: detailed: found"),
    "answer is true": ({"a": {"answer": True}}, "'a': answer: found True, wanted a string"),
    "groups": ({"a": {"groups": []}}, "'a': groups: found []"),
    "entailed": ({"a": {"entailed": [3]}}, "'a': entailed: found [3], wanted a list of question ids"),
    "steps": ({"a": {"semantic": "select"}}, "'a': semantic: found 'select'"),
    "entailed is nowhere": ({"a": {"entailed": ["w"]}}, "no answer to question 'w' of the entailed ones"),
    "nothing balanced": ({key: {"isBalanced": False} for key in "abcd"}, "no balanced question in it"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named(changes: dict[str, Any], words: str, files: Files) -> None:
    files.ask(**changes)
    with pytest.raises(InputError) as error:
        score_gqa(files.predictions, files.questions, files.questions)
    assert words in str(error.value)
    assert str(files.questions) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_test_split_has_no_answers(files: Files) -> None:
    asked = questions()
    del asked["a"]["answer"]
    with pytest.raises(InputError, match="'a': no answer, as in a test split"):
        score_gqa(files.predictions, write_json(files.questions, asked))


@pytest.mark.parametrize(
    ("key", "words"), [("d", "no answer to question 'd' of"), ("v", "no answer to question 'v'")]
)
def test_a_prediction_that_is_missing_is_named(key: str, words: str, files: Files) -> None:
    files.answers({name: answer for name, answer in ANSWERS.items() if name != key})
    with pytest.raises(InputError, match=words):
        score_gqa(files.predictions, files.questions, files.questions)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": CHOICES["a"]}, "no choices of question 'b'"),
        (CHOICES | {"a": {"valid": 3, "plausible": []}}, "'a': valid: found 3, wanted a list of answers"),
        ([], "found '\\['"),
        ({}, "empty object"),
        ({"a": 3}, "'a': found '3', wanted an object"),
    ],
)
def test_choices_that_are_wrong(content: Any, words: str, files: Files) -> None:
    with pytest.raises(InputError, match=words):
        score_gqa(files.predictions, files.questions, choices=write_json(files.choices, content))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": {}, "a": {}}', "'a': occurs twice"),
        (b'{"a": {}', "after it, wanted ',' or '}'"),
        (b'{"a" {}}', "wanted ':'"),
        (b"{3: {}}", "wanted a string"),
        (b'{"a": {"isBalanced": false}} x', "after the end"),
        (b'{"a": {"\xff": 1}}', "not UTF-8"),
    ],
)
def test_a_broken_question_file(content: bytes, words: str, files: Files) -> None:
    broken = content.replace(b"{}", b'{"isBalanced": false}')
    files.questions.write_bytes(broken)
    with pytest.raises(InputError, match=words):
        score_gqa(files.predictions, files.questions)
