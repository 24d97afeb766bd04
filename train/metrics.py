"""What a run writes down: one JSON object a line, and the same scalars for TensorBoard and others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_text, writing

from .wandb_log import WandbLog

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """Scalars of a run in `folder/metrics.jsonl` and, where TensorBoard is installed, `folder/tensorboard`;
    at Weights & Biases too where that is asked for.

    Args:
        folder: of the run.
        resumed_at: the update a resumed run goes on from; later lines, written by a run that was killed
            before its next checkpoint, are dropped because they will be written again.
        write: False on all ranks but one: then nothing is opened and `write` does nothing.
        wandb: project at Weights & Biases; None writes nothing there.
        config: settings to show beside the run there.

    Raises:
        InputError: Weights & Biases is asked for, and not installed or not to be reached.
    """

    def __init__(
        self,
        folder: Path,
        resumed_at: int = 0,
        *,
        write: bool = True,
        wandb: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = folder / METRICS_FILE
        self._file, self._board, self._wandb = None, None, None
        if not write:
            return
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        kept = (
            [entry for entry in read_metrics(self.path) if entry["step"] <= resumed_at] if resumed_at else []
        )
        lines = "".join(json.dumps(entry) + "\n" for entry in kept)
        with writing(self.path):
            replace_text(self.path, lines)
            self._file = self.path.open("a", encoding="utf-8")
        with writing(folder / "tensorboard"):
            self._board = _board(folder / "tensorboard", resumed_at)
        if wandb is not None:
            self._wandb = WandbLog(wandb, folder, resumed=resumed_at > 0, config=config or {})

    def write(self, split: str, step: int, values: dict[str, Any]) -> None:
        """Add one line; `values` holds numbers, or dicts of numbers such as the losses by task.

        Raises:
            InputError: the disk is full.
        """
        if self._file is None:
            return
        scalars = {f"{split}/{name}": value for name, value in flatten(values)}
        with writing(self.path):
            self._file.write(json.dumps({"split": split, "step": step, **values}) + "\n")
            self._file.flush()
            if self._board is not None:
                for name, value in scalars.items():
                    self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.write(step, scalars)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)

    def close(self, *, failed: bool = False) -> None:
        """Flush and close all of them; `failed` says how the run ended."""
        # `write` has told of a full disk; here it would take the place of the error that ends the run
        with suppress(OSError):
            if self._file is not None:
                self._file.close()
        with suppress(OSError):
            if self._board is not None:
                self._board.close()
        if self._wandb is not None:
            self._wandb.close(failed=failed)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a metrics file; a last line cut short by a kill is left out.

    Raises:
        InputError: a line that is not one of `MetricsLog`'s.
    """
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        if not line:
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            raise InputError(f"{path}: line {number} is not JSON, wanted an object a line") from None
        if (
            not isinstance(entry, dict)
            or type(entry.get("step")) is not int
            or not isinstance(entry.get("split"), str)
        ):
            raise InputError(f"{path}: line {number} has no split and step, wanted a line of metrics")
        found.append(entry)
    return found


def _board(folder: Path, resumed_at: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=resumed_at + 1 if resumed_at else None)


def flatten(values: dict[str, Any]) -> list[tuple[str, float]]:
    """Every number in it by its path, such as "losses/mask_lm"."""
    flat: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            flat += [(f"{name}/{inner}", number) for inner, number in flatten(value)]
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            flat.append((name, float(value)))
    return flat
