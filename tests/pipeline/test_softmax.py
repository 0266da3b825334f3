"""The sampled loss against the full one."""

import numpy as np
import tensorflow as tf

from pipeline.softmax import Negatives, full_softmax_loss, sampled_softmax_loss


def tensors(seed=0, articles=500):
    random = np.random.default_rng(seed)
    vectors = tf.constant(random.normal(size=(8, 4)), tf.float32)
    weights = tf.constant(random.normal(size=(articles, 4)), tf.float32)
    return vectors, weights, tf.constant(random.integers(articles, size=8), tf.int32)


def test_many_negatives_approach_the_full_softmax():
    vectors, weights, labels = tensors()
    negatives = Negatives(np.arange(500)[::-1])
    rows = negatives.draw(np.random.default_rng(1), 200_000)
    drawn = tf.constant(negatives.shares[rows], tf.float32)
    sampled = sampled_softmax_loss(vectors, weights, labels, tf.constant(rows), drawn)
    full = full_softmax_loss(vectors, weights, labels)
    assert abs(float(sampled) - float(full)) < 0.05


def test_a_negative_that_is_the_label_counts_for_nothing():
    vectors, weights, _ = tensors()
    labels = tf.fill([8], 3)
    loss = sampled_softmax_loss(vectors, weights, labels, tf.fill([64], 3), tf.fill([64], 0.1))
    assert abs(float(loss)) < 1e-6


def test_negatives_are_drawn_half_by_views_and_half_evenly():
    negatives = Negatives(np.array([6, 3, 1, 0]))
    assert negatives.shares.tolist() == [0.425, 0.275, 0.175, 0.125]
    drawn = negatives.draw(np.random.default_rng(2), 400_000)
    assert np.abs(np.bincount(drawn, minlength=4) / len(drawn) - negatives.shares).max() < 0.004
