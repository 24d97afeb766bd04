"""`lxmert-fast report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folder(s) that pretrain or finetune wrote.")],
    out: Annotated[
        Path | None, typer.Option(help="The page to write; report.html in the first RUN if absent.")
    ] = None,
) -> None:
    """Write one HTML page about a training run, or several beside each other.

    Losses by task, validation, speed, learning rate, gradient norm, configuration, versions, checkpoints:
    curves with their numbers in tables. The page needs no other file and no network.
    """
    from lxmert_fast.files import replace_text, writing
    from lxmert_fast.train.run_page import run_page

    page = run_page(runs)
    path = out or runs[0] / "report.html"
    with writing(path):
        replace_text(path, page)
    typer.echo(f"{path}: {len(runs)} run{'s' * (len(runs) > 1)}")
