"""The official spelling of VQA answers: each rule, its quirks, and the original's list of answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lxmert_fast.metrics.vqa_answers import normalise_vqa, soft_score


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("", ""),
        ("Yes", "yes"),
        ("  two\tred \n dogs ", "2 red dogs"),
        ("a dog and the cat", "dog and cat"),
        ("An", ""),
        ("the.", ""),
        ("none", "0"),
        ("zero", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("t-shirt", "t shirt"),
        ("t -shirt", "t shirt"),
        ("black/white", "black white"),
        ("black/ white/red", "black whitered"),
        ("black, white", "black white"),
        ("1,000", "1000"),
        ("1,000-2,000 (feet)", "10002000 feet"),
        ("3.5", "3.5"),
        ("3.", "3"),
        ("p.m.", "pm"),
        (".5", ".5"),
        ("no!", "no"),
        ("dont", "don't"),
        ("DONT", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),
        ("y'allll", "y'all'll"),
        ("twas", "'twas"),
        ("somebody'd", "somebodyd"),
        ("lets", "lets"),
        ("shed", "shed"),
        ("its", "its"),
        ("." * 33 + "x", ".x"),
    ],
)
def test_normalise_vqa(answer: str, wanted: str) -> None:
    assert normalise_vqa(answer) == wanted


def test_the_originals_answers_stay_as_they_are(shared_data: Path) -> None:
    names = json.loads((shared_data / "lxmert/vqa_trainval_label2ans.json").read_text())
    assert len(names) == 3129
    assert [name for name in names if normalise_vqa(name) != name] == []


def test_soft_scores() -> None:
    assert [soft_score(votes) for votes in range(11)] == [0, 0.3, 0.6, 0.9, *[1.0] * 7]
