"""Object and attribute classes for regions that no detector has named.

LXMERT's label classification (paper section 3.1.2) learns from a detector's classes. Without a detector the
classes here are k-means clusters of what the regions look like: they carry no names and no human judgement,
yet give the task something to predict that is not the feature vector itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lxmert_fast.errors import InputError


@dataclass(frozen=True)
class Clusters:
    """K cluster centres (K, D) float32."""

    centres: np.ndarray

    @classmethod
    def fit(cls, vectors: np.ndarray, count: int, seed: int) -> Clusters:
        """Mini-batch k-means on (n, D) vectors; `InputError` when there are fewer than `count` of them."""
        from sklearn.cluster import MiniBatchKMeans
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        if len(vectors) < count:
            raise InputError(
                f"found {len(vectors)} regions to make {count} classes from, wanted at least {count}"
            )
        means = MiniBatchKMeans(count, batch_size=2048, max_iter=20, n_init=1, random_state=seed)
        # The products are small: on a busy machine, threads waiting for each other made this 25 times slower.
        with threadpool_limits(1):
            means.fit(vectors.astype(np.float32))
        return cls(means.cluster_centers_.astype(np.float32))

    def assign(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nearest centre of (n, D) vectors: ids (n,) int64 and confidences (n,) float32 in [0, 1].

        The confidence is the margin 1 - d1^2 / d2^2 of the distances to the nearest and second centre: 1 on
        a centre, 0 half way between two, and 1 everywhere when there is one cluster only.
        """
        vectors = vectors.astype(np.float32)
        distances = (
            np.square(vectors).sum(1, keepdims=True)
            - 2 * vectors @ self.centres.T
            + np.square(self.centres).sum(1)
        )
        ids = distances.argmin(axis=1)
        if len(self.centres) == 1:
            return ids, np.ones(len(vectors), np.float32)
        # The expanded square can fall below zero by rounding.
        nearest, second = np.maximum(np.partition(distances, 1, axis=1)[:, :2], 0).T
        ratio = np.divide(nearest, second, out=np.ones_like(nearest), where=second > 0)
        return ids, (1 - ratio).astype(np.float32)
