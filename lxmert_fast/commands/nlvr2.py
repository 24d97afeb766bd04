"""`lxmert-fast data nlvr2`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def nlvr2(
    source: Annotated[Path, typer.Argument(metavar="IN.json", help="An official file: an object a line.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.json", help="The original's list, to train on.")],
    split: Annotated[
        Literal["train", "valid", "test", "hidden"],
        typer.Option(help="train.json is train, dev.json valid, test1.json test, test2.json hidden."),
    ],
) -> None:
    """Turn an official NLVR2 file into the list that `finetune`, `evaluate` and `predict` read.

    Labels are the strings "True" and "False"; test2.json may lack them. The images of dev-850-0-1 are
    dev-850-0-img0 and dev-850-0-img1 in the region files.
    """
    from lxmert_fast.data.official.nlvr2 import convert
    from lxmert_fast.data.official.statements import NLVR2

    entries = convert(source, out, split)
    images = {entry[key] for entry in entries for key in ("img0", "img1")}
    groups = {NLVR2.group(entry["identifier"]) for entry in entries}
    true = sum(entry.get("label", 0) for entry in entries)
    labels = f"{true:,} of them true" if "label" in entries[0] else "without labels"
    typer.echo(f"{out}: {len(entries):,} examples, {labels}; {len(images):,} images, {len(groups):,} groups")
