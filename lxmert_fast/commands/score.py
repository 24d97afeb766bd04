"""`lxmert-fast score`: a prediction file as its task's official checker reads and scores it."""

from __future__ import annotations

import typer

from .score_daquar import daquar

app = typer.Typer(help="Score a prediction file as the task's official checker does.", no_args_is_help=True)
app.command()(daquar)
