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

from lxmert_fast.data.draws import below

IGNORE = -100
WORD_DRAWS, OBJECT_DRAWS = 2, 3
BLANKED, REPLACED = 0.8, 0.9


def mask_words(
    ids: np.ndarray,
    eligible: np.ndarray,
    uniform: np.ndarray,
    *,
    rate: float,
    mask_id: int,
    vocab_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Hide word pieces.

    Args:
        ids: (B, T) int64 token ids.
        eligible: (B, T) bool, false for [CLS], [SEP] and padding.
        uniform: (B, T, `WORD_DRAWS`) in [0, 1): a piece's fate, and the word it may become.
        rate: chance that a piece is chosen.
        mask_id: the id of [MASK].
        vocab_size: random pieces are uniform over the whole vocabulary, special tokens included.

    Returns:
        ids with chosen pieces changed, and labels (B, T): the original id where chosen, -100 elsewhere.
    """
    chosen, blanked, random = _fates(uniform[..., 0], eligible, rate)
    masked = np.where(blanked, mask_id, ids)
    masked[random] = below(uniform[random, 1], vocab_size)
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
    uniform: np.ndarray,
    *,
    rate: float,
    random_features: Callable[[np.ndarray], np.ndarray],
) -> HiddenObjects:
    """Choose objects to hide; their boxes are never hidden.

    Args:
        counts: (B,) real boxes an image; padding is never chosen.
        uniform: (B, O, `OBJECT_DRAWS`) in [0, 1): an object's fate, and two to draw another object by.
        rate: chance that an object is chosen.
        random_features: uniforms (n, 2) to (n, F), features of random objects; called once.
    """
    real = np.arange(uniform.shape[1]) < counts[:, None]
    chosen, blanked, random = _fates(uniform[..., 0], real, rate)
    return HiddenObjects(chosen, blanked, random, random_features(uniform[random, 1:]))


def _fates(
    uniform: np.ndarray, eligible: np.ndarray, rate: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is chosen, and of that, what is blanked and what replaced."""
    chosen = (uniform < rate) & eligible
    blanked = chosen & (uniform < rate * BLANKED)
    return chosen, blanked, chosen & ~blanked & (uniform < rate * REPLACED)
