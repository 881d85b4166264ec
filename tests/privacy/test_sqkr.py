from __future__ import annotations

import math

import numpy as np
import pytest
from privacy_cases import assert_closed_form, errors_of

from fedbound.privacy import mechanisms, stage, transforms
from fedbound.privacy.mechanisms import Setting, sqkr


@pytest.mark.parametrize("dimension", [1, 7, 64, 500])
def test_kashin_representation_is_exact_and_flat(dimension):
    vectors = stage.clients(200, dimension, 3.0, "L2", seed=0)
    vectors[0] = 0.0
    vectors[1] = 0.0
    vectors[1, 0] = 3.0  # the worst case without a rotation
    frame = sqkr.random_frame(dimension, np.random.default_rng(1))
    found = sqkr.kashin(vectors, frame, 3.0)
    assert found.shape == (200, sqkr.frame_size(dimension))
    assert np.abs(found).max() <= sqkr.LEVEL * 3.0 / math.sqrt(frame.size) * (1 + 1e-12)
    missed = transforms.norms(frame.vectors(found) - vectors, 2)
    assert (missed < 0.5).all()  # few dimensions' frames cannot spread every vector
    assert np.median(missed) < 1e-3
    np.testing.assert_allclose(transforms.norms(frame.coefficients(vectors), 2), transforms.norms(vectors, 2))


@pytest.mark.parametrize(("epsilon", "coordinates"), [(0.5, 1), (2.0, 3), (6.0, 6)])
def test_randomised_response_has_its_epsilon(epsilon, coordinates):
    release = mechanisms.get("sqkr", coordinates=coordinates).calibrate(Setting(epsilon, 1e-5, 10, 8, 1.0))
    kept, other = release.string_pmf()
    assert kept + (2**coordinates - 1) * other == pytest.approx(1, rel=1e-12)
    assert math.log(kept / other) == pytest.approx(epsilon, rel=1e-12)


def test_strings_are_kept_as_often_as_they_should():
    """The mean of a bit whose coefficient is known: lambda a / level, at 5 sigma (6e-7)."""
    release = mechanisms.get("sqkr", coordinates=3).calibrate(Setting(2.0, 1e-5, 10_000, 64, 1.0))
    frame = sqkr.random_frame(64, np.random.default_rng(0))
    vector = stage.clients(1, 64, 1.0, "L2", seed=1)
    coefficients = sqkr.kashin(vector, frame, 1.0)[0, :3] * math.sqrt(frame.size) / sqkr.LEVEL
    chosen = np.tile(np.arange(3), (10_000, 1))
    sent = release.encode(np.repeat(vector, 10_000, axis=0), frame, chosen, np.random.default_rng(2))
    assert set(np.unique(sent)) == {-1.0, 1.0}
    assert (np.abs(sent.mean(axis=0) - release.kept * coefficients) < 5 / math.sqrt(len(sent))).all()


@pytest.mark.parametrize("epsilon", [1.0, 5.0])
def test_error_is_the_closed_form(epsilon):
    """z-test at 4.5 sigma (7e-6), plus 4 %: the coefficients' norm is taken as c, and their clip is left out."""
    release = mechanisms.get("sqkr").calibrate(Setting(epsilon, 1e-5, 200, 60, 2.0))
    assert_closed_form(release, stage.clients(200, 60, 2.0, "L2", seed=2), 80, slack=0.04)


def test_error_is_unbiased():
    """Mean error in the direction of a large mean, 4.5 sigma: 7e-6."""
    release = mechanisms.get("sqkr").calibrate(Setting(4.0, 1e-5, 100, 30, 1.0))
    vectors = np.abs(stage.clients(100, 30, 1.0, "L2", seed=3))
    along = errors_of(release, vectors, 120) @ vectors.mean(axis=0)
    assert abs(along.mean()) < 4.5 * along.std(ddof=1) / math.sqrt(120)


def test_bits_grow_with_epsilon():
    bits = [mechanisms.get("sqkr").calibrate(Setting(e, 1e-5, 10, 64, 1.0)).coordinates for e in (0.5, 2.0, 4.0, 8.0)]
    assert bits[0] == 1
    assert bits == sorted(bits)
    assert bits[-1] >= 7
