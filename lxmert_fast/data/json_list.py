"""JSON files whose faults are told in one line; lists are read entry by entry."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn, cast

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
    return ((place, entry) for place, entry, _ in read_entries_at(path))


def read_entries_at(path: str | Path) -> Iterator[tuple[str, dict[str, Any], int]]:
    """`read_entries`, each with the byte of the file at which it begins (`decode_entry` reads it there)."""
    with _opened(path) as file:
        text = _Window(file)
        yield from _list(text, str(path))
        text.end(str(path))


def decode_entry(content: bytes, place: str) -> dict[str, Any]:
    """The object that begins `content`, bytes of a file from where `read_entries_at` found it.

    Raises `InputError` where the file holds something else by now.
    """
    try:
        entry, _ = _decoder.raw_decode(content.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: changed while it was read: {error}") from None
    if not isinstance(entry, dict):
        raise InputError(f"{place}: changed while it was read: found {shown(entry)}, wanted an object")
    return entry


def read_members(path: str | Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The objects of a JSON object of objects: place for an error line, key and value.

    Memory and errors like `read_entries`. A key that occurs twice comes twice.
    """
    with _opened(path) as file:
        text = _Window(file)
        for key in _keys(text, str(path)):
            place = f"{path}: {ascii(key)[:60]}"
            yield place, key, _object(text, place)
        text.end(str(path))


def read_list_in(path: str | Path, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of the list under `key` of a JSON object, which may hold other things beside.

    Memory and errors like `read_entries`; also for a file without that key.
    """
    found = False
    with _opened(path) as file:
        text = _Window(file)
        for name in _keys(text, str(path)):
            place = f"{path}: {ascii(name)[:60]}"
            if name == key:
                found = True
                yield from ((place, entry) for place, entry, _ in _list(text, f"{path}: {key}"))
            else:
                text.decode(place)
        text.end(str(path))
    if not found:
        raise InputError(f"{path}: no {key!r} in it, wanted the list of them")


def _list(text: _Window, place: str) -> Iterator[tuple[str, dict[str, Any], int]]:
    for index in _parts(text, place, "[]", "a list of objects"):
        where = f"{place}: entry {index}"
        text.peek()
        start = text.byte()
        yield where, _object(text, where), start


def _keys(text: _Window, place: str) -> Iterator[str]:
    """The keys of the object that begins here; whoever gets one takes its value before the next."""
    for index in _parts(text, place, "{}", "an object with entries"):
        where = f"{place}: key {index}"
        if text.peek() != '"':
            raise InputError(f"{where}: found {text.shown()}, wanted a string")
        key = text_of(text.decode(where), where, "key")
        if text.peek() != ":":
            raise InputError(f"{where}: found {text.shown()} after it, wanted ':'")
        text.at += 1
        yield key


def _parts(text: _Window, place: str, brackets: str, wanted: str) -> Iterator[int]:
    """Numbers, from 0, of what stands between brackets; whoever gets one takes its part before the next."""
    begin, end = brackets[0], brackets[1]
    if text.peek() != begin:
        raise InputError(f"{place}: found {text.shown()}, wanted {wanted}")
    text.at += 1
    if text.peek() == end:
        kind = "list" if begin == "[" else "object"
        raise InputError(f"{place}: found an empty {kind}, wanted {wanted}")
    index, mark = 0, ","
    while mark == ",":
        yield index
        mark = text.peek()
        if mark not in (",", end):
            raise InputError(f"{place}: entry {index}: found {text.shown()} after it, wanted ',' or {end!r}")
        text.at += 1
        index += 1


def _object(text: _Window, place: str) -> dict[str, Any]:
    if text.peek() != "{":
        raise InputError(f"{place}: found {text.shown()}, wanted an object")
    return text.decode(place)


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

    def __init__(self, file: TextIOWrapper) -> None:
        self._file = file
        self._passed = 0
        # the decoder swallows a byte order mark
        start = cast(BufferedReader, file.buffer).peek(len(codecs.BOM_UTF8))
        self._bytes = len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0
        self._counted = 0
        self._ended = False
        self.text = ""
        self.at = 0

    def byte(self) -> int:
        """Where in the file `at` is, in bytes."""
        self._bytes += len(self.text[self._counted : self.at].encode())
        self._counted = self.at
        return self._bytes

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

    def end(self, place: str) -> None:
        """Raise `InputError` where there is more than blanks."""
        if self.peek():
            raise InputError(f"{place}: found {self.shown()} after the end, wanted nothing")

    def decode(self, place: str) -> Any:
        """The value that comes next."""
        self.peek()
        while True:
            try:
                value, end = _decoder.raw_decode(self.text, self.at)
                # a number may go on behind the part that was read ("2", "2e-")
                if len(self.text) - end > 2 or self._ended:
                    self.at = end
                    return value
                self._more()
                continue
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
        self.byte()
        self._counted = 0
        left = self.text[self.at :]
        piece = self._file.read(max(_PIECE, len(left)))
        self._passed += self.at
        self.text, self.at = left + piece, 0
        self._ended = not piece
        return bool(piece)


@contextmanager
def _opened(path: str | Path) -> Iterator[TextIOWrapper]:
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
