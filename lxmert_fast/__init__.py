"""LXMERT rebuilt for speed: the same parameters, the same numbers, less work.

Names are imported on first use, so that `lxmert-fast --help` does not wait for PyTorch.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

# A wheel holds kernels/, train/ and bench/ inside this package. In a checkout they are root folders, and
# an editable install finds no namespace package inside a regular one (setuptools 84): look there.
_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "setup.py").is_file() and (_ROOT / "kernels").is_dir():
    __path__.append(str(_ROOT))

_HOMES = {
    "Answerer": "answering",
    "accelerate": "swap",
    "compile_model": "compiled",
    "quantize": "int8",
    "GraphRunner": "graphs",
    "forget_joined_weights": "dense",
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
