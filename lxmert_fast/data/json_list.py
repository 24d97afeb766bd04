"""JSON files whose faults are told in one line; lists are read entry by entry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO

from lxmert_fast.errors import InputError

# Characters read at once; the largest files of the original hold hundreds of megabytes.
_PIECE = 1 << 22


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises `InputError` for a file that is missing, empty, not UTF-8 or not JSON (NaN and infinities are not
    JSON), naming the line.
    """
    with _opened(path) as file:
        text = file.read()
    if not text.strip():
        raise InputError(f"{path}: empty, wanted JSON")
    try:
        return _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from None


def read_entries(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON list, each with the words that name its place in an error line.

    Holds one entry and a few megabytes of text at a time, whatever the size of the file.

    Raises `InputError` like `read_json`, for a file that is not a list of objects, and for an empty list.
    """
    with _opened(path) as file:
        text = _Window(file)
        if text.peek() != "[":
            raise InputError(f"{path}: found {text.shown()}, wanted a list of objects")
        text.at += 1
        if text.peek() == "]":
            raise InputError(f"{path}: found an empty list, wanted a list of objects")
        index, mark = 0, ","
        while mark == ",":
            place = f"{path}: entry {index}"
            if text.peek() != "{":
                raise InputError(f"{place}: found {text.shown()}, wanted an object")
            yield place, text.decode(place)
            mark = text.peek()
            if mark not in (",", "]"):
                raise InputError(f"{place}: found {text.shown()} after it, wanted ',' or ']'")
            text.at += 1
            index += 1
        if text.peek():
            raise InputError(f"{path}: found {text.shown()} after the end of the list, wanted nothing")


def read_json_lines(path: str | Path) -> Iterator[tuple[str, Any]]:
    """The values of a file of one JSON value a line, each with the words that name its place.

    Raises `InputError` like `read_json`; blank lines are passed over.
    """
    empty = True
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            empty = False
            place = f"{path}: line {number}"
            try:
                value = _decoder.decode(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{place}, column {error.colno}: {error.msg}") from None
            except (ValueError, RecursionError) as error:
                raise InputError(f"{place}: not JSON: {error}") from None
            yield place, value
    if empty:
        raise InputError(f"{path}: empty, wanted a JSON value a line")


def text_of(value: Any, place: str, key: str) -> str:
    """A string that UTF-8 can hold; anything else is an `InputError` that names the key."""
    if not isinstance(value, str):
        raise InputError(f"{place}: {key}: found {shown(value)}, wanted a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"{place}: {key}: found half of a surrogate pair in {shown(value)}") from None
    return value


def label_of(value: Any, place: str, key: str) -> dict[str, float]:
    """A label {answer: score}, scores in [0, 1]; anything else is an `InputError`."""
    if not isinstance(value, dict):
        raise InputError(f"{place}: {key}: found {shown(value)}, wanted {{answer: score}}")
    for answer, score in value.items():
        text_of(answer, place, key)
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
            raise InputError(f"{place}: {key}: answer {answer!r} has score {shown(score)}, wanted 0 to 1")
    return value


class _Window:
    """The part of a file that is being decoded: `text` from `at` on."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._passed = 0
        self.text = ""
        self.at = 0

    def peek(self) -> str:
        """The next character that is not blank, left where it is; "" at the end of the file."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in " \t\r\n":
                    return self.text[self.at]
                self.at += 1
            if not self._more():
                return ""

    def shown(self) -> str:
        """What comes next, for an error line."""
        return repr(self.peek()) if self.peek() else "the end of the file"

    def decode(self, place: str) -> Any:
        """The value that begins here."""
        while True:
            try:
                value, self.at = _decoder.raw_decode(self.text, self.at)
                return value
            except (ValueError, RecursionError) as error:
                # A value that is cut and one that is wrong look alike until the file has ended.
                if self._more():
                    continue
                where = (
                    f" at character {self._passed + error.pos:,}"
                    if isinstance(error, json.JSONDecodeError)
                    else ""
                )
                what = error.msg if isinstance(error, json.JSONDecodeError) else error
                raise InputError(f"{place}: not JSON: {what}{where}") from None

    def _more(self) -> bool:
        """Read on. What is left at least doubles, so decoding it again costs no more than reading it."""
        left = self.text[self.at :]
        piece = self._file.read(max(_PIECE, len(left)))
        self._passed += self.at
        self.text, self.at = left + piece, 0
        return bool(piece)


@contextmanager
def _opened(path: str | Path) -> Iterator[TextIO]:
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            yield file
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.object[error.start]:#04x} is not UTF-8, wanted JSON") from None


def shown(value: Any) -> str:
    return "nothing" if value is None else f"{ascii(value)[:60]}"


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


_decoder = json.JSONDecoder(parse_constant=_refuse)
