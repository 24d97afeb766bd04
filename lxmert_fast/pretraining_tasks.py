"""The tasks of pre-training (section 3.1) by name, and the model's configuration for some of them.

The original crashes where a visual loss is left out (reference 1.6); here any of the tasks may be.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, TypeAlias

TaskName: TypeAlias = Literal["mask_lm", "matched", "obj", "attr", "feat", "qa"]

OBJECT_TASKS: tuple[TaskName, ...] = ("obj", "attr", "feat")
"""Of masked object prediction: detected label, detected attribute, feature regression."""

TASKS: tuple[TaskName, ...] = ("mask_lm", "matched", *OBJECT_TASKS, "qa")
"""Beside them masked language modelling, cross-modality matching and image question answering."""


def task_flags(tasks: Collection[str]) -> dict[str, Any]:
    """Arguments of `LxmertConfig` for a model of these tasks alone."""
    return {
        "task_mask_lm": "mask_lm" in tasks,
        "task_matched": "matched" in tasks,
        "task_obj_predict": any(name in tasks for name in OBJECT_TASKS),
        "task_qa": "qa" in tasks,
        **{f"visual_{name}_loss": name in tasks for name in OBJECT_TASKS},
    }
