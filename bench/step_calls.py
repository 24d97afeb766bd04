"""Which operators a training step calls, on which rows, how often, and the least bytes that each must move.

The rows are those of the workload's own plan: kept text positions, objects, and the pairs' rows from the
first cross-modality layer on. The last layer counts as the others do, though heads read only part of it.

The least of a call: each input once, of a table its distinct rows that are looked up, each output once. Parts
of sums that a backward pass writes and reads again are in no least.

Interpreting is slow, so a call whose programs do the same for each head, or for each stretch of columns, runs
for one of them: its bytes are `slices` times that, exactly. A `Place` that is a GPU runs every call whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LxmertConfig

from lxmert_fast.bench.workloads import Workload, batches
from lxmert_fast.execution import Inputs, Plan, Reads, make_plan
from lxmert_fast.kernels.bias_gelu import op as gelu_op
from lxmert_fast.kernels.dropout_add_layer_norm import op as norm_op
from lxmert_fast.kernels.meetings import Meetings, crossing, side_by_side, within
from lxmert_fast.kernels.rows import sum_readers
from lxmert_fast.kernels.self_attention import op as attention_op
from lxmert_fast.kernels.text_embedding import op as text_op
from lxmert_fast.kernels.visual_embedding import op as visual_op
from lxmert_fast.transfer import to_device

HALF, FLOAT, INDEX = 2, 4, 8
EPS = 1e-12
#: Columns of a gelu program; also a multiple of those of `sum_partials`.
GELU_COLUMNS = 256


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Call:
    """One operator on one kind of rows. Its bytes: `slices` times those of `run`, and those of `then`."""

    what: str
    kernel: str
    times: int
    run: Callable[[], object]
    least: int
    slices: int = 1
    then: Callable[[], object] = _nothing
    shared: bool = False


class Place(NamedTuple):
    """Where calls run. Whole ones have every head and column, and random numbers: zeros draw less power."""

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float16
    """Of two bytes."""
    whole: bool = False


#: For the interpreter.
SLICES = Place()


@dataclass(frozen=True)
class Step:
    """What all calls of a step have in common."""

    plan: Plan
    config: LxmertConfig
    seed: Tensor
    p: float
    place: Place = SLICES

    def rows(self, number: int, width: int) -> Tensor:
        """Half precision; no address depends on their numbers."""
        draw = torch.randn if self.place.whole else torch.zeros
        return draw(number, width, dtype=self.place.dtype, device=self.place.device)

    def ones(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Parameters, or statistics where fp32 is asked for."""
        return torch.ones(shape, dtype=dtype or self.place.dtype, device=self.place.device)

    @property
    def text_rows(self) -> int:
        """Rows of texts before the first cross-modality layer."""
        return self.plan.text.single.written

    @property
    def object_rows(self) -> int:
        """Rows of images there."""
        return self.plan.objects.single.written

    @property
    def pairs_split(self) -> int:
        """Rows of texts from there on."""
        return self.plan.text.pairs.written

    @property
    def pair_rows(self) -> int:
        """Rows of both streams from there on."""
        return self.pairs_split + self.plan.objects.pairs.written


def step_calls(workload: Workload, config: LxmertConfig, place: Place = SLICES) -> Iterator[Call]:
    """The calls of a step in half precision, with dropout, at the workload's batch."""
    batch = batches(workload, config).ours
    ids, features = batch["input_ids"], batch["visual_feats"].flatten(0, -3)
    text_index = batch.get("text_index")
    if workload.task == "image_pairs":
        text_index = torch.arange(len(ids)).repeat_interleave(2)
    inputs = Inputs(
        (ids.shape[0], ids.shape[1]),
        (features.shape[0], features.shape[1]),
        batch["attention_mask"],
        None,
        text_index,
        batch.get("image_index"),
        ids.device,
    )
    plan = make_plan(inputs, Reads(), True, place.dtype)
    indices = plan.text.select(ids), _positions(plan, ids)
    plan, seed, (ids, positions) = to_device((plan, torch.tensor([7]), indices), place.device)
    step = Step(plan, config, seed, config.hidden_dropout_prob, place)
    yield from _embeddings(step, ids, positions)
    yield from _attentions(step)
    yield from _norms_and_gelus(step)
    yield from _repeats(step)


