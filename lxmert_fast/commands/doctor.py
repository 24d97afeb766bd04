"""`lxmert-fast doctor`."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="JSON in place of a table.")] = False,
) -> None:
    """Show what this machine has for training, and what each missing piece costs. Never fails."""
    from lxmert_fast.doctor import examine

    found = examine()
    if as_json:
        typer.echo(json.dumps([fact._asdict() for fact in found], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "found", "what it means")
    for column in table.columns:
        column.overflow = "fold"
    for fact in found:
        style = "yellow" if fact.means else None
        table.add_row(fact.name, fact.found or "none", fact.means, style=style)
    console = Console(highlight=False)
    # a pipe has no width, and a table cut to 80 columns says little
    console.width = console.width if console.is_terminal else 160
    console.print(table)
