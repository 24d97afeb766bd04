"""What is timed: batches with the shapes of real data, one for this library and one for Hugging Face.

Each workload has the text lengths of its data set (`histograms.json`, counted by `count_texts.py`) and its
number of sentences an image. Ids, regions and labels are random: speed depends on shapes alone. The lengths
of a batch are the quantiles of the histogram in random order, so a batch of any size has the data's mean.

The two batches mean the same. Ours is what the collator makes: texts as long as the longest, an image once
for all its sentences, a repeated text once. Hugging Face's is what its users run and the original's code
makes: texts padded to 20, one image a row. Shape letters are those of `modeling.py`; B counts pairs of a
sentence and an image, so an NLVR2 example is two.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import LxmertConfig

from lxmert_fast.bench.count_texts import mean
from lxmert_fast.bench.labels import hide_objects, hide_words, match_and_answer
from lxmert_fast.errors import InputError

T, O = 20, 36  # noqa: E741 (the shape letter of the design)
HISTOGRAMS: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("histograms.json").read_text(encoding="utf-8")
)
CLS, SEP, MASK = 101, 102, 103

Task = Literal["answers", "image_pairs", "pretraining"]


@dataclass(frozen=True)
class Workload:
    """A kind of batch; `batches` draws it."""

    name: str
    texts: str
    """Key of the histogram."""
    task: Task
    pairs: int
    """B."""
    per_image: float
    """Sentences an image."""
    num_answers: int = 9500

    def sized(self, pairs: int | None = None, per_image: float | None = None) -> Workload:
        """The same kind with another B or another number of sentences an image (None: as it is).

        Raises:
            InputError: no pair, an odd number of NLVR2 pairs, fewer than one sentence an image.
        """
        sized = replace(
            self,
            pairs=self.pairs if pairs is None else pairs,
            per_image=self.per_image if per_image is None else per_image,
        )
        if sized.pairs < 1 or (self.task == "image_pairs" and sized.pairs % 2):
            raise InputError(f"{self.name}: {sized.pairs} pairs, wanted 1 or more, of NLVR2 an even number")
        if sized.per_image < 1:
            raise InputError(f"{self.name}: {sized.per_image} sentences an image, wanted 1 or more")
        return sized

    @property
    def num_images(self) -> int:
        """I: distinct images in a batch. NLVR2 shows each sentence two images of its own."""
        return max(1, round(self.pairs / self.per_image))

    @property
    def num_texts(self) -> int:
        """S: distinct texts in a batch, as many as a batch of random images of the data set has.

        The data's mean is of 96 pairs; chance repeats grow with the square of the batch.
        """
        if self.task == "image_pairs":
            return self.pairs // 2
        if self.task == "pretraining":
            return self.pairs  # masking makes equal captions different
        repeats = (96 - HISTOGRAMS[self.texts]["distinct_in_96"]) * (self.pairs / 96) ** 2
        return max(1, self.pairs - round(repeats))


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("vqa", "vqa", "answers", pairs=96, per_image=5.3, num_answers=3129),
        Workload("gqa", "gqa", "answers", pairs=96, per_image=31.6, num_answers=1842),
        Workload("nlvr2", "nlvr2", "image_pairs", pairs=64, per_image=1),
        Workload("captions", "captions", "pretraining", pairs=32, per_image=1),
        Workload("captions4", "captions", "pretraining", pairs=32, per_image=4),
    )
}


def workload(name: str) -> Workload:
    """A workload by its name. Raises `InputError` where there is none."""
    if name not in WORKLOADS:
        raise InputError(f"unknown workload {name!r}, wanted one of {', '.join(WORKLOADS)}")
    return WORKLOADS[name]


#: A model that runs in milliseconds, for tests of the benchmarks themselves.
TINY: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "l_layers": 2,
    "r_layers": 1,
    "x_layers": 2,
    "visual_feat_dim": 16,
    "num_object_labels": 13,
    "num_attr_labels": 7,
}


def config_for(workload: Workload, *, tiny: bool = False) -> LxmertConfig:
    """The paper's model with the workload's number of answers, or a tiny one."""
    answers = 29 if tiny else workload.num_answers
    return LxmertConfig(num_qa_labels=answers, **(TINY if tiny else {}))


@dataclass(frozen=True)
class Batches:
    """One batch, twice; both are keyword arguments of a model's forward."""

    ours: dict[str, Any]
    huggingface: dict[str, Any]
    pairs: int


