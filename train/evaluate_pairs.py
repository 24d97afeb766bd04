"""NLVR2: what a model says of a file of sentences about two images, its scores, and the prediction file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedModel

from lxmert_fast.answering import open_pair_folder
from lxmert_fast.commands.progress import progress
from lxmert_fast.data.nlvr2 import Nlvr2Dataset
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.sharing import Runs
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_text, writing
from lxmert_fast.inputs import check_fits
from lxmert_fast.metrics.nlvr import NlvrScores, score
from lxmert_fast.metrics.prediction_files import prepare_output

from .engine import pick_device
from .ranks import Ranks
from .ready import ready
from .streaming import best_answers, grouped_batches


def judge_pairs(
    model: PreTrainedModel,
    dataset: Nlvr2Dataset,
    *,
    batch_size: int = 256,
    workers: int = 0,
    advance: Callable[[int], None] = lambda _: None,
    ranks: Ranks | None = None,
) -> np.ndarray:
    """Run a model of image pairs over a data set, without dropout.

    Examples of a set of images are judged together, so that its sentences and images are encoded once.
    Several `ranks` share the examples, `batch_size` of them at a time, and all return all of them.

    Returns:
        (N,) bool in the data set's order: whether the sentence is true.
    """
    ranks = ranks or Ranks()
    batches = grouped_batches(Runs(dataset.sets), batch_size, ranks)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for batch, best in best_answers(model, dataset, batches, scores="logits", workers=workers):
        found.append((batch.extras["rows"], best == 1))
        advance(len(best))
    true = np.empty(len(dataset), bool)
    for rows, of_rank in (part for parts in ranks.gather(found) for part in parts):
        true[rows] = of_rank
    return true


def evaluate_pairs(
    model_folder: Path,
    pairs: Path,
    regions: list[Path],
    *,
    batch_size: int = 256,
    device: str = "auto",
    compiled: bool = False,
    int8: bool = False,
    workers: int = 0,
) -> dict[str, NlvrScores]:
    """Score a fine-tuned model folder on a labelled file: {"all": ...}.

    Raises:
        InputError: a file is missing or wrong, or has no labels.
    """
    loaded = _load(model_folder, device, compiled, int8)
    dataset, true = _judge_files(loaded, pairs, regions, batch_size, workers, scored=True)
    return {"all": score(dataset.groups, true == dataset.labels)}


def predict_pairs(
    model_folder: Path,
    pairs: Path,
    out: Path,
    regions: list[Path],
    *,
    batch_size: int = 256,
    device: str = "auto",
    compiled: bool = False,
    int8: bool = False,
    workers: int = 0,
) -> int:
    """Judge a file into `out`, the CSV of the official script (`metrics/nlvr.py`), written whole.

    Returns:
        The number of predictions.

    Raises:
        InputError: a file is missing or wrong, or `out` can't be written.
    """
    prepare_output(out)
    loaded = _load(model_folder, device, compiled, int8)
    dataset, true = _judge_files(loaded, pairs, regions, batch_size, workers, scored=False)
    lines = (f"{name},{bool(one)}\n" for name, one in zip(dataset.identifiers, true, strict=True))
    with writing(out):
        replace_text(out, "".join(lines))
    return len(dataset)


class _Loaded(NamedTuple):
    """A model folder, ready to judge."""

    folder: Path
    model: PreTrainedModel
    text: TextEncoder


def _load(folder: Path, device: str, compiled: bool, int8: bool) -> _Loaded:
    model, text = open_pair_folder(folder)
    return _Loaded(folder, ready(model, pick_device(device), compiled=compiled, int8=int8), text)


def _judge_files(
    loaded: _Loaded, pairs: Path, regions: list[Path], batch_size: int, workers: int, *, scored: bool
) -> tuple[Nlvr2Dataset, np.ndarray]:
    with RegionStore(*regions) as store:
        check_fits(loaded.model.config, loaded.text, store, loaded.folder)
        dataset = Nlvr2Dataset(pairs, store, loaded.text)
        if scored and not dataset.labelled:
            raise InputError(f"{pairs}: no labels, nothing can be scored; use `lxmert-fast predict`")
        with progress(pairs.name, len(dataset), "examples") as advance:
            true = judge_pairs(loaded.model, dataset, batch_size=batch_size, workers=workers, advance=advance)
    return dataset, true
