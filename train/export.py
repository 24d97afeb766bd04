"""A model out of a checkpoint, whatever ranks and stage wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LxmertConfig, PreTrainedModel

from lxmert_fast import models
from lxmert_fast.answering import LABEL2ANS, VOCABULARY
from lxmert_fast.checkpoint import save_airsplay, save_folder
from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_text

from .checkpoints import MANIFEST, Checkpoint, CheckpointFolder, open_checkpoint
from .shard_reader import ShardReader


def export(source: Path, out: Path) -> Checkpoint:
    """Write the fp32 weights of a checkpoint as a stock file.

    Args:
        source: a checkpoint (`step_00000200`), or a run or its `checkpoints`, for the newest one.
        out: NAME.pth for the original's format; anything else is a Hugging Face folder, with the run's
            vocabulary and answers where it had some.

    Raises:
        InputError: no checkpoint, a damaged one, or one without a description of its model.
    """
    checkpoint = find(source)
    problem = checkpoint.damage(sorted(checkpoint.manifest["files"]))
    if problem:
        raise InputError(problem)
    state = checkpoint.run_state()
    about = state["client_state"].get("model") or {}
    if not about:
        raise InputError(f"{checkpoint.folder}: does not say what model it is of")
    model = read_model(checkpoint, state, about)
    if out.suffix == ".pth":
        save_airsplay(model, out)
        return checkpoint
    save_folder(model, out)
    if about["vocabulary"]:
        text = about["vocabulary"]
        replace_text(out / VOCABULARY, text)
    if about["answers"] and not (out / LABEL2ANS).exists():
        AnswerMap(about["answers"]).save(out)
    return checkpoint


def find(source: Path) -> Checkpoint:
    """The checkpoint that a path means.

    Raises:
        InputError: there is none.
    """
    if (source / MANIFEST).is_file():
        return open_checkpoint(source)
    for folder in (source, source / "checkpoints"):
        newest = CheckpointFolder(folder).newest()
        if newest is not None:
            return newest
    raise InputError(f"{source}: neither a checkpoint nor a run that has one")


def read_model(checkpoint: Checkpoint, state: dict[str, Any], about: dict[str, Any]) -> PreTrainedModel:
    """The model with its weights, on the CPU."""
    model = getattr(models, about["class"])(LxmertConfig.from_dict(about["config"]))
    reader = ShardReader(checkpoint)
    frozen = reader.own(0, "frozen")
    shapes = state["shapes"]
    weights = {name: reader.whole(name, shapes[name]) for name in reader.names()}
    weights |= {name: x.reshape(state["frozen"][name]) for name, x in frozen.items()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name not in weights:
                raise InputError(f"{checkpoint.folder}: lacks {name}")
            parameter.copy_(weights[name])
    return model.eval()
