"""The word-level sentence embedding, in plain PyTorch: the definition and the CPU path.

    h_i = dropout(LayerNorm(word(w_i) + position(i) + segment(s_i)))

LXMERT section 2.1.1, "word-level sentence embeddings"; the segment term is BERT's and always 0 here.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ..dropout import dropout


def text_embedding(
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    norm: tuple[Tensor, Tensor],
    *,
    dropout_p: float = 0.0,
    eps: float = 1e-12,
) -> Tensor:
    """Sum of three looked-up vectors, LayerNorm and dropout.

    Args:
        word, position, segment: broadcastable to (S, T, H).
        norm: weight (H,) and shift (H,) of the LayerNorm.
        dropout_p: rate; 0 outside training.

    Returns:
        (S, T, H).
    """
    total = word + position + segment
    y = F.layer_norm(total, (total.shape[-1],), *norm, eps)
    return dropout(y, dropout_p) if dropout_p > 0.0 else y
