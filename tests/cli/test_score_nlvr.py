"""`lxmert-fast score nlvr2|nlvr`: the official figures of known predictions, wrong lines by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_pairs import official_lines
from typer.testing import CliRunner

from lxmert_fast.cli import app
from lxmert_fast.data.nlvr import read_sentences
from lxmert_fast.data.official.statements import NLVR, NLVR2, iter_statements
from lxmert_fast.errors import InputError
from lxmert_fast.metrics.nlvr import NlvrScores, consistency, plain, score_file


def as_the_official_script(predictions: dict[str, str], truth: Path) -> tuple[float, float]:
    """Accuracy and consistency by its rules, from the reference's words (3.7)."""
    rows = [json.loads(line) for line in truth.read_text(encoding="utf-8").splitlines()]
    groups: dict[tuple[str, ...], list[bool]] = {}
    for row in rows:
        split, image_set, _, sentence = row["identifier"].split("-")
        right = predictions[row["identifier"]].lower() == row["label"].lower()
        groups.setdefault((split, image_set, sentence), []).append(right)
    right = [one for group in groups.values() for one in group]
    return sum(right) / len(right), sum(map(all, groups.values())) / len(groups)


def written(path: Path, predictions: dict[str, str]) -> Path:
    path.write_text("".join(f"{name},{word}\n" for name, word in predictions.items()))
    return path


def command(*words: Any) -> Any:
    return CliRunner().invoke(app, ["score", *map(str, words)])


def test_the_real_dev_set(shared_data: Path, tmp_path: Path) -> None:
    """Three in four predictions right, case mixed, in another order than the truth."""
    truth = shared_data / "nlvr2/dev.json"
    rows = [statement for _, statement in iter_statements(truth, NLVR2)]
    predictions = {
        row.identifier: str(bool(row.label) ^ (number % 17 == 0)).swapcase() if number % 5 else str(row.label)
        for number, row in reversed(list(enumerate(rows)))
    }
    scores = score_file(written(tmp_path / "p.csv", predictions), truth, NLVR2)
    accuracy, share = as_the_official_script(predictions, truth)
    assert scores == {"all": NlvrScores(6982, pytest.approx(accuracy), 2018, pytest.approx(share))}
    assert 0.5 < share < accuracy < 1


def test_always_true_and_a_subset(shared_data: Path, tmp_path: Path) -> None:
    """The majority is 50.86 %, where the original stays without its weights (reference 4)."""
    truth, subset = shared_data / "nlvr2/dev.json", shared_data / "formats/nlvr2/tiny-dev.json"
    names = [statement.identifier for _, statement in iter_statements(truth, NLVR2)]
    result = command(
        "nlvr2", written(tmp_path / "p.csv", dict.fromkeys(names, "True")), truth, "--subset", f"few={subset}"
    )
    assert result.exit_code == 0, result.output
    assert [line.split()[1::2] for line in result.output.splitlines() if "all" in line or "few" in line] == [
        ["all", "6,982", "50.86", "2,018", "3.87"],
        ["few", "8", "50.00", "2", "0.00"],
    ]


@pytest.mark.parametrize(("split", "known", "always_true"), [("dev", 102, 0.553), ("test", 103, 0.562)])
def test_nlvr_and_its_sentences_of_train(
    shared_data: Path, tmp_path: Path, split: str, known: int, always_true: float
) -> None:
    """Published: always true is 55.3 and 56.2 %; 102 and 103 sentences occur in train as well."""
    truth = shared_data / f"nlvr/{split}.json"
    train = {plain(x) for x in read_sentences(shared_data / "nlvr/train_sentences.json").values()}
    rows = [statement for _, statement in iter_statements(truth, NLVR)]
    assert len({plain(row.sentence) for row in rows} & train) == known
    predictions = written(tmp_path / "p.csv", {row.identifier: "true" for row in rows})
    scores = score_file(predictions, truth, NLVR, known_sentences=train)
    assert scores["all"].accuracy == pytest.approx(always_true, abs=5e-4)
    new, old = scores["sentence not in train"], scores["sentence in train"]
    assert new.examples + old.examples == scores["all"].examples
    assert new.groups + old.groups == scores["all"].groups


def test_the_command_of_nlvr(tmp_path: Path) -> None:
    rows = [
        {"identifier": f"{group}-{image}", "sentence": f"Box  {group}", "label": "true"}
        for group in range(2)
        for image in range(2)
    ]
    truth = official_lines(tmp_path / "t.json", rows)
    (tmp_path / "s.json").write_text('{"a": {"sentence": "box 0", "env": "tower"}}')
    words = {"0-0": "true", "0-1": "True", "1-0": "true", "1-1": "false"}
    result = command(
        "nlvr", written(tmp_path / "p.csv", words), truth, "--train-sentences", tmp_path / "s.json"
    )
    assert result.exit_code == 0, result.output
    found = [line.strip("│ ").split() for line in result.output.splitlines() if line.startswith("│")]
    assert [line[-7:] for line in found] == [
        ["all", "│", "4", "│", "75.00", "│", "2", "│", "50.00"][-7:],
        ["train", "│", "2", "│", "50.00", "│", "1", "│", "0.00"][-7:],
        ["train", "│", "2", "│", "100.00", "│", "1", "│", "100.00"][-7:],
    ]


