"""Accuracy and consistency of NLVR and NLVR2 (reference 3.7), and the file of predictions.

    dev-850-0-0,True
    dev-850-2-0,False

No header and no space: the official script would count " True" as wrong. Words are compared without case, as
there. Accuracy is the share of sentence-image examples that are right, consistency the share of groups
(a sentence with all its images) of which every example is.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from lxmert_fast.data.official.statements import Corpus, iter_statements
from lxmert_fast.errors import InputError

WORDS = {"true": True, "false": False}


@dataclass(frozen=True)
class NlvrScores:
    """Shares in [0, 1] and what they are shares of."""

    examples: int
    accuracy: float
    groups: int
    consistency: float


def score(groups: Sequence[Hashable], right: Sequence[bool] | np.ndarray) -> NlvrScores:
    """Accuracy and consistency of examples.

    Args:
        groups: the group of each.
        right: whether it was answered rightly, as many.

    Raises:
        InputError: no example.
    """
    if not len(groups):
        raise InputError("no example to score")
    return NlvrScores(len(groups), float(np.mean(right)), len(set(groups)), consistency(groups, right))


def consistency(groups: Sequence[Hashable], right: Sequence[bool] | np.ndarray) -> float:
    """The share of groups all of whose examples are right."""
    whole: dict[Hashable, bool] = {}
    for group, one in zip(groups, right, strict=True):
        whole[group] = whole.get(group, True) and bool(one)
    return sum(whole.values()) / len(whole)


def read_predictions(path: str | Path) -> dict[str, bool]:
    """A file of predictions, by identifier.

    Raises:
        InputError: a file that can't be read or is empty, a line that is not in the format, an identifier
            that occurs twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.object[error.start]:#04x} is not UTF-8") from None
    lines = text.splitlines()
    if not lines:
        raise InputError(f"{path}: empty, wanted IDENTIFIER,True or IDENTIFIER,False a line")
    found: dict[str, bool] = {}
    for number, line in enumerate(lines, 1):
        identifier, _, word = line.partition(",")
        if not identifier or word.lower() not in WORDS:
            raise InputError(
                f"{path}: line {number}: found {ascii(line)[:60]}, wanted IDENTIFIER,True or IDENTIFIER,False"
            )
        if identifier in found:
            raise InputError(f"{path}: line {number}: a second prediction for {identifier}")
        found[identifier] = WORDS[word.lower()]
    return found


def score_file(
    predictions: str | Path,
    truth: str | Path,
    corpus: Corpus,
    subsets: Mapping[str, str | Path] | None = None,
    known_sentences: Container[str] | None = None,
) -> dict[str, NlvrScores]:
    """Score a file of predictions: "all", then each subset by its name.

    Args:
        truth: the official file of the split.
        subsets: name to an official file of some of its examples (NLVR2's balanced_dev.json).
        known_sentences: sentences of the training set as `plain` has them; examples of other sentences are
            then scored as "sentence not in train", the rest as "sentence in train".

    Raises:
        InputError: a file that is not in its format, predictions missing or too many, a subset that is none.
    """
    found = read_predictions(predictions)
    labels, sentences = {}, {}
    for _, statement in iter_statements(truth, corpus):
        labels[statement.identifier] = statement.label
        sentences[statement.identifier] = statement.sentence
    for here, there, what in ((labels, found, "no prediction for"), (found, labels, "a prediction for")):
        lacking = [identifier for identifier in here if identifier not in there]
        if lacking:
            more = f" and {len(lacking) - 1:,} more" if len(lacking) > 1 else ""
            which = f", which {truth} does not hold" if here is found else ""
            raise InputError(f"{predictions}: {what} {lacking[0]}{more}{which}")

    def scored(identifiers: Sequence[str]) -> NlvrScores:
        right = [found[identifier] == labels[identifier] for identifier in identifiers]
        return score([corpus.group(identifier) for identifier in identifiers], right)

    scores = {"all": scored(list(labels))}
    for name, path in (subsets or {}).items():
        part = []
        for place, statement in iter_statements(path, corpus):
            if labels.get(statement.identifier) is not statement.label:
                raise InputError(
                    f"{place}: {statement.identifier} has label {statement.label}, found "
                    f"{labels.get(statement.identifier, 'no such example')} in {truth}"
                )
            part.append(statement.identifier)
        scores[name] = scored(part)
    if known_sentences is not None:
        known: dict[str, list[str]] = {"sentence not in train": [], "sentence in train": []}
        for identifier, sentence in sentences.items():
            known[
                "sentence in train" if plain(sentence) in known_sentences else "sentence not in train"
            ].append(identifier)
        scores |= {name: scored(part) for name, part in known.items() if part}
    return scores


def plain(sentence: str) -> str:
    """In lower case with single spaces: sentences that differ only in these are one.

    So 102 sentences of NLVR's dev and 103 of its test also occur in its train; word for word 96 and 99 do.
    """
    return " ".join(sentence.lower().split())


def score_table(scores: Mapping[str, NlvrScores]) -> Table:
    """Scores as a table for people, in percent."""
    table = Table("examples of", "count", "accuracy %", "groups", "consistency %")
    for name, part in scores.items():
        table.add_row(
            name,
            f"{part.examples:,}",
            f"{100 * part.accuracy:.2f}",
            f"{part.groups:,}",
            f"{100 * part.consistency:.2f}",
        )
    return table
