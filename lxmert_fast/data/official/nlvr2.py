"""NLVR2's official files to the list that the original trains on (reference 3.6).

[{"identifier": "dev-850-0-0", "img0": "dev-850-0-img0", "img1": "dev-850-0-img1", "label": 0,
  "sent": "The right image shows ...", "uid": "nlvr2_valid_0"}, ...]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lxmert_fast.data.official.statements import NLVR2, iter_statements
from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_text, writing

SPLITS = {"train": "train", "valid": "dev", "test": "test1", "hidden": "test2"}
"""The original's names and the official ones, with which identifiers begin."""


def convert(source: str | Path, out: str | Path, split: str) -> list[dict[str, Any]]:
    """Write an official file as the original's list, whole or not at all.

    Args:
        split: one of `SPLITS`; "hidden" may lack labels, and entries then have none.

    Returns:
        What was written.

    Raises:
        InputError: another split, a line that is not in the format or of another split, an unwritable file.
    """
    if split not in SPLITS:
        raise InputError(f"split is {split!r}, wanted one of {', '.join(SPLITS)}")
    entries = []
    for index, (place, statement) in enumerate(iter_statements(source, NLVR2, labelled=split != "hidden")):
        stem, _, _ = statement.identifier.rpartition("-")
        if not stem.startswith(f"{SPLITS[split]}-"):
            raise InputError(
                f"{place}: identifier: found {statement.identifier!r}, wanted one that begins with "
                f"{SPLITS[split]}- in split {split}"
            )
        label = {} if statement.label is None else {"label": int(statement.label)}
        entries.append(
            {
                "identifier": statement.identifier,
                "img0": f"{stem}-img0",
                "img1": f"{stem}-img1",
                **label,
                "sent": statement.sentence,
                "uid": f"nlvr2_{split}_{index}",
            }
        )
    out = Path(out)
    with writing(out):
        replace_text(out, json.dumps(entries, indent=4))
    return entries
