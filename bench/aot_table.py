"""What was compiled ahead of time, as a table for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from .aot_rows import Row, faults


def worst_rows(rows: Iterable[Row]) -> list[tuple[Row, int]]:
    """Of every kernel and architecture the row with the fewest warps at once, and how many rows there are."""
    kinds: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        kinds.setdefault((row.spec.kernel, row.spec.arch), []).append(row)
    return [
        (min(kind, key=lambda row: (row.occupancy().warps, -row.registers)), len(kind))
        for kind in kinds.values()
    ]


def aot_table(rows: list[Row], everything: bool = False) -> Table:
    """The worst row of each kernel and architecture, then all that have faults; or every row."""
    table = Table("kernel", "sm", "of", "entry", "warps", "registers", "spilled", "shared kB")
    for name in ("blocks", "warps at once", "matrix", "faults"):
        table.add_column(name)
    for i in (1, 2, 4, 5, 6, 7, 8, 9):
        table.columns[i].justify = "right"
    for column in table.columns:
        column.no_wrap, column.overflow = column.header != "faults", "fold"
    if everything:
        for row in rows:
            _add(table, row, "")
        return table
    worst = dict(worst_rows(rows))
    for row, count in worst.items():
        _add(table, row, f"{count}")
    for row in rows:
        if faults(row) and row not in worst:
            _add(table, row, "")
    return table


def _add(table: Table, row: Row, count: str) -> None:
    spec, held, wrong = row.spec, row.occupancy(), faults(row)
    chosen = f"{spec.key_text} {spec.dtype} {spec.form}, {spec.settings.rows} rows"
    table.add_row(
        spec.kernel,
        f"{spec.arch}",
        count,
        chosen,
        f"{spec.settings.warps}",
        f"{row.registers}",
        f"{row.spilled}",
        f"{row.shared / 1024:.1f}",
        f"{held.blocks}",
        f"{held.warps:.0%}",
        " ".join(row.matrix),
        "; ".join(wrong),
        style="bold red" if wrong else None,
    )
