"""What the launcher starts: `deepspeed train/pretrain.py --config CONFIG section.key=value ...`.

The same as `lxmert-fast pretrain CONFIG section.key=value ...`, once on every rank.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its modules would stand in for packages of the same names
    from lxmert_fast.cli import from_launcher

    from_launcher("pretrain")
