"""Weights and configurations on disk, read without running anything and with one line for what is wrong."""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import LxmertConfig

from .errors import InputError

SUFFIXES = ("", ".pth", "_LXRT.pth")
"""What may follow the path a user gives: the original's flags take paths without these."""


def candidates(path: str | Path) -> list[Path]:
    """Where a file of the original may lie that a user calls `path`."""
    return [Path(f"{path}{suffix}") for suffix in SUFFIXES]


def find_file(path: str | Path) -> Path:
    """The file a user means: `path` itself, or else `path.pth` or `path_LXRT.pth`.

    Raises:
        InputError: none of them is a file, or both of the last two are.
    """
    found = [file for file in candidates(path) if file.is_file()]
    if len(found) > 1 and found[0] != Path(path):
        raise InputError(f"{path}: both {found[0]} and {found[1]} are there, name one of them")
    if found:
        return found[0]
    if Path(path).is_dir():
        raise InputError(f"{path}: a folder, wanted a .pth file of the original implementation")
    raise InputError(f"{path}: no such file, nor with {' or '.join(SUFFIXES[1:])} after it")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The dictionary of tensors in a PyTorch file, on the CPU; nothing in the file is executed.

    Raises:
        InputError: not a PyTorch file, damaged, carrying code, or holding something else.
    """
    if file.stat().st_size == 0:
        raise InputError(f"{file}: empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's about pickle protocols; the error below says more
            # mapped, not read: a 900 MB file then needs no second 900 MB while it is copied into a model
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a damaged pickle can raise nearly anything
        found = re.search(r"GLOBAL ([\w.]+)|[Cc]an only .* ([\w.]+) ", str(error))
        if found or "Unsupported operand" in str(error):
            named = next(filter(None, found.groups()), "") if found else ""
            raise InputError(
                f"{file}: carries code ({named or 'an unknown operation'}), which is never run; "
                "wanted a dictionary of tensors"
            ) from None
        reason = f"{type(error).__name__}: {' '.join(str(error).split()).split('. ')[0][:160]}"
        raise InputError(f"{file}: not a PyTorch file, or damaged ({reason})") from None
    if not isinstance(content, Mapping):
        raise InputError(f"{file}: holds a {type(content).__name__}, wanted a dictionary of tensors")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(f"{file}: entry {key!r} is a {type(value).__name__}, wanted tensors only")
    if not content:
        raise InputError(f"{file}: holds no tensors")
    return dict(content)


def read_config(folder: Path) -> LxmertConfig:
    """`config.json` of a model folder.

    Raises:
        InputError: not JSON, another kind of model, a value of the wrong type.
    """
    file = folder / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        kind = content.get("model_type")
        if kind != "lxmert":
            raise InputError(f"{file}: model_type is {kind!r}, wanted 'lxmert'")
        return LxmertConfig.from_dict(content)
    except InputError:
        raise
    except Exception as error:  # the configuration's own checks have exceptions of their own
        raise InputError(f"{file}: {' '.join(str(error).split())[:160]}") from None


def read_folder(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model folder: `model*.safetensors` (one or several), else `pytorch_model*.bin`.

    Raises:
        InputError: none there, or damaged.
    """
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise InputError(f"{folder}: no weights in it, looked for model.safetensors and pytorch_model.bin")
    state: dict[str, Tensor] = {}
    for file in files:
        try:
            state |= read_tensors(file) if file.suffix == ".bin" else load_file(file)
        except (SafetensorError, OSError) as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(f"{file}: not a safetensors file, or damaged ({reason})") from None
    return state
