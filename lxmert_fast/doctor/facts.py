"""One line of the table."""

from __future__ import annotations

from typing import NamedTuple


class Fact(NamedTuple):
    """Something that was looked for.

    Attributes:
        name: what.
        found: version, size or speed as it was read; None where there is none.
        means: what then does not work, or runs how; "" where nothing follows.
    """

    name: str
    found: str | None
    means: str = ""
