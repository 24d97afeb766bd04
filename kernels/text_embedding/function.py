"""The text embedding from its tables, by the operator. The reference takes vectors that were looked up."""

from __future__ import annotations

from torch import Tensor

from ..dropout_add_layer_norm.function import MOST_COLUMNS
from ..philox import Seed, draw_seed


def embed_text(
    tables: tuple[Tensor, Tensor, Tensor],
    ids: tuple[Tensor, Tensor, Tensor | None],
    norm: tuple[Tensor, Tensor],
    *,
    padding: int,
    dropout_p: float = 0.0,
    eps: float = 1e-12,
    seed: Seed | None = None,
) -> Tensor:
    """Three lookups, their sum, LayerNorm and dropout.

    Args:
        tables: of words (V, H), positions (P, H) and segments (2, H).
        ids: (N,) int64 each; segments None for 0.
        norm: weight (H,) and shift (H,) of the LayerNorm.
        padding: the row of each table that gets no gradient.
        dropout_p, seed: dropout.

    Returns:
        (N, H).
    """
    from .op import text_embedding

    seed = (seed or draw_seed(tables[0].device)) if dropout_p > 0.0 else None
    site = seed.site if seed else 0
    return text_embedding(*tables, *norm, *ids, seed and seed.value, padding, eps, site, dropout_p)[0]


def fits(width: int) -> bool:
    """Whether a row of this width fits the kernel."""
    return width <= MOST_COLUMNS
