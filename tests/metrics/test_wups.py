"""WordNet's files, Wu and Palmer's similarity and WUPS: by hand, and with WordNet where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_wordnet import write_wordnet

from lxmert_fast.errors import InputError
from lxmert_fast.metrics.wordnet import FOLDER, Nouns
from lxmert_fast.metrics.wups import Wups


@pytest.fixture(scope="module")
def wups(tmp_path_factory: pytest.TempPathFactory) -> Wups:
    return Wups(Nouns(write_wordnet(tmp_path_factory.mktemp("wordnet"))))


@pytest.mark.parametrize(
    ("one", "other", "similarity"),
    [
        ("chair", "chair", 1.0),
        ("chair", "seat", 2 * 3 / (2 * 3 + 1)),
        ("chair", "sofa", 2 * 3 / (2 * 3 + 2)),
        ("chair", "table", 2 * 2 / (2 * 2 + 3)),
        ("chair", "red", 2 / (2 + 5)),
        ("cat", "animal", 2 * 2 / (2 * 2 + 1)),
        ("Chairs", "sofa", 2 * 3 / (2 * 3 + 2)),
        ("pussies", "cat", 1.0),
        ("chair", "garbage_bin", 0.0),
    ],
)
def test_similarity_by_hand(wups: Wups, one: str, other: str, similarity: float) -> None:
    """2 d / (2 d + steps), with d counted from 1 at the root."""
    assert wups.similarity(one, other) == pytest.approx(similarity, abs=1e-15)
    assert wups.similarity(other, one) == pytest.approx(similarity, abs=1e-15)


@pytest.mark.parametrize(
    ("answers", "right", "threshold", "score"),
    [
        ("chair", "chair", 0.9, 1.0),
        ("chair", "sofa", 0.75, 0.75),
        ("chair", "sofa", 0.9, 0.075),
        ("garbage_bin", "garbage_bin", 0.9, 1.0),
        ("garbage_bin", "chair", 0.0, 0.0),
        # each answer has its like, but of the right ones the red has only 2 / 7 of the chair
        ("chair", "chair red", 0.0, 2 / 7),
        # and the other way about
        ("chair red", "chair", 0.0, 2 / 7),
        # both directions are products
        ("chair table", "sofa table", 0.0, 0.75),
        ("chair red", "sofa blue", 0.0, 0.75 * 2 * 2 / (2 * 2 + 2)),
        ("chair red", "sofa blue", 0.9, 0.075 * 0.1 * 2 * 2 / (2 * 2 + 2)),
    ],
)
def test_wups_by_hand(wups: Wups, answers: str, right: str, threshold: float, score: float) -> None:
    assert wups(set(answers.split()), set(right.split()), threshold) == pytest.approx(score, abs=1e-15)


REAL = [
    ("chair", "sofa", 0.9),
    ("table", "desk", 18 / 19),
    ("2", "3", 0.875),
    ("white", "black", 0.9),
    ("books", "bookshelf", 5 / 9),
    ("garbage_bin", "chair", 0.0),
    ("television", "monitor", 0.8),
    ("person", "dog", 0.75),
]


def test_real_wordnet() -> None:
    """Figures of NLTK 3.10.4's `wup_similarity` on the same files, the largest over noun senses."""
    if not (FOLDER / "data.noun").is_file():
        pytest.skip(f"needs WordNet 3.0 in {FOLDER}: apt-get install wordnet-base")
    wups = Wups(Nouns(FOLDER))
    for one, other, similarity in REAL:
        assert wups.similarity(one, other) == pytest.approx(similarity, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("data.noun", lambda path: path.unlink(), "apt-get install wordnet-base"),
        ("noun.exc", lambda path: path.unlink(), "WNSEARCHDIR"),
        ("index.noun", lambda path: path.write_text("chair n many\n"), "line 1: found 'chair n many'"),
        ("data.noun", lambda path: path.write_bytes(b"\xff" * 300), "wanted a synset"),
    ],
)
def test_damaged_wordnet(tmp_path: Path, name: str, damage: Callable[[Path], object], words: str) -> None:
    damage(write_wordnet(tmp_path) / name)
    with pytest.raises(InputError) as error:
        Wups(Nouns(tmp_path)).similarity("chair", "sofa")
    assert str(error.value).startswith(str(tmp_path / name))
    assert words in str(error.value)


def test_variable_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WNSEARCHDIR", str(write_wordnet(tmp_path)))
    assert Nouns().folder == tmp_path
