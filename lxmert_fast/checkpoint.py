"""Checkpoints in and out: Hugging Face folders and the original's `.pth` files."""

from __future__ import annotations

import os
import shutil
from collections import OrderedDict
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import LxmertConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from .airsplay import huggingface_names, infer_class, infer_config, original_names
from .answer_rows import AnswerRows, load_answer_rows
from .errors import InputError
from .files import save_tensors
from .loading import LoadSummary, check, compare, load_into
from .modeling import LxmertModel
from .models import LxmertForImagePairs, LxmertForPreTraining, LxmertForQuestionAnswering
from .weight_files import candidates, find_file, read_config, read_folder, read_tensors

__all__ = [
    "ARCHITECTURES",
    "AnswerRows",
    "Checkpoint",
    "LoadSummary",
    "Opened",
    "from_airsplay",
    "load_answer_rows",
    "load_into",
    "load_model",
    "open_model",
    "read_checkpoint",
    "save_airsplay",
    "save_folder",
]

ARCHITECTURES: dict[str, type[PreTrainedModel]] = {
    model.__name__: model
    for model in (LxmertModel, LxmertForPreTraining, LxmertForQuestionAnswering, LxmertForImagePairs)
}
"""The classes that `architectures` in a `config.json` may name."""


class Checkpoint(NamedTuple):
    """A checkpoint as it lies on disk."""

    path: Path
    model_class: Any
    config: LxmertConfig
    state: dict[str, Tensor]
    """Under Hugging Face's names."""

    def skeleton(self) -> Any:
        """A model of its class and sizes without memory."""
        try:
            with torch.device("meta"):
                return self.model_class(self.config)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from None


class Opened(NamedTuple):
    """A model and what became of the entries of its file."""

    model: Any
    summary: LoadSummary


def load_model(
    path: str | Path,
    model_class: type[PreTrainedModel] | None = None,
    *,
    allow_partial: bool = False,
    num_attention_heads: int | None = None,
) -> Any:
    """Open either a Hugging Face folder or a file of the original implementation.

    Gives a `model_class` in evaluation mode, in the dtype that the folder records (a file: float32).

    Args:
        path: a folder with `config.json` and weights (safetensors, or PyTorch's older format), or what
            `from_airsplay` takes.
        model_class: by default what `architectures` in `config.json` names, or what the file holds.
        allow_partial, num_attention_heads: as for `from_airsplay`; a folder records its heads.

    Raises:
        InputError: nothing there, damaged, of other dimensions, or not fitting.
    """
    return open_model(
        path, model_class, allow_partial=allow_partial, num_attention_heads=num_attention_heads
    ).model


def open_model(
    path: str | Path,
    model_class: type[PreTrainedModel] | None = None,
    *,
    allow_partial: bool = False,
    num_attention_heads: int | None = None,
) -> Opened:
    """`load_model` with its summary."""
    return _open(read_checkpoint(path, model_class, num_attention_heads), allow_partial)


def read_checkpoint(
    path: str | Path,
    model_class: type[PreTrainedModel] | None = None,
    num_attention_heads: int | None = None,
) -> Checkpoint:
    """What `load_model` goes by: tensors, configuration and class, before anything is held against a model.

    Raises:
        InputError: nothing there, damaged, or not a checkpoint.
    """
    folder = Path(path)
    if (folder / "config.json").is_file():
        return _read_folder(folder, model_class)
    if folder.is_dir() and not any(file.is_file() for file in candidates(path)):
        raise InputError(f"{folder}: no config.json in it, wanted a model folder or a .pth file")
    return _read_airsplay(path, model_class, None, num_attention_heads)


def from_airsplay(
    path: str | Path,
    model_class: type[PreTrainedModel] | None = None,
    config: LxmertConfig | None = None,
    *,
    num_attention_heads: int | None = None,
    allow_partial: bool = False,
) -> Any:
    """Open a file of the original implementation, as `from_pretrained` opens a folder.

    Gives a `model_class` in evaluation mode. Takes every variant: pre-training and fine-tuned, one GPU and
    several (`module.`), NLVR2, BERT, with or without the tied decoder.

    Args:
        path: the file; `.pth` or `_LXRT.pth` may be left out, as for the original's flags.
        model_class: by default the one whose heads the file holds (a BERT file: `LxmertForPreTraining`).
        config: by default read off the shapes, with `visual_loss_normalizer = 1 / 0.15`; from a BERT file
            the first nine layers.
        num_attention_heads: where heads are not 64 wide; ignored with `config`.
        allow_partial: as for `load_into`; what is not in the file keeps its random initial value. BERT files
            need it.

    Raises:
        InputError: no such file, not a checkpoint, a file that carries code, or one that does not fit.
    """
    return _open(_read_airsplay(path, model_class, config, num_attention_heads), allow_partial).model


def save_airsplay(model: PreTrainedModel, path: str | Path) -> None:
    """Write a model as the original would: its names, its order, one `.pth` file, whole or not at all.

    The pre-training model becomes a `--loadLXMERT` file, a task model what `--load` takes.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    state = OrderedDict((name, tensor.cpu()) for name, tensor in original_names(model).items())
    save_tensors(path, state)


def save_folder(model: PreTrainedModel, folder: str | Path) -> None:
    """`model.save_pretrained`, each file whole or not at all; other files in the folder stay.

    Raises:
        InputError: it cannot be written.
    """
    folder = Path(folder)
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        model.save_pretrained(beside)
        folder.mkdir(exist_ok=True)
        for file in beside.iterdir():
            file.replace(folder / file.name)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: cannot be written ({' '.join(str(error).split())[:160]})") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _read_airsplay(
    path: str | Path,
    model_class: type[PreTrainedModel] | None,
    config: LxmertConfig | None,
    num_attention_heads: int | None,
) -> Checkpoint:
    file = find_file(path)
    tensors = read_tensors(file)
    try:
        state = huggingface_names(tensors)
        config = config or infer_config(state, num_attention_heads)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    return Checkpoint(file, model_class or infer_class(state), config, state)


def _read_folder(folder: Path, model_class: type[PreTrainedModel] | None) -> Checkpoint:
    config = read_config(folder)
    named = next(iter(config.architectures or ()), "")
    if model_class is None and named not in ARCHITECTURES:
        file, known = folder / "config.json", ", ".join(ARCHITECTURES)
        raise InputError(f"{file}: architectures names {named!r}, wanted one of {known}")
    state = huggingface_names(read_folder(folder))
    return Checkpoint(folder, model_class or ARCHITECTURES[named], config, state)


def _open(checkpoint: Checkpoint, allow_partial: bool) -> Opened:
    """A new model with the checkpoint in it. What does not fit is found before any memory is taken."""
    path, model_class, config, state = checkpoint
    summary = compare(checkpoint.skeleton(), state)
    check(summary, allow_partial, path)
    # random numbers that are overwritten at once take longer than the loading (228M of them: 3 s)
    with no_init_weights() if summary.complete else nullcontext():
        model = model_class(config).to(config.dtype or torch.float32)
    model.tie_weights()
    load_into(model, state, allow_partial=allow_partial, source=path)
    return Opened(model.eval(), summary)
