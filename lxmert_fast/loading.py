"""A state dict into a model, entry by entry, with an account of what did not fit.

Nothing is loaded in silence. A file has to fit its model entry by entry; a partial fit needs
`allow_partial=True` and says what it left; a file that fits hardly anything is refused even then. (With
the original a file that matched nothing trained on, and NLVR2 stayed at 50.86.)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .airsplay import huggingface_names, is_bert
from .errors import InputError
from .modeling import LxmertModel
from .models import LxmertForPreTraining

logger = logging.getLogger(__name__)

DECODER = "cls.predictions.decoder.weight"
WORDS = "lxmert.embeddings.word_embeddings.weight"
BERT_PART = ("lxmert.embeddings.", "lxmert.encoder.layer.", "lxmert.pooler.")


@dataclass(frozen=True)
class LoadSummary:
    """What became of a state dict's entries in a model; printed, it is one line."""

    model: str
    matched: tuple[str, ...]
    missing: tuple[str, ...] = ()
    """In the model and not in the file."""
    left_over: tuple[str, ...] = ()
    """In the file and not in the model, or a decoder that differs from the embedding it is tied to."""
    mismatched: tuple[str, ...] = ()
    """In both, with different shapes; each says which."""
    too_little: str = ""
    """Why even a partial load is refused; empty when it is not."""

    @property
    def complete(self) -> bool:
        """Whether every entry on either side found its counterpart."""
        return not (self.missing or self.left_over or self.mismatched)

    def __str__(self) -> str:
        wanted = len(self.matched) + len(self.missing) + len(self.mismatched)
        parts = [f"matched {len(self.matched)} of {wanted} entries of {self.model}"]
        groups = (
            ("of another shape", self.mismatched),
            ("missing", self.missing),
            ("left over", self.left_over),
        )
        for what, names in groups:
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                parts.append(f"{what} {len(names)} ({', '.join(names[:3])}{more})")
        return "; ".join(parts)


def compare(model: PreTrainedModel, state: Mapping[str, Tensor]) -> LoadSummary:
    """What `load_into` would do; the model may lie on the meta device.

    Too little is: fewer than half of the backbone's entries match, where a BERT file is held against the
    embeddings, language layers and pooler only.
    """
    wanted = _named_state(model)
    given = _tied(model, huggingface_names(state))
    fitting = {name for name, tensor in wanted.items() if name in given and given[name].shape == tensor.shape}
    untied = (
        DECODER in fitting
        and _is_tied(model)
        and given[DECODER] is not given[WORDS]
        and not torch.equal(given[DECODER], given[WORDS])
    )
    if untied:
        fitting.remove(DECODER)
    backbone = [name for name in wanted if name.startswith(BERT_PART if is_bert(given) else "lxmert.")]
    found = sum(name in fitting for name in backbone)
    return LoadSummary(
        model=type(model).__name__,
        matched=tuple(name for name in wanted if name in fitting),
        missing=tuple(name for name in wanted if name not in given),
        left_over=tuple(name for name in given if name not in wanted or (untied and name == DECODER)),
        mismatched=tuple(
            f"{name} {tuple(given[name].shape)}, wanted {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in given and given[name].shape != tensor.shape
        ),
        too_little=f"{found} of {len(backbone)} backbone entries are fewer than half"
        if 2 * found < len(backbone)
        else "",
    )


def load_into(
    model: PreTrainedModel,
    state: Mapping[str, Tensor],
    *,
    allow_partial: bool = False,
    source: str | Path = "state dict",
) -> LoadSummary:
    """Copy tensors into a model in place, under either code base's names.

    Args:
        model: one of this library's.
        state: every entry of the model; the tied decoder may be left out.
        allow_partial: load what fits and log the summary as a warning.
        source: for messages.

    Raises:
        InputError: one line with counts and names. Without `allow_partial` anything missing, left over or
            of another shape; with it fewer than half of the backbone's entries (`compare`).
    """
    summary = compare(model, state)
    check(summary, allow_partial, source)
    wanted, given = _named_state(model), _tied(model, huggingface_names(state))
    with torch.no_grad():
        for name in summary.matched:
            wanted[name].copy_(given[name])
    if not summary.complete:
        logger.warning("%s: %s", source, summary)
    return summary


def check(summary: LoadSummary, allow_partial: bool, source: str | Path) -> None:
    """Raise `InputError` where a summary does not allow loading."""
    if summary.too_little:
        raise InputError(f"{source}: {summary}; refused: {summary.too_little}")
    if not (summary.complete or allow_partial):
        raise InputError(f"{source}: {summary}; a partial load has to be asked for (allow_partial)")


def _named_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """A model's tensors, themselves, under full names: a bare backbone's get their `lxmert.`."""
    prefix = "lxmert." if isinstance(model, LxmertModel) else ""
    return {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}


def _is_tied(model: PreTrainedModel) -> bool:
    return isinstance(model, LxmertForPreTraining) and model.config.tie_word_embeddings


def _tied(model: PreTrainedModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Files may hold the tied matrix under either of its names or both."""
    if _is_tied(model) and (DECODER in state) != (WORDS in state):
        matrix = state[DECODER] if DECODER in state else state[WORDS]
        return state | {DECODER: matrix, WORDS: matrix}
    return state
