"""Configuration files: where they lie, which ship, and how one goes on top of another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lxmert_fast.errors import InputError

CONFIGS = Path(__file__).parent / "configs"
"""The files that ship with the package: a task's whole configuration, or a few keys to put on top of one."""

Tree = dict[str, Any]


def read_config(files: Sequence[Path]) -> Tree:
    """A configuration with others on top of it, key by key, a later file above an earlier one.

    Raises:
        InputError: a file that is not YAML, or holds no sections.
    """
    tree: Tree = {}
    for path in files:
        tree = merged(tree, _read(path))
    return tree


def find_config(source: str | Path, *, whole: bool) -> Path:
    """The file that a path or a short name means; a path that exists wins.

    Args:
        whole: whether the line about an unknown name lists whole configurations, or those to put on top.

    Raises:
        InputError: neither a file nor the name of one that ships.
    """
    path = Path(source)
    if path.is_file():
        return path
    shipped = CONFIGS / f"{source}.yaml"
    if path.name == str(source) and shipped.is_file():
        return shipped
    names = ", ".join(shipped_names(whole=whole))
    raise InputError(f"{source}: no such configuration file, nor one that ships: {names}")


def shipped_names(*, whole: bool) -> list[str]:
    """Short names of the files that ship: of whole configurations, or of those that go on top of one."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml") if ("task" in _read(path)) is whole)


def quoted(path: Path) -> str:
    """A path as a YAML string for an override, whatever characters its folders have."""
    return yaml.safe_dump(str(path), default_style='"').rstrip("\n")


def merged(below: Tree, above: Tree) -> Tree:
    """Sections are merged; any other value, a list too, stands for the one below."""
    tree = dict(below)
    for key, value in above.items():
        held = tree.get(key)
        tree[key] = merged(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
    return tree


def _read(path: Path) -> Tree:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: holds {type(tree).__name__}, wanted sections such as data, model, run")
    return tree
