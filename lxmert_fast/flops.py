"""FLOPs of the exact execution plan by the sizes of a batch, and the peaks of devices.

Model FLOPs utilisation is `TRAINING * forward_flops(...)` over seconds and over `device_peak(...)`. Only
matrix products count, a multiplication and an addition as two; the rest is memory traffic. What the plan
does not compute (`execution.py`) does not count either: a faster run on fewer FLOPs is no better utilised.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from transformers import LxmertConfig

#: Forward and backward by forward: a product has two products as its gradients. By custom no more is counted
#: where checkpointing computes a layer twice.
TRAINING = 3


class BatchSizes(NamedTuple):
    """What FLOPs and activations follow from; means over many batches will do.

    Attributes:
        pairs: B.
        tokens: N, kept positions of all distinct texts.
        images: I, distinct images.
        objects: O, regions an image.
        pair_tokens: kept positions of all pairs; None where no text is shared.
        words: masked words, which the language-model head scores.
        regions: by object head ("obj", "attr", "feat") the regions that it scores; None without these heads.
        answered: pairs that the answer head scores.
    """

    pairs: float
    tokens: float
    images: float
    objects: float
    pair_tokens: float | None = None
    words: float = 0
    regions: Mapping[str, float] | None = None
    answered: float = 0

    @property
    def image_rows(self) -> float:
        """Regions of all distinct images."""
        return self.images * self.objects

    @property
    def text_rows(self) -> float:
        """Kept positions of the texts of all pairs."""
        return self.tokens if self.pair_tokens is None else self.pair_tokens

    @property
    def object_rows(self) -> float:
        """Regions of the images of all pairs."""
        return self.pairs * self.objects

    @property
    def length(self) -> float:
        """Mean tokens of a text."""
        return self.text_rows / self.pairs

    @property
    def read_words(self) -> float:
        """Text rows that leave the last layer: masked words, and position 0 of every pair."""
        return self.words + self.pairs

    @property
    def read_regions(self) -> float:
        """Object rows that leave it: those of the head that reads most, which reads the others' too."""
        return max(self.regions.values()) if self.regions else 0


def forward_flops(
    config: LxmertConfig,
    pairs: float,
    tokens: float,
    images: float,
    objects: float,
    pair_tokens: float | None = None,
    words: float = 0,
    regions: Mapping[str, float] | None = None,
    answered: float = 0,
) -> float:
    """FLOPs of a forward pass; the arguments are those of `BatchSizes`, so `forward_flops(config, *sizes)`.

    With n rows, H hidden, F intermediate and k keys a row, a layer of one stream costs

        8 n H^2  (query, key, value, output)  +  4 n k H  (scores, weighted sum)  +  4 n H F

    A cross-modality layer is the first two for cross attention, both streams' rows under one set of weights,
    then such a layer for each stream. The last one projects queries of the rows that are read alone.

    The keys of a text are counted as if all were of the mean length. Attention over their own text is less
    than 0.3 % of a batch, so what the lengths' spread adds to it does not show.

    Returns:
        FLOPs, a float because sizes may be means.
    """
    size = BatchSizes(pairs, tokens, images, objects, pair_tokens, words, regions, answered)
    hidden, inner = config.hidden_size, config.intermediate_size

    def products(rows: float, width: int = hidden, out: int = hidden, count: int = 1) -> float:
        return 2 * rows * width * out * count

    def attention(queries: float, keys: float) -> float:
        return 4 * queries * keys * hidden

    def feed_forward(rows: float) -> float:
        return products(rows, hidden, inner, 2)

    def layer(rows: float, keys: float) -> float:
        return products(rows, count=4) + attention(rows, keys) + feed_forward(rows)

    def reading(readers: float, rows: float, keys: float) -> float:
        asked = products(readers, count=2) + products(rows, count=2)
        return asked + attention(readers, keys) + feed_forward(readers)

    total = products(size.image_rows, config.visual_feat_dim + config.visual_pos_dim)
    total += config.l_layers * layer(size.tokens, size.length)
    total += config.r_layers * layer(size.image_rows, size.objects)
    text, boxes = size.text_rows, size.object_rows
    for number in range(config.x_layers):
        text_in, boxes_in = (text, boxes) if number else (size.tokens, size.image_rows)
        meeting = attention(text, size.objects)
        if number < config.x_layers - 1 or size.read_regions:
            total += products(text_in + boxes_in, count=3) + products(text + boxes) + 2 * meeting
        else:
            total += products(text_in) + products(boxes_in, count=2) + products(text) + meeting
        if number < config.x_layers - 1:
            total += layer(text, size.length) + layer(boxes, size.objects)
            continue
        total += reading(size.read_words, text, size.length)
        if size.read_regions:
            total += reading(size.read_regions, boxes, size.objects)
    total += products(pairs)
    if words or regions:
        total += products(pairs, out=2)
    total += products(words) + products(words, out=config.vocab_size)
    total += products(size.read_regions)
    for head, rows in (regions or {}).items():
        total += products(rows, out=head_width(config, head))
    total += products(answered, out=2 * hidden) + products(answered, 2 * hidden, config.num_qa_labels)
    return total


def head_width(config: LxmertConfig, head: str) -> int:
    """Classes, or features, that an object head predicts."""
    widths = {"obj": "num_object_labels", "attr": "num_attr_labels", "feat": "visual_feat_dim"}
    return getattr(config, widths[head])


#: What a device's name holds, most specific first, and its dense FLOP a second.
_PEAKS: tuple[tuple[str, float], ...] = (
    (r"GB200", 2500e12),
    (r"B200", 2250e12),
    (r"H200", 989e12),
    (r"GH200", 989e12),
    (r"H100.*PCIE", 756e12),
    (r"H100.*NVL", 835e12),
    (r"H100", 989e12),
    (r"A100", 312e12),
    (r"A40\b", 149.7e12),
    (r"A30\b", 165e12),
    (r"A10\b", 125e12),
    (r"L40S", 362e12),
    (r"L4\b", 121e12),
    (r"V100.*PCIE", 112e12),
    (r"V100", 125e12),
    (r"\bT4\b", 65e12),
)


def device_peak(name: str) -> float | None:
    """Dense FLOP a second of half-precision matrix products with fp32 sums; None for an unknown device.

    bf16, and fp16 on V100 and T4, which have no bf16. From NVIDIA's data sheets of these products; where a
    sheet gives the figure with sparsity, half of it. A bare "H100" is the SXM board, as is a bare "V100".

    Args:
        name: as `torch.cuda.get_device_name()` gives it, or short: "NVIDIA A100-SXM4-80GB", "A100-80".
    """
    for pattern, peak in _PEAKS:
        if re.search(pattern, name.upper()):
            return peak
    return None
