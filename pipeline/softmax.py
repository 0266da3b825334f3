"""The losses: softmax over all articles, or over a sample where the catalogue is large."""

from typing import Any, Final

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

__all__ = ["FULL_SOFTMAX_LIMIT", "draw_negatives", "full_softmax_loss", "sampled_softmax_loss"]

FULL_SOFTMAX_LIMIT: Final = 20_000
"""Up to so many articles the whole softmax is used. With 43,000, two cores got through about six
times as many examples in the same time by a sample of 1,024."""


def full_softmax_loss(vectors: tf.Tensor, articles: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Mean cross-entropy of int32[B] labels among all rows of `articles`."""
    logits = tf.matmul(vectors, articles, transpose_b=True)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    return tf.reduce_mean(losses)


def draw_negatives(
    random: np.random.Generator, count: int, article_count: int
) -> NDArray[np.int32]:
    """Draw rows log-uniformly, with replacement: rows are in descending order of frequency."""
    uniform = random.random(count)
    rows = np.floor(np.exp(uniform * np.log(article_count + 1))) - 1
    negatives: NDArray[np.int32] = np.clip(rows, 0, article_count - 1).astype(np.int32)
    return negatives


def sampled_softmax_loss(
    vectors: tf.Tensor, articles: tf.Variable, labels: tf.Tensor, negatives: tf.Tensor
) -> tf.Tensor:
    """Mean cross-entropy of the label among itself and the shared negatives.

    Each negative stands for the articles like it: its logit is lowered by the log of the count
    expected of it under the log-uniform distribution, so that the sum over the sample is an
    unbiased estimate of the sum over all articles but the label (Bengio and Senecal, 2008). The
    label is always there and needs no such correction; a negative equal to it is left out.
    """
    count = tf.shape(articles)[0]
    drawn = tf.shape(negatives)[0]
    own = tf.reduce_sum(vectors * tf.gather(articles, labels), axis=1)
    others = tf.matmul(vectors, tf.gather(articles, negatives), transpose_b=True)
    others -= _log_expected_count(negatives, count, drawn)[None, :]
    others = tf.where(labels[:, None] == negatives[None, :], -1e9, others)
    logits = tf.concat([own[:, None], others], axis=1)
    return tf.reduce_mean(tf.reduce_logsumexp(logits, axis=1) - own)


def _log_expected_count(rows: tf.Tensor, count: Any, drawn: Any) -> tf.Tensor:
    rank = tf.cast(rows, tf.float32)
    share = tf.math.log1p(1.0 / (rank + 1.0)) / tf.math.log(tf.cast(count + 1, tf.float32))
    return tf.math.log(share * tf.cast(drawn, tf.float32))
