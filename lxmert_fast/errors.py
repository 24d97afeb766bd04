"""The two exceptions that are for people: one line each, no traceback on the command line."""

from __future__ import annotations


class InputError(ValueError):
    """A mistake in what the user gave: a file, a row, a key, a shape, a setting.

    The message is one line that names the place, what was found and what was wanted. The
    command line prints it alone and leaves with exit code 2; a library user sees a `ValueError`.
    """


class Diverged(RuntimeError):
    """A loss or a gradient stopped being a number.

    The message names the update, the examples of its batch and the checkpoint to go back to. The command
    line prints it alone and leaves with exit code 1.
    """


class RanksLost(RuntimeError):
    """Another process of the run is gone or does not answer.

    The command line prints the message alone and leaves with exit code 3; whoever supervises the run may
    start it again.
    """
