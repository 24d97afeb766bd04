"""What pre-training hides: words and objects (paper section 3.1; the rates are the original's code).

Of every word piece and of every object, independently, 15 % are chosen; of those 80 % are blanked, 10 % are
replaced by a random one and 10 % stay, and all of them are to be predicted. The paper mentions only blanking
for objects; the original's code, and so this, does 80/10/10 for both. There is no retry: a sentence or an
image may have nothing hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

IGNORE = -100
BLANKED, REPLACED = 0.8, 0.9


def mask_words(
    ids: np.ndarray,
    eligible: np.ndarray,
    rng: np.random.Generator,
    *,
    rate: float,
    mask_id: int,
    vocab_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Hide word pieces.

    Args:
        ids: (B, T) int64 token ids.
        eligible: (B, T) bool, false for [CLS], [SEP] and padding.
        rng: two uniform numbers a position are drawn, then one word a replaced piece.
        rate: chance that a piece is chosen.
        mask_id: the id of [MASK].
        vocab_size: random pieces are uniform over the whole vocabulary, special tokens included.

    Returns:
        ids with chosen pieces changed, and labels (B, T): the original id where chosen, -100 elsewhere.
    """
    chosen = (rng.random(ids.shape) < rate) & eligible
    fate = rng.random(ids.shape)
    random = chosen & (fate >= BLANKED) & (fate < REPLACED)
    masked = np.where(chosen & (fate < BLANKED), mask_id, ids)
    masked[random] = rng.integers(vocab_size, size=int(random.sum()))
    return masked, np.where(chosen, ids, IGNORE)


@dataclass(frozen=True)
class HiddenObjects:
    """Which objects of a batch are hidden, and how."""

    chosen: np.ndarray
    """(B, O) bool: to be predicted, whatever happens to them."""
    blanked: np.ndarray
    """(B, O) bool: the feature becomes zero."""
    random: np.ndarray
    """(B, O) bool: the feature becomes another object's."""
    random_features: np.ndarray
    """(n, F), one for each of `random`, in its order."""

    def hide(self, features: np.ndarray) -> np.ndarray:
        """A copy of features (B, O, F) with the chosen ones changed."""
        hidden = features.copy()
        hidden[self.blanked] = 0
        hidden[self.random] = self.random_features
        return hidden


def mask_objects(
    counts: np.ndarray,
    max_objects: int,
    rng: np.random.Generator,
    *,
    rate: float,
    random_features: Callable[[np.random.Generator, int], np.ndarray],
) -> HiddenObjects:
    """Choose objects to hide; their boxes are never hidden.

    Args:
        counts: (B,) real boxes an image; padding is never chosen. max_objects: O.
        rng: two uniform numbers an object are drawn, then what `random_features` draws.
        rate: chance that an object is chosen.
        random_features: (rng, n) to (n, F), features of random objects; called once.
    """
    shape = (len(counts), max_objects)
    chosen = (rng.random(shape) < rate) & (np.arange(max_objects) < counts[:, None])
    fate = rng.random(shape)
    random = chosen & (fate >= BLANKED) & (fate < REPLACED)
    return HiddenObjects(
        chosen, chosen & (fate < BLANKED), random, random_features(rng, int(np.count_nonzero(random)))
    )
