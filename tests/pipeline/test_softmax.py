"""The sampled loss against the full one."""

import numpy as np
import tensorflow as tf

from pipeline.softmax import draw_negatives, full_softmax_loss, sampled_softmax_loss


def tensors(seed=0, articles=500):
    random = np.random.default_rng(seed)
    vectors = tf.constant(random.normal(size=(8, 4)), tf.float32)
    weights = tf.constant(random.normal(size=(articles, 4)), tf.float32)
    return vectors, weights, tf.constant(random.integers(articles, size=8), tf.int32)


def test_many_negatives_approach_the_full_softmax():
    vectors, weights, labels = tensors()
    negatives = tf.constant(draw_negatives(np.random.default_rng(1), 200_000, 500))
    sampled = sampled_softmax_loss(vectors, weights, labels, negatives)
    full = full_softmax_loss(vectors, weights, labels)
    assert abs(float(sampled) - float(full)) < 0.05


def test_a_negative_that_is_the_label_counts_for_nothing():
    vectors, weights, _ = tensors()
    labels = tf.fill([8], 3)
    loss = sampled_softmax_loss(vectors, weights, labels, tf.fill([64], 3))
    assert abs(float(loss)) < 1e-6


def test_negatives_follow_the_log_uniform_distribution():
    drawn = draw_negatives(np.random.default_rng(2), 400_000, 100)
    shares = np.bincount(drawn, minlength=100) / len(drawn)
    expected = np.log1p(1 / (np.arange(100) + 1)) / np.log(101)
    assert np.abs(shares - expected).max() < 0.004
