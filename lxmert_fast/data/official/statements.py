"""NLVR and NLVR2 as they are published: an object a line, a sentence that is true or false of its images.

    {"identifier": "dev-850-0-0", "sentence": "The right image shows ...", "label": "False", ...}   NLVR2
    {"identifier": "1572-0", "sentence": "Each grey box contains ...", "label": "true", ...}        NLVR

Labels are strings. Sentences that one writer wrote for several images are one *group*: their identifiers
differ in one field, and a model is consistent where it is right about all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lxmert_fast.data.json_list import read_json_lines, shown, text_of
from lxmert_fast.errors import InputError


@dataclass(frozen=True)
class Corpus:
    """How one of the two writes identifiers and labels."""

    fields: tuple[str, ...]
    """Of an identifier, with dashes between them."""
    varies: str
    """The field that differs within a group."""
    words: dict[str, bool]
    """Label to its meaning."""

    def check(self, identifier: str, place: str) -> None:
        """Raise `InputError` for an identifier of another form, or one that no prediction file can hold."""
        parts = identifier.split("-")
        if len(parts) != len(self.fields) or not all(parts) or any(c in identifier for c in " ,\n\r\t"):
            raise InputError(
                f"{place}: identifier: found {shown(identifier)}, wanted {'-'.join(self.fields)}"
            )

    def group(self, identifier: str) -> str:
        """The identifier with the field that varies left blank, as the official script has it."""
        parts = identifier.split("-")
        parts[self.fields.index(self.varies)] = ""
        return "-".join(parts)


NLVR2 = Corpus(("split", "set", "pair", "sentence"), "pair", {"True": True, "False": False})
NLVR = Corpus(("sentence", "image"), "image", {"true": True, "false": False})


@dataclass(frozen=True, slots=True)
class Statement:
    """One line."""

    identifier: str
    sentence: str
    label: bool | None
    """None in a file of a hidden test."""


def iter_statements(
    path: str | Path, corpus: Corpus, *, labelled: bool = True
) -> Iterator[tuple[str, Statement]]:
    """The statements of an official file, each with the words that name its line in an error.

    Args:
        labelled: False allows a file in which no line has a label.

    Raises:
        InputError: a file or line that is not in the format, an identifier that occurs twice, a label on some
            lines and not on others.
    """
    first: dict[str, str] = {}
    has_labels: bool | None = None
    for place, entry in read_json_lines(path):
        statement = _parse(place, entry, corpus)
        before = first.setdefault(statement.identifier, place)
        if before != place:
            raise InputError(
                f"{place}: identifier {statement.identifier!r} is also that of {before.rpartition(': ')[2]}"
            )
        found = statement.label is not None
        if not found and (labelled or has_labels):
            raise InputError(f"{place}: label: found nothing, wanted {_wanted(corpus)}")
        if found and has_labels is False:
            raise InputError(f"{place}: label: found one, the lines before have none")
        has_labels = found
        yield place, statement


def _parse(place: str, entry: Any, corpus: Corpus) -> Statement:
    if not isinstance(entry, dict):
        raise InputError(f"{place}: found {shown(entry)}, wanted an object")
    identifier = text_of(entry.get("identifier"), place, "identifier")
    corpus.check(identifier, place)
    sentence = text_of(entry.get("sentence"), place, "sentence")
    if "label" not in entry:
        return Statement(identifier, sentence, None)
    label = entry["label"]
    if not isinstance(label, str) or label not in corpus.words:
        raise InputError(f"{place}: label: found {shown(label)}, wanted {_wanted(corpus)}")
    return Statement(identifier, sentence, corpus.words[label])


def _wanted(corpus: Corpus) -> str:
    return "the string " + " or ".join(f'"{word}"' for word in corpus.words)
