"""Which examples each update saw: what proves that a run lost nothing.

One file a rank, one line an update. A resumed run drops the lines behind its checkpoint first, as the
metrics do, because those updates are done again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from lxmert_fast.files import replace_text, writing

from .ranks import Ranks

FOLDER = "trace"


class Trace:
    """Writes `folder/trace/rank_NNNNN.jsonl`.

    Args:
        folder: of the run.
        ranks: all of them make one.
        resumed_at: updates done.
    """

    def __init__(self, folder: Path, ranks: Ranks, resumed_at: int) -> None:
        self.folder = folder / FOLDER
        if ranks.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.folder.glob("rank_*.jsonl"):
                kept = [line for line in _lines(path) if line["update"] <= resumed_at]
                _rewrite(path, kept)
        ranks.barrier()
        self._file = (self.folder / f"rank_{ranks.rank:05d}.jsonl").open("a", encoding="utf-8")

    def write(self, update: int, epoch: int, example_ids: Iterable[str]) -> None:
        """What this rank saw of an update.

        Raises:
            InputError: the disk is full.
        """
        line = {"update": update, "epoch": epoch, "examples": list(example_ids)}
        with writing(self.folder):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file; `write` has told of a full disk."""
        with suppress(OSError):
            self._file.close()


def read_trace(folder: Path) -> dict[tuple[int, int], list[str]]:
    """(epoch, update) to the examples of all ranks, sorted; of a run's folder."""
    seen: dict[tuple[int, int], list[str]] = {}
    for path in sorted((folder / FOLDER).glob("rank_*.jsonl")):
        for line in _lines(path):
            seen.setdefault((line["epoch"], line["update"]), []).extend(line["examples"])
    return {key: sorted(examples) for key, examples in sorted(seen.items())}


def _lines(path: Path) -> list[dict]:
    """All whole lines; the last may have been cut short by a kill."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1] if line]


def _rewrite(path: Path, lines: list[dict]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    replace_text(path, text)
