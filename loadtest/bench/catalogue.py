"""The articles and users that benches run on: one seeded recipe.

Articles belong to topics of different sizes (Zipf's law), lie around their topic's centre, and
are longer the more popular they are (log-normal), so that a ranking by inner product is not one by
angle. A user has viewed articles of two topics; the user vector is the mean of what was viewed,
newer views counting more, and so lies between topics, where no article is: queries come from
another distribution than the articles, and the nearest articles from many lists. The constants are
such that 16 of 4,000 lists are not enough for a million articles, and some seventy are.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from releases.layout import HISTORY_LENGTH

__all__ = ["DIMENSION", "RECENCY", "RELEASE", "Catalogue", "generate", "mean_vectors"]

RELEASE: Final = 1_800_000_000
"""Of every catalogue."""

DIMENSION: Final = 64
RECENCY: Final = 0.9
"""What a view counts in a user's vector, of the one after it."""
_TOPICS: Final = 500
_ZIPF: Final = 0.5
"""Exponent of the sizes of topics by rank."""
_TOPICS_OF_A_USER: Final = 2
_SPREAD: Final = 0.7
"""Length of the way from an article to its topic's centre, whose own length is 1."""
_POPULARITY: Final = 0.15
_MOST_KNOWN: Final = 50_000
_MOST_ID: Final = 10**12
_ROWS_AT_ONCE: Final = 100_000


@dataclass(frozen=True)
class Catalogue:
    """Articles, those of them that the model knows, and what users viewed."""

    article_ids: NDArray[np.int64]
    """int64[articles], ascending."""
    vectors: NDArray[np.float32]
    """float32[articles, 64]."""
    known: NDArray[np.int64]
    """int64[known]: rows of articles in the model's vocabulary; only they are viewed."""
    histories: NDArray[np.int64]
    """int64[users, 50]: article ids, newest first."""


def generate(articles: int, users: int = 2000, seed: int = 1) -> Catalogue:
    """Make a catalogue; the same arguments make the same one."""
    random = np.random.default_rng(seed)
    ids = np.sort(random.choice(_MOST_ID, articles, replace=False)).astype(np.int64)
    topic_count = min(_TOPICS, max(_TOPICS_OF_A_USER, articles // 20))
    shares = np.arange(1, topic_count + 1) ** -_ZIPF
    topics = random.choice(topic_count, size=articles, p=shares / shares.sum())
    centres = _unit(random.standard_normal((topic_count, DIMENSION)))
    vectors = np.empty((articles, DIMENSION), np.float32)
    for begin in range(0, articles, _ROWS_AT_ONCE):
        rows = slice(begin, begin + _ROWS_AT_ONCE)
        count = len(vectors[rows])
        around = _SPREAD * random.standard_normal((count, DIMENSION)) / DIMENSION**0.5
        lengths = random.lognormal(0, _POPULARITY, (count, 1))
        vectors[rows] = _unit(centres[topics[rows]] + around) * lengths
    known = np.sort(random.choice(articles, min(_MOST_KNOWN, articles), replace=False))
    histories = _histories(ids[known], topics[known], users, random)
    return Catalogue(ids, vectors, known, histories)


def mean_vectors(
    histories: NDArray[np.int64], ids: NDArray[np.int64], vectors: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Answer the user vectors, of length 1, of histories int64[users, 50] of known ids.

    `ids` are ascending, `vectors` are theirs. The generated releases' models compute the same.
    """
    viewed = vectors[np.searchsorted(ids, histories)]
    weights = (RECENCY ** np.arange(histories.shape[1])).astype(np.float32)
    means = np.einsum("uhd,h->ud", viewed, weights)
    unit: NDArray[np.float32] = means / np.linalg.norm(means, axis=1, keepdims=True)
    return unit


def _histories(
    ids: NDArray[np.int64], topics: NDArray[np.int64], users: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Let each user view articles of a few topics, the more likely the larger they are."""
    by_topic = np.argsort(topics, kind="stable")
    begins = np.searchsorted(topics[by_topic], np.arange(topics.max() + 2))
    histories = np.empty((users, HISTORY_LENGTH), np.int64)
    for row in histories:
        chosen = topics[random.choice(len(topics), _TOPICS_OF_A_USER, replace=False)]
        pool = np.concatenate(
            [by_topic[begins[topic] : begins[topic + 1]] for topic in set(chosen)]
        )
        if len(pool) < HISTORY_LENGTH:  # two very small topics: whatever else there is
            pool = np.unique(np.concatenate([pool, random.choice(len(ids), HISTORY_LENGTH * 2)]))
        row[:] = ids[random.choice(pool, HISTORY_LENGTH, replace=False)]
    return histories


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / lengths
