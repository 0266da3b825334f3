"""The losses: softmax over all articles, or over a sample where the catalogue is large."""

from typing import Final

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

__all__ = ["FULL_SOFTMAX_LIMIT", "Negatives", "full_softmax_loss", "sampled_softmax_loss"]

FULL_SOFTMAX_LIMIT: Final = 20_000
"""Up to so many articles the whole softmax is used. With 43,000, two cores got through about six
times as many examples in the same time by a sample of 1,024."""


def full_softmax_loss(vectors: tf.Tensor, articles: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Mean cross-entropy of int32[B] labels among all rows of `articles`."""
    logits = tf.matmul(vectors, articles, transpose_b=True)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    return tf.reduce_mean(losses)


class Negatives:
    """Articles to tell the label from: each drawn half as often as it is viewed, half evenly, so
    that none is drawn so seldom that a single draw stands for thousands like it.
    """

    def __init__(self, counts: NDArray[np.int64]) -> None:
        """`counts`: int64[articles], the views of each."""
        self.shares: NDArray[np.float64] = 0.5 * counts / counts.sum() + 0.5 / len(counts)
        self._up_to = np.cumsum(self.shares)

    def draw(self, random: np.random.Generator, count: int) -> NDArray[np.int32]:
        """Draw rows with the probabilities `shares` float64[articles], with replacement."""
        rows = np.searchsorted(self._up_to, random.random(count))
        negatives: NDArray[np.int32] = np.minimum(rows, len(self.shares) - 1).astype(np.int32)
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