def batches(workload: Workload, config: LxmertConfig, *, seed: int = 0, labels: bool = False) -> Batches:
    """Draw a batch. The same arguments give the same numbers.

    Args:
        labels: with those of the task, for a training step; NLVR2's are always there (its reference wants
            them).

    Returns:
        ours: input_ids, attention_mask (S, T'), visual_feats (I, 36, F), visual_pos (I, 36, 4), and
            image_index (B,) where an image has several sentences, text_index (B,) where a text repeats.
        huggingface: input_ids, attention_mask (B, 20), visual_feats (B, 36, F), visual_pos (B, 36, 4).
        NLVR2 has B/2 sentences and images (B/2, 2, 36, F) in both.
    """
    rng = np.random.default_rng(seed)
    ids, real = _texts(workload, config, rng)
    features, boxes = _regions(workload.num_images, config, rng)
    if workload.task == "image_pairs":
        images = {
            "visual_feats": torch.from_numpy(features).unflatten(0, (-1, 2)),
            "visual_pos": torch.from_numpy(boxes).unflatten(0, (-1, 2)),
            "labels": torch.from_numpy(rng.integers(2, size=workload.pairs // 2)),
        }
        return Batches(_trimmed(ids, real) | images, _padded(ids, real) | images, workload.pairs)

    text_index = _spread(workload.num_texts, workload.pairs)
    image_index = _spread(workload.num_images, workload.pairs)
    ours_only: dict[str, Any] = {}
    both: dict[str, Any] = {}
    if labels and workload.task == "pretraining":
        inner = real & (np.arange(T) > 0) & (ids != SEP)
        ids, words = hide_words(ids, inner, MASK, config, rng)
        # an image is masked once for all its sentences; its labels are wanted for each of them
        features, objects = hide_objects(features, config, rng)
        per_pair = {name: (x[image_index], y[image_index]) for name, (x, y) in objects.items()}
        both = match_and_answer(workload.pairs, config, rng) | {"labels": words, "obj_labels": per_pair}
        ours_only["labels"] = words[:, : int(real.sum(1).max())].contiguous()
    elif labels:
        both["labels"] = torch.from_numpy(rng.integers(config.num_qa_labels, size=workload.pairs))
    if workload.num_images < workload.pairs:
        ours_only["image_index"] = image_index
    if workload.num_texts < workload.pairs:
        ours_only["text_index"] = text_index
    images = {"visual_feats": torch.from_numpy(features), "visual_pos": torch.from_numpy(boxes)}
    repeated = {name: tensor[text_index] for name, tensor in _padded(ids, real).items()}
    repeated |= {name: tensor[image_index] for name, tensor in images.items()}
    return Batches(_trimmed(ids, real) | images | both | ours_only, repeated | both, workload.pairs)


def text_lengths(workload: Workload) -> np.ndarray:
    """(S,) tokens of each text: the histogram's quantiles, sorted."""
    counts = np.asarray(HISTOGRAMS[workload.texts]["lengths"])
    shares = (np.arange(workload.num_texts) + 0.5) / workload.num_texts
    return np.searchsorted(np.cumsum(counts) / counts.sum(), shares)


def mean_length(workload: Workload) -> float:
    """Mean tokens of the data set's texts."""
    return mean(HISTOGRAMS[workload.texts]["lengths"])


def _texts(
    workload: Workload, config: LxmertConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Ids (S, 20) and which of them are real: [CLS], random words, [SEP], padding."""
    lengths = rng.permutation(text_lengths(workload))[:, None]
    places = np.arange(T)
    real = places < lengths
    ids = rng.integers(MASK + 1, config.vocab_size, size=real.shape)
    ids[:, 0] = CLS
    ids[places == lengths - 1] = SEP
    return np.where(real, ids, 0), real


def _regions(images: int, config: LxmertConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features (I, 36, F), not negative as a ReLU leaves them, and boxes (I, 36, 4)."""
    features = rng.standard_normal((images, O, config.visual_feat_dim), np.float32).clip(min=0)
    corners = np.sort(rng.random((images, O, 2, 2), np.float32), axis=2)
    return features, corners.reshape(images, O, 4)


def _padded(ids: np.ndarray, real: np.ndarray) -> dict[str, Tensor]:
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(real.astype(np.int64))}


def _trimmed(ids: np.ndarray, real: np.ndarray) -> dict[str, Tensor]:
    longest = int(real.sum(1).max())
    return _padded(ids[:, :longest].copy(), real[:, :longest])


def _spread(distinct: int, pairs: int) -> Tensor:
    """(B,) which of `distinct` things each pair has: neighbours share, as evenly as can be."""
    return torch.arange(pairs) * distinct // pairs