def test_consistency_by_hand() -> None:
    assert consistency("aabbc", [True, True, True, False, True]) == pytest.approx(2 / 3)


TRUTH = [
    {"identifier": f"dev-1-{pair}-0", "sentence": "A dog.", "label": label}
    for pair, label in enumerate(("True", "False"))
]
WRONG = {
    "missing": ("dev-1-0-0,True\n", "no prediction for dev-1-1-0"),
    "too many": (
        "dev-1-0-0,True\ndev-1-1-0,True\ndev-1-2-0,True\n",
        "a prediction for dev-1-2-0, which {truth} does not hold",
    ),
    "twice": ("dev-1-0-0,True\ndev-1-0-0,True\n", "line 2: a second prediction for dev-1-0-0"),
    "a space": ("dev-1-0-0, True\n", "line 1: found 'dev-1-0-0, True', wanted IDENTIFIER,True or"),
    "a header": ("identifier,label\n", "line 1: found 'identifier,label', wanted"),
    "a number": ("dev-1-0-0,1\n", "line 1: found 'dev-1-0-0,1', wanted"),
    "three columns": ("dev-1-0-0,True,x\n", "line 1: found 'dev-1-0-0,True,x', wanted"),
    "a blank line": ("dev-1-0-0,True\n\ndev-1-1-0,True\n", "line 2: found '', wanted"),
    "nothing": ("", "empty, wanted IDENTIFIER,True"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_predictions_are_named(tmp_path: Path, case: str) -> None:
    content, words = WRONG[case]
    truth, predictions = official_lines(tmp_path / "t.json", TRUTH), tmp_path / "p.csv"
    predictions.write_text(content)
    error = command("nlvr2", predictions, truth).exception
    assert isinstance(error, InputError)
    assert str(error).startswith(f"{predictions}: {words.format(truth=truth)}")


def test_files_that_are_none(tmp_path: Path) -> None:
    truth, predictions = official_lines(tmp_path / "t.json", TRUTH), tmp_path / "p.csv"
    assert "p.csv: cannot be read: No such file" in str(command("nlvr2", predictions, truth).exception)
    predictions.write_bytes(b"\xff")
    assert "p.csv: byte 0xff is not UTF-8" in str(command("nlvr2", predictions, truth).exception)
    written(predictions, {"dev-1-0-0": "True", "dev-1-1-0": "True"})
    assert "wanted sentence-image" in str(command("nlvr", predictions, truth).exception)


@pytest.mark.parametrize("content", ["[]", '{"a": 1}', '{"a": {"sentence": 1}}'])
def test_training_sentences_that_are_none(tmp_path: Path, content: str) -> None:
    truth = official_lines(tmp_path / "t.json", [TRUTH[0] | {"identifier": "0-0", "label": "true"}])
    (tmp_path / "s.json").write_text(content)
    predictions = written(tmp_path / "p.csv", {"0-0": "true"})
    error = command("nlvr", predictions, truth, "--train-sentences", tmp_path / "s.json").exception
    assert isinstance(error, InputError)
    assert str(error).startswith(f"{tmp_path / 's.json'}: ")


def test_subsets_that_are_none(tmp_path: Path) -> None:
    truth = official_lines(tmp_path / "t.json", TRUTH)
    predictions = written(tmp_path / "p.csv", {"dev-1-0-0": "True", "dev-1-1-0": "True"})
    other = official_lines(tmp_path / "o.json", [TRUTH[0] | {"label": "False"}])
    extra = official_lines(tmp_path / "e.json", [TRUTH[0] | {"identifier": "dev-9-0-0"}])
    for words, found in (
        ([f"few={other}"], f"{other}: line 1: dev-1-0-0 has label False, found True in {truth}"),
        ([f"few={extra}"], f"{extra}: line 1: dev-9-0-0 has label True, found no such example in {truth}"),
        (["few"], "--subset 'few': wanted NAME=FILE"),
        (["all=x"], "there is a set 'all' already"),
        ([f"a={truth}", f"a={truth}"], "there is a set 'a' already"),
    ):
        options = [option for word in words for option in ("--subset", word)]
        error = command("nlvr2", predictions, truth, *options).exception
        assert isinstance(error, InputError)
        assert found in str(error)
