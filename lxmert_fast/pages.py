"""Markdown pages with tables that a program writes: each stands between two marks, `<!-- name -->`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def table(titles: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, empty without rows."""
    if not rows:
        return ""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def parts(page: str, name: str) -> tuple[str, str, str]:
    """The page before a table, the table between its two marks, the page after it."""
    before, table, after = page.split(f"<!-- {name} -->\n")
    return before, table.rstrip("\n"), after


def put(page: str, name: str, table: str) -> str:
    """The page with this table."""
    before, _, after = parts(page, name)
    mark = f"<!-- {name} -->\n"
    return f"{before}{mark}{table}\n{mark}{after}"


def print_or_put(found: Mapping[str, str], arguments: Sequence[str]) -> None:
    """Print the tables, or put each at its mark in the page that the first argument names."""
    if not arguments:
        print("\n\n".join(found.values()))
        return
    path = Path(arguments[0])
    page = path.read_text(encoding="utf-8")
    for name, text in found.items():
        page = put(page, name, text)
    path.write_text(page, encoding="utf-8")
