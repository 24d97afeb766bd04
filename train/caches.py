"""Compiled code on the disk of each node, compiled by one rank of the node before the others ask for it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from lxmert_fast.caches import CACHES, local_folder, user_folder
from lxmert_fast.errors import InputError

from .ranks import Ranks


def use_local_caches() -> None:
    """Point the caches that no variable places to a folder of this node; before anything compiles.

    Raises:
        InputError: the folder is another user's, who could have put code there.
    """
    unset = [cache for cache in CACHES if cache.chosen is None]
    if not unset:
        return
    mine = user_folder()
    mine.mkdir(mode=0o700, exist_ok=True)
    found = mine.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise InputError(
            f"{mine}: found a link or a folder of user {found.st_uid}, wanted one of user {os.getuid()}; set "
            f"TMPDIR, or {', '.join(cache.variable for cache in unset)}"
        )
    mine.chmod(0o700)
    for cache in unset:
        folder = local_folder() / cache.folder
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[cache.variable] = str(folder)


def once_a_host(ranks: Ranks, work: Callable[[], None] | None) -> None:
    """Let local rank 0 of each host do something, and the other ranks wait until all hosts have done it.

    Whatever happens to the one that works, nobody waits for ever: a rank that dies ends the others' wait at
    once, one that hangs after `run.timeout`.

    Args:
        ranks: all of them call, also where there is no work.
        work: without a collective, which the waiting ranks would not join.

    Raises:
        RanksLost: a rank died, or took longer than `run.timeout`.
    """
    if work is not None and ranks.local_rank == 0:
        work()
    ranks.barrier()
