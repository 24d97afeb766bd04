"""How fast pre-training examples leave the loader, and what the original's way of masking words would cost.

    pytest bench/test_loader.py

Two workers read a region file that is in the page cache: 36 regions x 2,048 float16 an image, batches of 256,
with everything that pre-training does to an example (words and objects hidden, sentences replaced, answers
drawn). On two otherwise idle cores it must reach 2,000 examples a second.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.data import DataLoader

from lxmert_fast.bench.synthetic import (
    ANSWERS,
    FEATURES,
    OBJECTS,
    WORDS,
    write_examples,
    write_regions,
    write_vocabulary,
)
from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.data.batches import Batch, EpochBatches, make_loader
from lxmert_fast.data.examples import Examples, read_examples
from lxmert_fast.data.masking import WORD_DRAWS, mask_words
from lxmert_fast.data.pretraining import PretrainingDataset
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.sharing import Runs
from lxmert_fast.data.text import SPECIAL_TOKENS, TextEncoder

IMAGES, SENTENCES, BATCH = 4000, 12, 256
WARM_UP, MEASURED = 10, 120
WANTED = 2000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegionStore]:
    """590 MB, written just before it is read, so in the page cache."""
    path = tmp_path_factory.mktemp("regions") / "regions.h5"
    yield write_regions(path, IMAGES)
    path.unlink()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return write_vocabulary(tmp_path_factory.mktemp("text") / "vocab.txt")


@pytest.fixture(scope="module")
def examples(store: RegionStore, text: TextEncoder, tmp_path_factory: pytest.TempPathFactory) -> Examples:
    """48,000 sentences, half of them questions with two answers."""
    path = write_examples(tmp_path_factory.mktemp("examples") / "examples.json", store.image_ids, SENTENCES)
    return read_examples([path], store, text, AnswerMap(ANSWERS))


class Tally:
    """Checks each batch as a training step would see it, and counts what the rates are made of."""

    def __init__(self) -> None:
        self.pairs = self.matched = self.answered = self.words = self.hidden_words = self.hidden_objects = 0

    def add(self, batch: Batch) -> None:
        inputs = batch.inputs
        assert inputs["visual_feats"].shape == (BATCH, OBJECTS, FEATURES)
        assert inputs["visual_feats"].dtype == torch.float16
        target, hidden = inputs["obj_labels"]["feat"]
        assert target.shape == inputs["visual_feats"].shape
        assert inputs["visual_pos"].shape == (BATCH, OBJECTS, 4)
        self.pairs += BATCH
        self.matched += int(inputs["matched_label"].sum())
        self.answered += int((inputs["ans"] >= 0).sum())
        self.words += int(inputs["attention_mask"].sum()) - 2 * BATCH
        self.hidden_words += int((inputs["labels"] >= 0).sum())
        self.hidden_objects += int(hidden.sum())
        # One page in eight of both, so that the features have arrived and not only their address.
        assert torch.isfinite(inputs["visual_feats"][:, ::4, ::1024].sum() + target[:, ::4, ::1024].sum())

    def check(self) -> None:
        assert self.matched / self.pairs == pytest.approx(0.5, abs=0.02)
        assert self.answered / self.matched == pytest.approx(0.5, abs=0.02)
        assert self.hidden_words / self.words == pytest.approx(0.15, abs=0.005)
        assert self.hidden_objects / (self.pairs * OBJECTS) == pytest.approx(0.15, abs=0.002)


def test_examples_a_second(
    benchmark: BenchmarkFixture, store: RegionStore, text: TextEncoder, examples: Examples
) -> None:
    dataset = PretrainingDataset(examples, store, text, seed=0)
    loader: DataLoader = make_loader(dataset, EpochBatches(len(dataset), BATCH, seed=0), num_workers=2)
    tally = Tally()

    def batches() -> tuple[tuple[Iterator[Batch]], dict]:
        stream = iter(loader)
        for batch in islice(stream, WARM_UP):
            tally.add(batch)
        return (stream,), {}

    def consume(stream: Iterator[Batch]) -> None:
        for batch in islice(stream, MEASURED):
            tally.add(batch)

    benchmark.pedantic(consume, setup=batches, rounds=3)
    tally.check()
    assert benchmark.stats is not None
    rate = MEASURED * BATCH / benchmark.stats.stats.min
    benchmark.extra_info["examples_a_second"] = round(rate)
    benchmark.extra_info["workers"] = 2
    print(f"\n{rate:,.0f} examples a second")
    assert rate >= WANTED


def test_order_of_an_epoch(benchmark: BenchmarkFixture) -> None:
    """The paper's 9.18 million sentences of 180,000 images, four of an image together: once an epoch."""
    images = np.random.default_rng(0).integers(180_000, size=9_180_000).astype(np.int32)
    batches = EpochBatches(len(images), BATCH, seed=0, runs=Runs(images, 4))
    first = benchmark.pedantic(lambda: next(iter(batches)), rounds=3)
    assert len(np.unique(images[first.rows])) < BATCH / 3


def mask_words_word_by_word(
    sentences: list[list[int]], rate: float, mask_id: int, vocabulary: dict[str, int]
) -> tuple[list[list[int]], list[list[int]]]:
    """The counter-example: one decision a word in Python, and a list of the vocabulary a random word."""
    masked, labels = [], []
    for sentence in sentences:
        changed, wanted = [], []
        for token in sentence:
            draw = random.random()
            wanted.append(token if draw < rate else -100)
            if draw < 0.8 * rate:
                changed.append(mask_id)
            elif draw < 0.9 * rate:
                changed.append(random.choice(list(vocabulary.items()))[1])
            else:
                changed.append(token)
        masked.append(changed)
        labels.append(wanted)
    return masked, labels


def test_masking_words(benchmark: BenchmarkFixture, text: TextEncoder, examples: Examples) -> None:
    rows = np.arange(4 * BATCH)
    ids, real = examples.sentences.padded(rows, text.max_length)
    inner = real & (np.arange(text.max_length) > 0) & (np.roll(real, -1, axis=1))
    rng = np.random.default_rng(2)

    def vectorised() -> tuple[np.ndarray, np.ndarray]:
        uniform = rng.random((*ids.shape, WORD_DRAWS))
        return mask_words(ids, inner, uniform, rate=0.15, mask_id=text.mask_id, vocab_size=text.vocab_size)

    _, labels = benchmark(vectorised)
    assert (labels >= 0).sum() / inner.sum() == pytest.approx(0.15, abs=0.02)

    vocabulary = {word: number for number, word in enumerate([*SPECIAL_TOKENS, *WORDS])}
    sentences = [examples.sentences[int(row)][1:-1].tolist() for row in rows]
    random.seed(0)
    began = time.perf_counter()
    _, naive = mask_words_word_by_word(sentences, 0.15, text.mask_id, vocabulary)
    seconds = time.perf_counter() - began
    assert sum(label >= 0 for row in naive for label in row) / inner.sum() == pytest.approx(0.15, abs=0.02)

    assert benchmark.stats is not None
    ratio = seconds / benchmark.stats.stats.min
    benchmark.extra_info["word_by_word_seconds"] = seconds
    benchmark.extra_info["times_faster_than_word_by_word"] = round(ratio)
    benchmark.extra_info["word_by_word_examples_a_second"] = round(len(rows) / seconds)
    print(f"\n{ratio:,.0f} times as fast as word by word ({len(rows) / seconds:,.0f} examples a second)")
    assert ratio > 10
