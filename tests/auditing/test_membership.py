from __future__ import annotations

import math

import numpy as np
import pytest

from fedbound.auditing import membership


def data(records=200, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((records, 20)), rng.integers(0, 4, records)


def test_a_model_that_learns_labels_by_heart_is_attacked_and_dp_sgd_is_not():
    """Labels without meaning: whatever a model knows of them is membership."""
    inputs, labels = data()
    plain = membership.Softmax(inputs, labels, features=400, steps=100, rate=20.0)
    private = membership.Softmax(inputs, labels, features=400, steps=20, rate=2.0, noise=20.0)
    attacked = membership.likelihood_ratio(plain, 200, 8, np.random.default_rng(1))
    guarded = membership.likelihood_ratio(private, 200, 8, np.random.default_rng(1))
    assert attacked.auc > 0.9
    assert attacked.tpr > 0.15
    assert attacked.fpr <= 0.01
    assert attacked.epsilon > 1
    # 800 members and as many others: the standard error of the area is 0.015; five of them
    assert abs(guarded.auc - 0.5) < 0.08
    assert private.epsilon(1e-5) < 1.0
    assert plain.epsilon(1e-5) == math.inf
    assert guarded.epsilon <= private.epsilon(1e-5)


def test_an_ignorant_model_cannot_be_attacked():
    """Confidence without relation to membership: the area within five standard errors of 1/2."""
    found = membership.likelihood_ratio(lambda chosen, rng: rng.random(300), 300, 10, np.random.default_rng(0))
    assert abs(found.auc - 0.5) < 5 * math.sqrt(1 / (12 * 1500) * 2)
    assert found.tpr < 0.03


def test_a_telling_model_is_attacked_perfectly():
    def train(chosen, rng):
        return np.where(chosen, 0.99, 0.5) + 1e-3 * rng.random(len(chosen))

    found = membership.likelihood_ratio(train, 100, 8, np.random.default_rng(0))
    assert (found.auc, found.tpr, found.fpr) == (1.0, 1.0, 0.01)


def test_every_record_is_in_half_of_the_models():
    chosen = membership._halves(50, 8, np.random.default_rng(0))
    assert (chosen.sum(axis=0) == 4).all()


def test_too_few_models_are_refused():
    with pytest.raises(ValueError, match="3 models are too few"):
        membership.likelihood_ratio(lambda chosen, rng: rng.random(10), 10, 3, np.random.default_rng(0))


def test_clipped_gradients_are_no_longer_than_the_clip():
    """One step from zero with clip c and no noise moves the weights by at most rate * c: all records clipped."""
    inputs, labels = data(1)
    quiet = membership.Softmax(inputs, labels, features=50, steps=1, rate=1.0, clip=1e-3, noise=1e-9)
    before = membership.Softmax(inputs, labels, features=50, steps=0)
    chosen = np.ones(1, dtype=bool)
    rng = np.random.default_rng(0)
    assert abs(quiet(chosen, rng)[0] - before(chosen, rng)[0]) < 2e-3
