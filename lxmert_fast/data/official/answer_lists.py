"""The answers that a data set's model chooses from, and their order (reference 3.4, 3.5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.errors import InputError

VQA_OCCURRENCES = 9
"""Bottom-up attention's rule (Anderson et al. 2018): 3,129 answers on VQA v2's train and val."""


def frequent_answers(answers: Iterable[str], occurrences: int) -> set[str]:
    """The answers that occur so often at least."""
    return {answer for answer, count in Counter(answers).items() if count >= occurrences}


def ordered(answers: set[str], like: Path | None, source: Sequence[Path]) -> AnswerMap:
    """A map in string order, or in that of the list `like`.

    Raises:
        InputError: no answer, or other answers than those of `like`: how many, and some of them.
    """
    files = ", ".join(map(str, source))
    if like is None:
        return AnswerMap(sorted(answers), source=files)
    wanted = AnswerMap.from_files(None, like)
    missing, more = set(wanted.names) - answers, answers - set(wanted.names)
    if missing or more:
        raise InputError(
            f"{like}: its {len(wanted):,} answers are not the {len(answers):,} of {files}: "
            f"{_some(missing)} only in the list, {_some(more)} only in the files"
        )
    return wanted


def _some(answers: set[str]) -> str:
    shown = ", ".join(ascii(answer)[:40] for answer in sorted(answers)[:5])
    return f"{len(answers):,}" + (f" ({shown}{', ...' if len(answers) > 5 else ''})" if answers else "")
