"""The result file: pytest-benchmark's shape, as `make bench` writes it, whole after every item.

    benchmarks[].extra_info["race"]      a workload in one mode at one size, as in `rounds.py`; its entries
                                         have p20, p80, pairs_a_second, peak_bytes, mfu and launches too
    benchmarks[].extra_info["parity"]    operators against fp64
    benchmarks[].extra_info["kernels"]   calls of a training step
    machine_info["lxmert_fast"]          as in `machine.py`, and the GPU; "dry_run" if nothing was measured
    not_run                              what the time was too short for

Every row has an `id`. A later run on the same machine with the same code finds it and goes on from there.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lxmert_fast
from lxmert_fast.commit import commit
from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_text

#: Of a race, what is not one of its entries.
RACE_KEYS = ("workload", "mode", "pairs", "per_image", "mean_tokens", "matrix_rate", "counts")
Row = dict[str, Any]


class Results:
    """Rows by their ids, and the file they are in.

    Args:
        path: the file; whatever it holds of this machine and code is kept.
        machine: of `machine_info`; its "fingerprint" says when two runs belong together.
    """

    def __init__(self, path: Path, machine: dict[str, Any]) -> None:
        self.path, self.machine = path, machine
        self.rows: dict[str, Row] = {}
        self.races: dict[str, Row] = {}
        self.not_run: list[str] = []
        self.resumed = self._resume()

    def __contains__(self, item: str) -> bool:
        return item in self.rows

    def put(self, part: str, item: str, row: Mapping[str, Any], race: str | None = None) -> None:
        """Add a row and write the file."""
        self.rows[item] = {"id": item, "part": part, "race": race, **row}
        self.write()

    def of(self, part: str) -> list[Row]:
        """The rows of a part."""
        return [row for row in self.rows.values() if row["part"] == part]

    def write(self) -> None:
        """Replace the file."""
        text = json.dumps(self.to_json(), indent=1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self.path, text + "\n")

    def to_json(self) -> dict[str, Any]:
        """What the file holds."""
        benchmarks: list[dict[str, Any]] = [
            {"name": part, "group": "gpu", "extra_info": {part: rows}}
            for part in ("rates", "parity", "kernels")
            if (rows := self.of(part))
        ]
        for title, race in self.races.items():
            entries = [row for row in self.of("steps") if row["race"] == title]
            extra = {"race": {**race, "entries": entries}}
            benchmarks.append({"name": title, "group": "gpu", "extra_info": extra})
        return {
            "machine_info": {"lxmert_fast": self.machine},
            "commit_info": commit(),
            "datetime": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "dry_run": bool(self.machine.get("dry_run")),
            "benchmarks": benchmarks,
            "not_run": self.not_run,
        }

    def _resume(self) -> bool:
        if not self.path.is_file():
            return False
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["machine_info"]["lxmert_fast"].get("fingerprint") != self.machine["fingerprint"]:
                return False
            for benchmark in content["benchmarks"]:
                extra = benchmark["extra_info"]
                race = extra.get("race")
                if race is not None:
                    self.races[benchmark["name"]] = {key: race[key] for key in RACE_KEYS}
                for rows in (race["entries"] if race else [], *(v for k, v in extra.items() if k != "race")):
                    self.rows |= {row["id"]: row for row in rows}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{self.path}: not a result file of bench gpu ({error!r:.80})") from None
        return True


def code_version() -> str:
    """A digest of every module of the package, so that no figure outlives the code that it is of."""
    digest = hashlib.sha256()
    files = {file.resolve() for place in lxmert_fast.__path__ for file in _modules(Path(place))}
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _modules(place: Path) -> list[Path]:
    if (place / "setup.py").is_file():  # a checkout, whose other folders are no part of the package
        return [file for room in ("kernels", "train", "bench") for file in (place / room).rglob("*.py")]
    return list(place.rglob("*.py"))
