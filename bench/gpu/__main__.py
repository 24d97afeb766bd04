"""`python -m lxmert_fast.bench.gpu`: the same command as `lxmert-fast bench gpu`."""

from __future__ import annotations

import sys

from lxmert_fast import cli

if __name__ == "__main__":
    sys.argv[1:1] = ["bench", "gpu"]
    cli.main()
