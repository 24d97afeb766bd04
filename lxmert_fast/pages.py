"""Tables that a program writes: in Markdown pages each stands between two marks, `<!-- name -->`; or HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path


def table(titles: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, empty without rows."""
    if not rows:
        return ""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def html_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of texts; its first column names the rows."""

    def line(cells: Sequence[str]) -> str:
        first, *others = map(escape, cells)
        return f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others) + "</tr>"

    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    body = "\n".join(line(row) for row in rows)
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"


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
