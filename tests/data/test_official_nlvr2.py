"""`lxmert-fast data nlvr2`: the official dev set becomes the original's list; every wrong line is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_pairs import official_lines
from typer.testing import CliRunner

from lxmert_fast.cli import app
from lxmert_fast.data.nlvr2 import iter_pairs
from lxmert_fast.data.official.nlvr2 import convert
from lxmert_fast.data.official.statements import NLVR2
from lxmert_fast.errors import InputError

LINES = [
    {"identifier": f"dev-850-{pair}-0", "sentence": "Two dogs.", "label": label, "left_url": "http://x"}
    for pair, label in enumerate(("False", "True", "True"))
]


def test_the_real_dev_set(shared_data: Path, tmp_path: Path) -> None:
    """Its counts are the reference's (3.6), its first entry is the original's, the data set reads it."""
    source = shared_data / "nlvr2/dev.json"
    words = ["data", "nlvr2", str(source), str(tmp_path / "valid.json"), "--split", "valid"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    counts = "6,982 examples, 3,551 of them true; 8,102 images, 2,018 groups"
    assert result.output == f"{tmp_path / 'valid.json'}: {counts}\n"
    entries = json.loads((tmp_path / "valid.json").read_text(encoding="utf-8"))
    assert entries[1] == {
        "identifier": "dev-850-2-0",
        "img0": "dev-850-2-img0",
        "img1": "dev-850-2-img1",
        "label": 1,
        "sent": "The right image shows a curving walkway of dark glass circles embedded in dirt and "
        "flanked by foliage.",
        "uid": "nlvr2_valid_1",
    }
    pairs = [pair for _, pair in iter_pairs(tmp_path / "valid.json")]
    assert sum(pair.label or 0 for pair in pairs) == 3551
    assert len({image for pair in pairs for image in pair.image_ids}) == 8102
    assert len({NLVR2.group(pair.identifier) for pair in pairs}) == 2018


def test_a_hidden_test_has_no_labels(tmp_path: Path) -> None:
    rows = [{"identifier": f"test2-{row}-0-1", "sentence": "A dog."} for row in range(2)]
    entries = convert(official_lines(tmp_path / "in.json", rows), tmp_path / "out.json", "hidden")
    assert [entry["uid"] for entry in entries] == ["nlvr2_hidden_0", "nlvr2_hidden_1"]
    assert "label" not in entries[0]
    with pytest.raises(InputError, match="line 1: label: found nothing, wanted the string"):
        convert(tmp_path / "in.json", tmp_path / "out.json", "test")


def lines(**values: Any) -> list[Any]:
    """The second line with other values; `...` takes the key away."""
    return [LINES[0], {key: x for key, x in (LINES[1] | values).items() if x is not ...}, LINES[2]]


WRONG: dict[str, tuple[list[Any], str]] = {
    "a boolean": (lines(label=True), 'label: found True, wanted the string "True" or "False"'),
    "another case": (lines(label="true"), "label: found 'true', wanted the string"),
    "no label": (lines(label=...), "label: found nothing, wanted the string"),
    "no sentence": (lines(sentence=...), "sentence: found nothing, wanted a string"),
    "a sentence that is a number": (lines(sentence=3), "sentence: found 3, wanted a string"),
    "no identifier": (lines(identifier=...), "identifier: found nothing, wanted a string"),
    "an identifier twice": (
        lines(identifier="dev-850-0-0"),
        "identifier 'dev-850-0-0' is also that of line 1",
    ),
    "an identifier of three": (lines(identifier="dev-850-1"), "wanted split-set-pair-sentence"),
    "a split of another file": (lines(identifier="test1-1-1-0"), "wanted one that begins with dev- in split"),
    "a list": ([LINES[0], [1]], "found [1], wanted an object"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_lines_are_named_and_nothing_written(tmp_path: Path, case: str) -> None:
    rows, words = WRONG[case]
    source = official_lines(tmp_path / "in.json", rows)
    with pytest.raises(InputError) as caught:
        convert(source, tmp_path / "out.json", "valid")
    assert str(caught.value).startswith(f"{source}: line 2: ")
    assert words in str(caught.value)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty, wanted a JSON value a line"),
        (b'{"identifier": "dev-1', "line 1, column 16: "),
        (b'{"label": NaN}', "line 1: not JSON: NaN is not a JSON number"),
        (b"\xff\n", "byte 0xff is not UTF-8"),
    ],
)
def test_files_that_are_no_lines(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "in.json").write_bytes(content)
    with pytest.raises(InputError, match=words):
        convert(tmp_path / "in.json", tmp_path / "out.json", "valid")


def test_what_the_command_refuses(tmp_path: Path) -> None:
    source = official_lines(tmp_path / "in.json", LINES)
    result = CliRunner().invoke(app, ["data", "nlvr2", str(source), "out.json", "--split", "dev"])
    assert result.exit_code == 2
    assert "'dev' is not one of" in result.output
    with pytest.raises(InputError, match="split is 'dev', wanted one of train, valid, test, hidden"):
        convert(source, tmp_path / "out.json", "dev")
    with pytest.raises(InputError, match=r"none\.json: cannot be read: No such file"):
        convert(tmp_path / "none.json", tmp_path / "out.json", "valid")
    with pytest.raises(InputError, match="cannot be written"):
        convert(source, tmp_path / "nowhere" / "out.json", "valid")
