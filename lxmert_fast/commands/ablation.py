"""`lxmert-fast ablation`."""

from __future__ import annotations

from typing import Annotated

import typer


def ablation(
    config: Annotated[
        str,
        typer.Argument(
            help="A YAML file, or the name of one that ships: ablation_table3, ablation_table4 and "
            "ablation_table5 are the paper's, ablation_nlvr is small."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value on top of CONFIG, such as run.output=runs/mine."),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Runs at a time, each in a process of its own.", min=1)] = 1,
    report: Annotated[
        bool, typer.Option("--report", help="Train nothing: compare what has been run.")
    ] = False,
) -> None:
    """Train every arm of a grid and compare them; run it again to go on after an interruption."""
    from lxmert_fast.train.ablation import run_ablation

    run_ablation(config, overrides, jobs=jobs, report_only=report)
