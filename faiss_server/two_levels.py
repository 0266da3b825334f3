"""Centres of many lists in two levels: k-means of k-means.

K-means takes as long as points times centres: 12,649 of them took more than ten minutes of a core.
Here the points are divided among the root of as many, and each part is divided again, which takes
a few seconds.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from faiss_server._faiss import faiss

__all__ = ["centres_in_two_levels"]

_ROUNDS: Final = 10


def centres_in_two_levels(
    points: NDArray[np.float32], count: int, seed: int
) -> NDArray[np.float32]:
    """Answer `count` centres of length 1, float32[count, d], each of about as many points.

    `points` [n, d] are at least as many as centres. The same arguments give the same centres.
    """
    first = _trained(points, max(1, math.isqrt(count)), seed)
    _, part_of_each = first.assign(points)
    order = np.argsort(part_of_each, kind="stable")
    ends = np.cumsum(np.bincount(part_of_each, minlength=first.k))
    # Of each part's points the same share: rounded sums, so that all of them are `count`.
    shares = np.diff(ends * count // len(points), prepend=0)
    parts = zip(np.split(order, ends[:-1]), shares.tolist(), strict=True)
    centres = [
        _trained(points[np.sort(part)], share, seed).centroids for part, share in parts if share
    ]
    together: NDArray[np.float32] = np.concatenate(centres)
    faiss.normalize_L2(together)  # where there are as many points as centres, they are the points
    return together


def _trained(points: NDArray[np.float32], count: int, seed: int) -> "faiss.Kmeans":
    # Directions: the lists of an inner product's index are those whose centres point as it does.
    kmeans = faiss.Kmeans(
        points.shape[1],
        count,
        niter=_ROUNDS,
        spherical=True,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=256,
    )
    kmeans.train(np.ascontiguousarray(points))
    return kmeans
