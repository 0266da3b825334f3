"""The losses: softmax over all articles, or over a sample where the catalogue is large."""

from typing import Final

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

__all__ = [
    "FULL_SOFTMAX_LIMIT",
    "draw_negatives",
    "full_softmax_loss",
    "negative_shares",
    "sampled_softmax_loss",
]

FULL_SOFTMAX_LIMIT: Final = 20_000
"""Up to so many articles the whole softmax is used. With 43,000, two cores got through about six
times as many examples in the same time by a sample of 1,024."""


def full_softmax_loss(vectors: tf.Tensor, articles: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Mean cross-entropy of int32[B] labels among all rows of `articles`."""
    logits = tf.matmul(vectors, articles, transpose_b=True)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    return tf.reduce_mean(losses)


def negative_shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Answer how likely each article is drawn, by its views: half as often as it is viewed, half
    evenly, so that none is drawn so seldom that a single draw stands for thousands like it.
    """
    shares: NDArray[np.float64] = 0.5 * counts / counts.sum() + 0.5 / len(counts)
    return shares


def draw_negatives(
    random: np.random.Generator, count: int, shares: NDArray[np.float64]
) -> NDArray[np.int32]:
    """Draw rows with these probabilities, with replacement."""
    rows = np.searchsorted(np.cumsum(shares), random.random(count))
    negatives: NDArray[np.int32] = np.minimum(rows, len(shares) - 1).astype(np.int32)
    return negatives


def sampled_softmax_loss(
    vectors: tf.Tensor,
    articles: tf.Variable,
    labels: tf.Tensor,
    negatives: tf.Tensor,
    negative_shares: tf.Tensor,
) -> tf.Tensor:
    """Mean cross-entropy of the label among itself and the shared negatives.

    Each negative stands for the articles like it: its logit is lowered by the log of the count
    expected of it (`negative_shares`, float32[negatives], times their number), so that the sum over
    the sample is an unbiased estimate of the sum over all articles but the label (Bengio and
    Senecal, 2008). The label is always there and needs no such correction; a negative equal to it
    is left out.
    """
    drawn = tf.cast(tf.shape(negatives)[0], tf.float32)
    own = tf.reduce_sum(vectors * tf.gather(articles, labels), axis=1)
    others = tf.matmul(vectors, tf.gather(articles, negatives), transpose_b=True)
    others -= tf.math.log(negative_shares * drawn)[None, :]
    others = tf.where(labels[:, None] == negatives[None, :], -1e9, others)
    logits = tf.concat([own[:, None], others], axis=1)
    return tf.reduce_mean(tf.reduce_logsumexp(logits, axis=1) - own)
