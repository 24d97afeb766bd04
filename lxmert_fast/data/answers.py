"""Answers to class numbers: the joint table of pre-training and the map of one data set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lxmert_fast.data.json_list import read_json
from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_text

NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
REPLACEMENTS = {word: str(number) for number, word in enumerate(NUMBER_WORDS, 1)} | {"grey": "gray"}


def normalise(answer: str) -> str:
    """The original's spelling of an answer: lower case, no final full stop, no article, digits up to ten.

    At most one of each article goes, in the order "a", "an", "the"; the empty answer stays empty.
    """
    answer = answer.lower().removesuffix(".").strip()
    for article in ("a ", "an ", "the "):
        answer = answer.removeprefix(article)
    return REPLACEMENTS.get(answer, answer)


class AnswerTable:
    """The joint answers of VQA, GQA and Visual7W that pre-training predicts (9,500 in `all_ans.json`).

    `qa_sets` keeps the answers of these sets only ("vqa", "gqa", "visual7w"), in the same order,
    renumbered, as the original's `--qaSets` does.

    Raises `InputError` for a file that is not a list of {"ans": str, "dsets": [str, ...]}, repeats
    an answer, or has none of the named sets.
    """

    def __init__(self, path: str | Path, qa_sets: Iterable[str] | None = None) -> None:
        self.path = Path(path)
        wanted = None if qa_sets is None else set(qa_sets)
        table = read_json(self.path)
        if not isinstance(table, list):
            raise InputError(
                f'{path}: {type(table).__name__}, wanted a list of {{"ans": ..., "dsets": [...]}}'
            )
        self.names: list[str] = []
        self.ids: dict[str, int] = {}
        known: set[str] = set()
        for index, row in enumerate(table):
            answer, sets = _table_row(self.path, index, row)
            known |= sets
            if wanted is not None and not wanted & sets:
                continue
            if answer in self.ids:
                raise InputError(f"{path}: entry {index} repeats the answer {answer!r}")
            self.ids[answer] = len(self.names)
            self.names.append(answer)
        if unknown := sorted((wanted or set()) - known):
            raise InputError(f"{path}: no answers of {', '.join(unknown)}, it has {', '.join(sorted(known))}")
        if not self.names:
            raise InputError(f"{path}: no answers")

    def __len__(self) -> int:
        return len(self.names)

    def find(self, answer: str) -> int | None:
        """Class of an answer after normalisation, None when it is not in the table."""
        return self.ids.get(normalise(answer))

    def select(self, label: Mapping[str, float]) -> dict[int, float]:
        """{class: score} of a label {answer: score}.

        An answer outside the table is dropped. One whose normalised form is another answer of the
        same label overwrites that answer's score, it is not added: so does the original.
        """
        kept = dict(label)
        for answer in label:
            short = normalise(answer)
            if short not in self.ids:
                del kept[answer]
            elif short != answer:
                kept[short] = kept.pop(answer)
        return {self.ids[answer]: score for answer, score in kept.items()}


class AnswerMap:
    """The answers of one data set, numbered (VQA 3,129, GQA 1,842): a list and its inverse.

    `source` names where it comes from in error messages. Raises `InputError` for an empty list or
    a repeated answer.
    """

    def __init__(self, names: Sequence[str], source: str | Path = "answer map") -> None:
        self.names = list(names)
        self.source = str(source)
        self.ids: dict[str, int] = {}
        if not self.names:
            raise InputError(f"{source}: no answers")
        for index, name in enumerate(self.names):
            if name in self.ids:
                raise InputError(f"{source}: answer {name!r} is both number {self.ids[name]} and {index}")
            self.ids[name] = index

    @classmethod
    def from_files(cls, ans2label: str | Path | None, label2ans: str | Path | None) -> AnswerMap:
        """Read `ans2label.json` (a dict), `label2ans.json` (a list), or both, which then must agree."""
        if ans2label is None and label2ans is None:
            raise InputError("an answer map needs ans2label.json, label2ans.json or both")
        names = None if label2ans is None else _read_names(Path(label2ans))
        if ans2label is None:
            assert names is not None
            return cls(names, source=label2ans or "")
        ids = _read_ids(Path(ans2label))
        inverse = cls(sorted(ids, key=lambda name: ids[name]), source=ans2label)
        if names is None:
            return inverse
        answers = cls(names, source=label2ans or "")
        if answers.names != inverse.names:
            where = next(
                (i for i, (a, b) in enumerate(zip(names, inverse.names, strict=False)) if a != b), None
            )
            found = (
                f"{len(names)} answers against {len(inverse.names)}"
                if where is None
                else f"answer {where} is {names[where]!r} against {inverse.names[where]!r}"
            )
            raise InputError(f"{label2ans}: does not invert {ans2label}: {found}")
        return answers

    @classmethod
    def from_labels(cls, labels: Iterable[Mapping[str, float]], source: str | Path = "labels") -> AnswerMap:
        """Every answer that occurs, in string order (the order of the original's joint table)."""
        return cls(sorted({answer for label in labels for answer in label}), source=source)

    def save(self, folder: str | Path, prefix: str = "") -> None:
        """Write `ans2label.json` and `label2ans.json`, with a prefix such as "trainval_".

        Raises:
            OSError: they can't be written.
        """
        for name, content in (("ans2label", self.ids), ("label2ans", self.names)):
            text = json.dumps(content, ensure_ascii=False, indent=1)
            replace_text(Path(folder) / f"{prefix}{name}.json", text)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, answer: object) -> bool:
        return answer in self.ids

    def find(self, answer: str) -> int | None:
        """Class of an answer as it is written, None when it is outside the map."""
        return self.ids.get(answer)

    def index(self, answer: str, file: str | Path = "", question_id: object = None) -> int:
        """Class of an answer; outside the map it raises `InputError` with the file and the question."""
        found = self.ids.get(answer)
        if found is None:
            place = f"{file}: question {question_id!r}: " if question_id is not None else ""
            raise InputError(
                f"{place}answer {answer!r:.60} is not among the {len(self)} answers of {self.source}"
            )
        return found

    def select(self, label: Mapping[str, float]) -> dict[int, float]:
        """{class: score} of a label {answer: score}; answers outside the map are dropped."""
        return {self.ids[answer]: score for answer, score in label.items() if answer in self.ids}


def _table_row(path: Path, index: int, row: Any) -> tuple[str, set[str]]:
    match row:
        case {"ans": str(answer), "dsets": list(sets)} if all(isinstance(name, str) for name in sets):
            return answer, set(sets)
    raise InputError(f'{path}: entry {index} is {str(row)[:80]!r}, wanted {{"ans": ..., "dsets": [...]}}')


def _read_names(path: Path) -> list[str]:
    names = read_json(path)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: wanted a list of answers")
    return names


def _read_ids(path: Path) -> dict[str, int]:
    ids = read_json(path)
    if not isinstance(ids, dict) or not all(type(number) is int for number in ids.values()):
        raise InputError(f"{path}: wanted a dictionary from answer to number")
    if sorted(ids.values()) != list(range(len(ids))):
        raise InputError(
            f"{path}: the numbers of its {len(ids)} answers are not 0 to {len(ids) - 1}, each once"
        )
    return ids
