"""A run's scalars at Weights & Biases, where `run.wandb` names a project.

WANDB_MODE=offline needs no network: `wandb sync` sends what then lies in `run.output/wandb` later.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_text

RUN_ID = "wandb_id"
"""File of the run's folder: by which name a resumed run is the same run there."""


class WandbLog:
    """One run of a project.

    A run that was killed writes again what came after its last checkpoint. Those lines have an update that
    Weights & Biases has seen, so it leaves them out.

    Args:
        project: its name.
        folder: of the run.
        resumed: whether it goes on; a new one in the same folder is another run there, too.
        config: settings to show beside the run.

    Raises:
        InputError: wandb is not installed, or does not start (no network, no key).
    """

    def __init__(self, project: str, folder: Path, *, resumed: bool, config: Mapping[str, Any]) -> None:
        wandb = import_wandb()
        path = folder / RUN_ID
        if not (resumed and path.is_file()):
            name = secrets.token_hex(8)
            replace_text(path, name)
        try:
            self._run = wandb.init(
                project=project,
                id=path.read_text(encoding="utf-8").strip(),
                name=folder.resolve().name,
                dir=str(folder),
                resume="allow",
                config=dict(config),
                allow_val_change=True,
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"run.wandb: Weights & Biases did not start ({reason}); WANDB_MODE=offline does without it"
            ) from None

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add numbers of an update; several lines of one update go together."""
        self._run.log(dict(scalars), step=step)

    def close(self, *, failed: bool = False) -> None:
        """Send what is left, and say how the run ended."""
        self._run.finish(exit_code=int(failed))


def import_wandb() -> Any:
    """The package, and not the folder of that name that it leaves behind.

    Raises:
        InputError: it is not installed.
    """
    try:
        import wandb

        wandb.init  # noqa: B018 (a folder is importable too, and has nothing)
    except (ImportError, AttributeError):
        raise InputError(
            "run.wandb: wandb is not installed; pip install 'lxmert-fast[wandb]', or leave run.wandb out"
        ) from None
    return wandb


def problem_with(project: str | None) -> str | None:
    """Why nothing can be written to a project; None where it can, or nobody asked."""
    try:
        if project is not None:
            import_wandb()
    except InputError as error:
        return str(error)
    return None
