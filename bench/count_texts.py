"""Counts token lengths and repeats of the real questions and sentences that workloads are drawn from.

    python -m lxmert_fast.bench.count_texts ../shared/data > bench/histograms.json

Lengths are those of BERT's WordPiece with [CLS] and [SEP], cut at 20. Texts that repeat within a batch are
counted as a batch meets them: random images are taken with all their questions until `BATCH` are there.
Only counts leave this file; the texts stay where they are.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lxmert_fast.data.text import TextEncoder

LONGEST = 20
#: Questions (or sentence-image pairs) in the batches whose distinct texts are counted, and how many batches.
BATCH, BATCHES = 96, 2000


def main(folder: Path) -> None:
    """Print the table of `histograms.json` for the texts below `folder`."""
    encoder = TextEncoder(folder / "bert_vocab" / "vocab.txt", LONGEST)
    table = {name: count(read(folder), encoder) for name, read in TEXTS.items()}
    rows = (f"{json.dumps(name)}: {json.dumps(counts)}" for name, counts in table.items())
    print("{\n" + ",\n".join(rows) + "\n}")


def count(groups: list[list[str]], encoder: TextEncoder) -> dict[str, Any]:
    """Lengths and sharing of texts that come in groups, one group an image.

    Returns:
        source counts ("texts", "images"), "lengths" (how many texts have 0, 1, ... 20 tokens), "a_group"
        (texts an image) and "distinct_in_96" (mean number of distinct texts in a batch of 96).
    """
    texts = [text for group in groups for text in group]
    lengths = np.diff(encoder.encode_ragged(texts).offsets)
    rng = random.Random(0)
    distinct = [len(set(_batch(groups, rng))) for _ in range(BATCHES)]
    return {
        "texts": len(texts),
        "images": len(groups),
        "a_group": round(len(texts) / len(groups), 3),
        "distinct_in_96": round(float(np.mean(distinct)), 2),
        "lengths": np.bincount(lengths, minlength=LONGEST + 1).tolist(),
    }


def _batch(groups: list[list[str]], rng: random.Random) -> list[str]:
    batch: list[str] = []
    while len(batch) < BATCH:
        batch += rng.choice(groups)
    return batch[:BATCH]


def _questions(name: str) -> Callable[[Path], list[list[str]]]:
    """A reader of question_id, image and question, tab-separated, grouped by image."""

    def read(folder: Path) -> list[list[str]]:
        groups: dict[str, list[str]] = defaultdict(list)
        with gzip.open(folder / "text" / name, "rt", encoding="utf-8") as lines:
            for line in lines:
                _, image, question = line.rstrip("\n").split("\t")
                groups[image].append(question)
        return list(groups.values())

    return read


def _captions(folder: Path) -> list[list[str]]:
    with gzip.open(folder / "text" / "sugarcrepe_coco_val2017.json.gz", "rt", encoding="utf-8") as file:
        return [list(captions) for captions in json.load(file).values()]


def _sentences(folder: Path) -> list[list[str]]:
    """NLVR2: each example is a sentence with two images, so two sentence-image pairs."""
    with (folder / "nlvr2" / "dev.json").open(encoding="utf-8") as lines:
        return [[json.loads(line)["sentence"]] * 2 for line in lines]


TEXTS: dict[str, Callable[[Path], list[list[str]]]] = {
    "vqa": _questions("vqa_v1_val2014_questions.tsv.gz"),
    "gqa": _questions("gqa_testdev_balanced_questions.tsv.gz"),
    "captions": _captions,
    "nlvr2": _sentences,
}


def mean(lengths: Iterable[int]) -> float:
    """Mean of a histogram."""
    counts = np.asarray(list(lengths))
    return float((counts * np.arange(len(counts))).sum() / counts.sum())


def percentile(lengths: Iterable[int], share: float) -> int:
    """The smallest length that `share` of the texts do not exceed."""
    counts = np.cumsum(list(lengths))
    return int(np.searchsorted(counts, share * counts[-1]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
