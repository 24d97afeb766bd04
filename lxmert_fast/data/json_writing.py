"""Lists of entries into JSON files, entry by entry: the other way of `json_list`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_file, writing


def write_entries(path: str | Path, entries: Iterable[dict[str, Any]]) -> int:
    """Write entries as a JSON list, one a line, in one step: `path` never holds half a file.

    Holds one entry at a time. Where `entries` raises, nothing is written.

    Returns:
        The number of entries.

    Raises:
        InputError: no entry, or the file can't be written.
    """
    path = Path(path)
    count = 0

    def write(beside: Path) -> None:
        nonlocal count
        with beside.open("w", encoding="utf-8") as file:
            for entry in entries:
                file.write(",\n" if count else "[\n")
                file.write(json.dumps(entry, ensure_ascii=False))
                count += 1
            if not count:
                raise InputError(f"{path}: no entry to write")
            file.write("\n]\n")

    with writing(path):
        replace_file(path, write)
    return count
