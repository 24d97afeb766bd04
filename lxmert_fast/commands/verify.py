"""`lxmert-fast verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="A Hugging Face model folder or an original .pth file."),
    ],
    heads: Annotated[
        int | None,
        typer.Option(min=1, help="Attention heads of a .pth file whose heads are not 64 wide."),
    ] = None,
) -> None:
    """Check that this library gives the numbers of Hugging Face's LXMERT for your checkpoint.

    Loads it in both, runs random and edge-case batches on the CPU, and prints the largest difference of
    each output, of the loss and of some gradients. Exit code 1 if one is out of tolerance (fp32: 1e-5 of
    the tensor's largest value).
    """
    from rich.console import Console
    from rich.table import Table

    from lxmert_fast.commands.progress import progress
    from lxmert_fast.verify import BATCHES, TOLERANCE
    from lxmert_fast.verify import verify as compare

    with progress("Comparing", len(BATCHES), unit="batches") as advance:
        differences = compare(checkpoint, num_attention_heads=heads, progress=advance)
    table = Table("output", "worst in", "absolute", "relative", "tolerance", "verdict")
    for column in table.columns:
        column.overflow = "fold"
    for column in table.columns[2:5]:
        column.justify, column.no_wrap = "right", True
    for row in differences:
        verdict = "ok" if row.within else "OUT OF TOLERANCE"
        table.add_row(
            row.output,
            row.where if row.absolute else "",
            f"{row.absolute:.1e}",
            f"{row.relative:.1e}",
            f"{TOLERANCE:.0e}",
            verdict,
            style=None if row.within else "bold red",
        )
    console = Console()
    console.print(table)
    bad = sum(not row.within for row in differences)
    console.print(
        f"{checkpoint}: {bad} of {len(differences)} out of tolerance"
        if bad
        else f"{checkpoint}: all {len(differences)} within tolerance"
    )
    if bad:
        raise typer.Exit(1)