def _positions(plan: Plan, ids: Tensor) -> Tensor:
    places = torch.arange(ids.numel()) if plan.text.kept is None else plan.text.kept
    return places % ids.shape[1]


def _embeddings(step: Step, ids: Tensor, positions: Tensor) -> Iterator[Call]:
    config, width, rows = step.config, step.config.hidden_size, len(ids)
    sizes = config.vocab_size, config.max_position_embeddings, config.type_vocab_size
    tables = [step.rows(size, width) for size in sizes]
    one, indices = step.ones(width), (ids, positions, None)
    stats = step.ones(rows, dtype=torch.float32)
    # as in the counts of PyTorch's own operations, what a lookup needs is what it fetches
    looked_up = 2 * rows + 1
    beside = INDEX * (2 * rows + 1) + 2 * FLOAT * rows
    yield Call(
        "text embedding", "text_forward", 1,
        partial(text_op.text_embedding, *tables, one, one, *indices, step.seed, 0, EPS, 0, step.p),
        HALF * width * (looked_up + 2 + rows) + beside,
    )  # fmt: skip
    yield Call(
        "text embedding", "text_backward", 1,
        partial(
            text_op.backward, step.rows(rows, width), *tables, one, *indices, stats, stats, step.seed, 0, 0,
            step.p,
        ),
        HALF * width * (looked_up + 1 + 2 * rows + 2) + beside,
    )  # fmt: skip

    rows = step.object_rows
    feature, box, projection = step.rows(rows, width), step.rows(rows, 4), step.rows(width, 4)
    stats = step.ones(4, rows, dtype=torch.float32)
    beside = INDEX + 4 * FLOAT * rows
    yield Call(
        "visual embedding", "visual_forward", 1,
        partial(
            visual_op.visual_embedding, feature, one, box, projection, *[one] * 5, step.seed, EPS, 0, step.p
        ),
        HALF * (width * (2 * rows + 10) + 4 * rows) + beside,
    )  # fmt: skip
    yield Call(
        "visual embedding", "visual_backward", 1,
        partial(
            visual_op.backward, feature, feature, one, box, projection, one, one, one, stats, step.seed, 0,
            step.p,
        ),
        HALF * (width * (3 * rows + 8 + 9) + 8 * rows) + beside,
    )  # fmt: skip


def _attentions(step: Step) -> Iterator[Call]:
    text, objects, config = step.plan.text, step.plan.objects, step.config
    entry = crossing(text.entry, objects.entry, step.text_rows, step.object_rows)
    shares = entry.query_readers is not None
    yield from _attention(step, "self-attention of texts", within(text.single), config.l_layers)
    yield from _attention(step, "self-attention of objects", within(objects.single), config.r_layers)
    yield from _attention(step, "first cross attention", entry, 1, step.text_rows + step.object_rows)
    later = crossing(text.pairs, objects.pairs, step.pairs_split, step.pair_rows - step.pairs_split)
    if config.x_layers > 1:
        what = "later cross attention" if shares else "later cross attention, as the first"
        yield from _attention(step, what, later, config.x_layers - 1)
    both = side_by_side(text.pairs, objects.pairs)
    yield from _attention(step, "self-attention of both streams", both, config.x_layers)


