"""What a batch may look like: shapes and ids are checked once, before the first layer.

A wrong shape deep inside an encoder reads as a matrix product that does not fit, and a token id out of
range as an illegal address on a GPU. Here each gets one line that names the argument.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import InputError

if TYPE_CHECKING:
    from .data.regions import RegionStore
    from .data.text import TextEncoder


def check_inputs(
    config: Any,
    text: Tensor,
    visual_feats: Tensor | None,
    visual_pos: Tensor | None,
    attention_mask: Tensor | None,
    visual_attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    text_index: Tensor | None,
    image_index: Tensor | None,
) -> None:
    """Raise `InputError` where a batch does not fit the model or itself.

    Args:
        config: the model's `LxmertConfig`.
        text: `input_ids` (S, T) or `inputs_embeds` (S, T, H).

    The rest are the arguments of `LxmertModel.forward`. Id ranges are read only on the CPU: on a GPU
    reading them would make every step wait.
    """
    if visual_feats is None or visual_pos is None:
        missing = "visual_feats" if visual_feats is None else "visual_pos"
        raise InputError(f"{missing} is None: LXMERT needs the regions of an image beside its text")
    num_texts, length = text.shape[:2]
    num_images, num_objects = visual_feats.shape[:2] if visual_feats.dim() == 3 else (-1, -1)
    _check_shape("visual_feats", visual_feats, (num_images, num_objects, config.visual_feat_dim))
    _check_shape("visual_pos", visual_pos, (num_images, num_objects, config.visual_pos_dim))
    _check_shape("attention_mask", attention_mask, (num_texts, length))
    _check_shape("token_type_ids", token_type_ids, (num_texts, length))
    _check_shape("visual_attention_mask", visual_attention_mask, (num_images, num_objects))
    if length > config.max_position_embeddings:
        raise InputError(
            f"texts have {length} positions, the model has embeddings for {config.max_position_embeddings}"
        )
    _check_index("text_index", text_index, text.device)
    _check_index("image_index", image_index, text.device)
    pairs_by_text = num_texts if text_index is None else text_index.numel()
    pairs_by_image = num_images if image_index is None else image_index.numel()
    if pairs_by_text != pairs_by_image:
        raise InputError(
            f"texts give {pairs_by_text} pairs and images give {pairs_by_image}: pass image_index (the image "
            "of each pair) or text_index (the text of each pair)"
        )
    if text.device.type == "cpu" and not torch.compiler.is_compiling():
        if not text.is_floating_point():
            _check_range("input_ids", text, config.vocab_size)
        _check_range("token_type_ids", token_type_ids, config.type_vocab_size)
        _check_range("text_index", text_index, num_texts)
        _check_range("image_index", image_index, num_images)
        _check_all_used("text_index", text_index, num_texts, "text")
        _check_all_used("image_index", image_index, num_images, "image")


def check_fits(
    config: Any, text: TextEncoder, store: RegionStore, source: str | Path, *, object_labels: bool = False
) -> None:
    """Raise `InputError` where a model can't read a vocabulary or a region file.

    Args:
        config: the model's `LxmertConfig`.
        source: where the model is from, for the message.
        object_labels: it is also to predict the regions' object and attribute classes.
    """
    text.check_size(config.vocab_size)
    wanted = [("numbers a feature", config.visual_feat_dim, store.feature_size, True)]
    if object_labels:
        wanted.append(("object classes", config.num_object_labels, store.num_objects, config.visual_obj_loss))
        wanted.append(
            ("attribute classes", config.num_attr_labels, store.num_attributes, config.visual_attr_loss)
        )
    for what, model_has, store_has, matters in wanted:
        if matters and model_has != store_has:
            files = ", ".join(str(path) for path in store.paths)
            raise InputError(f"{source}: a model of {model_has} {what}, {files} has {store_has}")


def _check_shape(name: str, tensor: Tensor | None, wanted: tuple[int, ...]) -> None:
    if tensor is not None and tuple(tensor.shape) != wanted:
        shown = ", ".join("any" if size < 0 else str(size) for size in wanted)
        raise InputError(f"{name} has shape {tuple(tensor.shape)}, wanted ({shown})")


def _check_index(name: str, index: Tensor | None, device: torch.device) -> None:
    if index is None:
        return
    if index.dtype is not torch.int64 or index.dim() != 1:
        raise InputError(f"{name} is {index.dtype} of shape {tuple(index.shape)}, wanted torch.int64 of (B,)")
    # the plan is made on the host: an index that is there already spares a wait
    if index.device.type != "cpu" and index.device != device:
        raise InputError(f"{name} is on {index.device}, wanted {device}, where the texts are, or cpu")


def _check_all_used(name: str, index: Tensor | None, count: int, what: str) -> None:
    if index is None:
        return
    used = torch.zeros(count, dtype=torch.bool)
    used[index] = True
    if not used.all():
        unused = used.logical_not().nonzero()[:, 0].tolist()
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        raise InputError(
            f"{name} names {count - len(unused)} of {count} {what}s: no pair uses {what} {unused[0]}{more}"
        )


def _check_range(name: str, ids: Tensor | None, limit: int) -> None:
    if ids is None or ids.numel() == 0:
        return
    outside = (ids < 0) | (ids >= limit)
    if outside.any():
        place = tuple(outside.nonzero()[0].tolist())
        raise InputError(f"{name}{list(place)} is {int(ids[place])}, wanted 0 to {limit - 1}")
