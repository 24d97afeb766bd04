"""Fixtures every room shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent

# Triton reads the variable once, when it is imported: those tests have a process of their own
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpret"]


def shared_folder() -> Path:
    """Where the project's shared material lies: `LXMERT_FAST_SHARED`, else `../shared` beside the repo."""
    return Path(os.environ.get("LXMERT_FAST_SHARED", REPO.parent / "shared"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """`shared/data`: real data that a user does not have; tests that need it skip and say so."""
    folder = shared_folder() / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the project's shared data, looked for {folder} (set LXMERT_FAST_SHARED)")
    return folder


@pytest.fixture(scope="session")
def golden_file() -> Path:
    """Numbers from the original implementation (`shared/golden/original_tiny.safetensors`)."""
    file = shared_folder() / "golden" / "original_tiny.safetensors"
    if not file.is_file():
        pytest.skip(f"needs the original's golden numbers, looked for {file} (set LXMERT_FAST_SHARED)")
    return file
