"""Ranges of parameters out of a checkpoint, whichever ranks wrote them."""

from __future__ import annotations

import json
import math
from functools import cached_property
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from lxmert_fast.errors import InputError

from .checkpoints import Checkpoint, shard_name
from .shards import WEIGHT


class ShardReader:
    """Reads only the files, and of them only the bytes, that hold what is asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._files: dict[int, Any] = {}
        self._numbers_of_rank: dict[int, dict[str, dict[str, float]]] = {}

    def names(self) -> list[str]:
        """The parameters that were trained."""
        return sorted(self._places)

    def keys_of(self, name: str) -> list[str]:
        """What the optimizer holds for a parameter, as long as itself."""
        return sorted(key for key in self._places.get(name, {}) if key != WEIGHT)

    def numbers_of(self, name: str) -> dict[str, float]:
        """The optimizer's plain numbers for a parameter, such as a step count."""
        for rank, *_ in self._places.get(name, {}).get(WEIGHT, []):
            return self._numbers(rank).get(name, {})
        return {}

    def _numbers(self, rank: int) -> dict[str, dict[str, float]]:
        if rank not in self._numbers_of_rank:
            facts = json.loads(self._file(rank).metadata()["facts"])
            self._numbers_of_rank[rank] = facts["numbers"]
        return self._numbers_of_rank[rank]

    def range(self, key: str, name: str, start: int, size: int) -> Tensor:
        """(size,) elements of a parameter, or of the optimizer's `key` for it, from `start` on.

        Raises:
            InputError: no such parameter or key, or one that is not as long as that.
        """
        found: list[Tensor] = []
        at, end = start, start + size
        for rank, first, length in self._places.get(name, {}).get(key, []):
            if first <= at < first + length:
                last = min(end, first + length)
                found.append(self._file(rank).get_slice(f"{key}/{name}")[at - first : last - first])
                at = last
            if at == end:
                break
        if at != end:
            raise InputError(
                f"{self.checkpoint.folder}: of {name} ({key}) it does not hold elements {at} to {end - 1}: "
                "it is of another model or optimizer"
            )
        return torch.cat(found) if len(found) != 1 else found[0]

    def whole(self, name: str, shape: list[int], key: str = WEIGHT) -> Tensor:
        """A whole parameter."""
        return self.range(key, name, 0, math.prod(shape)).reshape(shape)

    def own(self, rank: int, prefix: str) -> dict[str, Tensor]:
        """Tensors of one rank's file by their names after `prefix/`."""
        file = self._file(rank)
        names = [name for name in list(file.keys()) if name.startswith(f"{prefix}/")]
        return {name[len(prefix) + 1 :]: file.get_tensor(name) for name in names}

    def _file(self, rank: int) -> Any:
        if rank not in self._files:
            path = self.checkpoint.folder / shard_name(rank)
            self._files[rank] = safe_open(path, framework="pt", device="cpu")
        return self._files[rank]

    @cached_property
    def _places(self) -> dict[str, dict[str, list[tuple[int, int, int]]]]:
        """Name to key to (rank, first element, how many), by first element."""
        places: dict[str, dict[str, list[tuple[int, int, int]]]] = {}
        for rank, part in enumerate(self.checkpoint.manifest["ranges"]):
            for entry, size in part["sizes"].items():
                key, _, name = entry.partition("/")
                if name in part["starts"]:
                    spots = places.setdefault(name, {}).setdefault(key, [])
                    spots.append((rank, part["starts"][name], size))
        for keys in places.values():
            for spots in keys.values():
                spots.sort(key=lambda spot: spot[1])
        return places
