"""LXMERT rebuilt for speed: the same parameters, the same numbers, less work.

Names are imported on first use, so that `lxmert-fast --help` does not wait for PyTorch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "LxmertModel": "modeling",
    "LxmertForPreTraining": "models",
    "LxmertForQuestionAnswering": "models",
    "LxmertForImagePairs": "models",
    "LxmertConfig": "models",
    "InputError": "errors",
    "RegionStore": "data.regions",
    "TextEncoder": "data.text",
    "from_airsplay": "checkpoint",
    "save_airsplay": "checkpoint",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
