"""Markdown pages with tables that a program writes: each stands between two marks, `<!-- name -->`."""

from __future__ import annotations


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
