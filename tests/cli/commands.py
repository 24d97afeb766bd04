"""`lxmert-fast` called in this process: what a process of its own would print, and its exit code.

A process of its own imports PyTorch and transformers first, which takes longer than most commands do.
"""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from subprocess import CompletedProcess
from unittest.mock import patch

from lxmert_fast import cli


def call(*arguments: object) -> CompletedProcess[str]:
    """The command with these arguments, ended as `main` ends it."""
    words = ["lxmert-fast", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    with patch.object(sys, "argv", words), redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return CompletedProcess(words, code, out.getvalue(), err.getvalue())
