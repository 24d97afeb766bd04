"""The one exception that means "the input is wrong, not the program"."""

from __future__ import annotations


class InputError(ValueError):
    """A mistake in what the user gave: a file, a row, a key, a shape, a setting.

    The message is one line that names the place, what was found and what was wanted. The
    command line prints it alone and leaves with exit code 2; a library user sees a `ValueError`.
    """
