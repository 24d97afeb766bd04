"""The visual embedding from features and boxes, by the operator. The reference takes projected boxes."""

from __future__ import annotations

from torch import Tensor

from ..philox import Seed, draw_seed

#: More parameters than registers hold belong to wider rows.
MOST_COLUMNS = 2048


def embed_regions(
    feature: Tensor,
    feature_bias: Tensor | None,
    box: Tensor,
    projection: tuple[Tensor, Tensor],
    feature_norm: tuple[Tensor, Tensor],
    box_norm: tuple[Tensor, Tensor],
    *,
    dropout_p: float = 0.0,
    eps: float = 1e-12,
    seed: Seed | None = None,
) -> Tensor:
    """Box projection, two LayerNorms, their average and dropout.

    Args:
        feature: (N, H), the product of the features; feature_bias: (H,), or None if added already.
        box: (N, 4); projection: weight (H, 4) and bias (H,).
        feature_norm, box_norm: weight (H,) and shift (H,) of the two LayerNorms.
        dropout_p, seed: dropout.

    Returns:
        (N, H).
    """
    from .op import visual_embedding

    seed = (seed or draw_seed(feature.device)) if dropout_p > 0.0 else None
    site = seed.site if seed else 0
    arguments = (*projection, *feature_norm, *box_norm, seed and seed.value)
    return visual_embedding(feature, feature_bias, box, *arguments, eps, site, dropout_p)[0]


def fits(width: int, coordinates: int) -> bool:
    """Whether a row of this width and boxes of these many coordinates fit the kernel."""
    return width <= MOST_COLUMNS and coordinates == 4
