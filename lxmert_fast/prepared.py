"""A batch as a graph takes it: texts and images padded to few sizes, and all that depends on its numbers.

`prepare` gives the tensors that are copied to where the graph reads them, and the `Prepared` that the model's
`forward` takes: the plan, with room, and where labels are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import InputError
from .execution import Inputs, Reads
from .inputs import check_inputs
from .losses import IGNORE, Labelled, labels_per_pair
from .models import LxmertForImagePairs, LxmertForPreTraining, Prepared
from .tables import Sizes
from .transfer import replaced

Batch: TypeAlias = dict[str, Any]
#: Texts are padded to a multiple of this many positions.
POSITIONS = 8
#: What a plan is made of, and no graph reads.
_PLANNED = ("attention_mask", "visual_attention_mask", "text_index")


@dataclass(frozen=True)
class Rows:
    """The tensors of a batch and the shapes of the buffers that they go to, whose first parts they fill."""

    batch: Batch
    shapes: dict[int, tuple[int, ...]]
    """By a tensor's id; its own shape where absent."""

    def signature(self) -> Hashable:
        """Shapes and dtypes of the buffers, and what is no tensor."""
        return tuple(
            (name, tuple(self._shape(x) for x in _tensors(value)), tuple(x.dtype for x in _tensors(value)))
            if _tensors(value)
            else (name, repr(value))
            for name, value in sorted(self.batch.items())
        )

    def static(self, device: torch.device) -> Batch:
        """Buffers on a device, filled."""

        def buffer(x: Tensor) -> Tensor:
            place = torch.zeros(self._shape(x), dtype=x.dtype, device=device)
            return _fill(place, x)

        return replaced(self.batch, buffer)

    def copy_to(self, batch: Batch) -> None:
        """Fill buffers that `static` made of a batch of the same signature."""
        for name, value in self.batch.items():
            for place, x in zip(_tensors(batch[name]), _tensors(value), strict=True):
                _fill(place, x)

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        return self.shapes.get(id(x), tuple(x.shape))


def prepare(model: Any, batch: Batch, sizes: Sizes) -> tuple[Rows, Prepared]:
    """What the host does for a batch (the arguments of the model's `forward`) before a graph runs it.

    `sizes` is asked for the size of each buffer, and remembers.

    Raises:
        InputError: a batch that does not fit; on a GPU token ids are not read.
    """
    given = {name: value for name, value in batch.items() if value is not None}
    missing = [name for name in ("input_ids", "visual_feats", "visual_pos") if name not in given]
    if missing:
        raise InputError(f"a batch for a graph lacks {', '.join(missing)}")
    pairs_of_images = isinstance(model, LxmertForImagePairs)
    ids, feats, boxes_of = given["input_ids"], given["visual_feats"], given["visual_pos"]
    host = {name: given[name].cpu() if name in given else None for name in (*_PLANNED, "image_index")}
    texts, length = ids.shape
    images, boxes = feats.flatten(0, 1).shape[:2] if feats.dim() == 4 else feats.shape[:2]
    text_index, image_index = host["text_index"], host["image_index"]
    visual_mask = host["visual_attention_mask"]
    if pairs_of_images:
        text_index = torch.arange(texts) if text_index is None else text_index
        room_for_texts = host["text_index"] is not None
        text_index = text_index.repeat_interleave(2)
        image_index = None if image_index is None else image_index.flatten()
        if visual_mask is not None and visual_mask.dim() == 3:
            visual_mask = visual_mask.flatten(0, 1)
    else:
        room_for_texts = text_index is not None
    pairs = texts if text_index is None else len(text_index)
    check_inputs(
        model.config,
        ids,
        feats.flatten(0, 1) if pairs_of_images and feats.dim() == 4 else feats,
        boxes_of.flatten(0, 1) if pairs_of_images and boxes_of.dim() == 4 else boxes_of,
        host["attention_mask"],
        visual_mask,
        given.get("token_type_ids"),
        text_index,
        image_index,
    )

    wide = min(-(-length // POSITIONS) * POSITIONS, model.config.max_position_embeddings)
    all_texts = sizes(("all texts", pairs), texts) if room_for_texts else texts
    all_images = images if image_index is None else sizes(("all images", pairs), images)
    while image_index is not None and all_images == pairs:
        all_images += 1  # labels of B images would be taken for those of B pairs
    mask = host["attention_mask"]
    if mask is not None or wide > length or all_texts > texts:
        mask = torch.ones(texts, length, dtype=torch.int64) if mask is None else mask
        mask = F.pad(mask, (0, wide - length, 0, all_texts - texts))
        # a text that nobody reads is one token, not all of them
        mask[texts:, 0] = 1
    if visual_mask is not None:
        visual_mask = F.pad(visual_mask, (0, 0, 0, all_images - images), value=1)

    labelled, reads = None, Reads()
    kept = {name: value for name, value in given.items() if name not in _PLANNED}
    if isinstance(model, LxmertForPreTraining):
        if "labels" in kept:
            kept["labels"] = F.pad(kept["labels"], (0, wide - length), value=IGNORE)
        labelled, reads = _labelled(
            model, kept, image_index, lambda name, rows: sizes(("labels", name, pairs), rows)
        )
    elif not pairs_of_images:
        kept.pop("image_index", None)
    inputs = Inputs(
        (all_texts, wide),
        (all_images, boxes),
        mask,
        visual_mask,
        text_index,
        image_index,
        torch.device("cpu"),
    )
    plan = model.lxmert.plan_for(inputs, reads, True, sizes)
    shapes: dict[int, tuple[int, ...]] = {id(kept["input_ids"]): (all_texts, wide)}
    if "token_type_ids" in kept:
        shapes[id(kept["token_type_ids"])] = all_texts, wide
    if all_images > images:
        for x in _tensors([kept["visual_feats"], kept["visual_pos"], kept.get("obj_labels")]):
            if len(x) == images:
                shapes[id(x)] = all_images, *x.shape[1:]
    return Rows(kept, shapes), Prepared(plan, labelled)


def _labelled(
    model: Any, batch: Batch, image_index: Tensor | None, size: Callable[[str, int], int]
) -> tuple[Labelled, Reads]:
    """Where labels of pre-training are, with room."""
    config = model.config
    objects = batch.get("obj_labels") if config.task_obj_predict else None
    if objects is not None:
        # only the weights matter here
        weights = {name: (weight.cpu(), weight.cpu()) for name, (_, weight) in objects.items()}
        objects = weights if image_index is None else labels_per_pair(weights, image_index)
    labelled, reads = Labelled.of(
        batch.get("labels") if config.task_mask_lm else None,
        objects,
        batch.get("ans") if config.task_qa else None,
    )
    return labelled.padded(size), reads


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _fill(place: Tensor, x: Tensor) -> Tensor:
    place[tuple(slice(0, size) for size in x.shape)].copy_(x, non_blocking=True)
    return place