def _attention(step: Step, what: str, met: Meetings, times: int, read: int | None = None) -> Iterator[Call]:
    """Of one buffer of `read` rows, as many as are written where it is None, forward and backward.

    Programs of different heads do the same, so one head is interpreted. What adds up shared rows walks over
    all heads at once and is run for all.
    """
    heads = step.config.num_attention_heads
    width, written = step.config.hidden_size, met.written[0]
    read = written if read is None else read
    readers, cross, whole = met.query_readers, "cross" in what, step.place.whole
    slices = 1 if whole else heads
    qkv = step.rows(read, 3 * width // slices)
    sizes = heads // slices, written, met.most_queries, met.most_keys
    given = (None, None) if readers is None else (readers.starts, readers.rows)
    rest = step.seed, 0, step.config.attention_probs_dropout_prob, *sizes
    arguments = met.table, met.bias, *given, *rest
    bias = 0 if met.bias is None else met.bias.numel()
    beside = INDEX * (met.table.numel() + 1) + HALF * bias
    yield Call(
        what, "attention_forward", times,
        partial(attention_op.cross_attention if cross else attention_op.self_attention, qkv, *arguments),
        HALF * width * (3 * read + written) + beside, slices, shared=readers is not None,
    )  # fmt: skip
    backward = torch.ops.lxmert_fast.cross_attention_backward
    if not cross:
        backward = torch.ops.lxmert_fast.self_attention_backward
    then: Callable[[], object] = _nothing
    if readers is not None:
        beside += INDEX * (len(readers.starts) + len(readers.rows))
        if not whole:
            then = partial(sum_readers, step.rows(written, 3 * width), readers.starts, readers.rows)
    yield Call(
        what, "attention_backward", times,
        partial(
            backward, step.rows(written, width // slices), qkv, met.table, met.bias,
            *(given if whole else (None, None)), *rest,
        ),
        HALF * width * (6 * read + written) + beside, slices, then, readers is not None,
    )  # fmt: skip


def _norms_and_gelus(step: Step) -> Iterator[Call]:
    config, both = step.config, (step.pair_rows, step.pairs_split)
    texts, objects = (step.text_rows,) * 2, (step.object_rows,) * 2
    yield from _norm(step, "texts", *texts, 2 * config.l_layers)
    yield from _norm(step, "objects", *objects, 2 * config.r_layers)
    yield from _norm(step, "both streams, one set of parameters", both[0], both[0], config.x_layers)
    yield from _norm(step, "both streams", *both, 2 * config.x_layers)
    yield from _gelu(step, "texts", *texts, config.l_layers)
    yield from _gelu(step, "objects", *objects, config.r_layers)
    yield from _gelu(step, "both streams", *both, config.x_layers)


def _norm(step: Step, what: str, rows: int, split: int, times: int) -> Iterator[Call]:
    """Backward from the output, as with the weights that a model starts with."""
    width, one = step.config.hidden_size, step.ones(step.config.hidden_size)
    streams = 1 if split == rows else 2
    second = one if streams == 2 else None
    x, nothing = step.rows(rows, width), step.ones(0)
    stats = step.ones(rows, dtype=torch.float32)
    yield Call(
        f"norm of {what}", "norm_forward", times,
        partial(
            norm_op.dropout_add_layer_norm, x, x, one, one, one, second, second, second, step.seed, split,
            EPS, 0, step.p, False,
        ),
        HALF * width * (3 * rows + 3 * streams) + 2 * FLOAT * rows + INDEX,
    )  # fmt: skip
    yield Call(
        f"norm of {what}", "norm_backward", times,
        partial(
            norm_op.backward, x, nothing, x, nothing, stats, stats, one, one, second, second, step.seed,
            split, 0, step.p,
        ),
        HALF * width * (4 * rows + 5 * streams) + FLOAT * rows + INDEX,
    )  # fmt: skip


def _gelu(step: Step, what: str, rows: int, split: int, times: int) -> Iterator[Call]:
    """Backward gives the activation again, for the gradient of the next product's weights."""
    width = step.config.intermediate_size
    slices = width // GELU_COLUMNS if width % GELU_COLUMNS == 0 and not step.place.whole else 1
    streams = 1 if split == rows else 2
    x, bias = step.rows(rows, width // slices), step.ones(width // slices)
    second = bias if streams == 2 else None
    yield Call(
        f"gelu of {what}", "gelu_forward", times,
        partial(gelu_op.bias_gelu, x, bias, second, split),
        HALF * width * (2 * rows + streams), slices,
    )  # fmt: skip
    yield Call(
        f"gelu of {what}", "gelu_backward", times,
        partial(gelu_op.backward, x, x, bias, second, split, True),
        HALF * width * (4 * rows + 2 * streams), slices,
    )  # fmt: skip


def _repeats(step: Step) -> Iterator[Call]:
    """The residual of the first cross attention: PyTorch repeats its shared rows, backward adds them up."""
    text, objects, width = step.plan.text, step.plan.objects, step.config.hidden_size
    readers = crossing(text.entry, objects.entry, step.text_rows, step.object_rows).query_readers
    if readers is None:
        return
    written, read = len(readers.rows), len(readers.starts) - 1
    yield Call(
        "residual of the first cross attention", "sum_readers", 1,
        partial(sum_readers, step.rows(written, width), readers.starts, readers.rows),
        HALF * width * (written + read) + INDEX * (written + read + 1), shared=True,
    )  # fmt: skip
