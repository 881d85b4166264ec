from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedbound.privacy import transforms

finite = st.floats(-1e300, 1e300, allow_nan=False)
matrices = st.tuples(st.integers(1, 5), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=finite)
)


@settings(max_examples=150, deadline=None)
@given(matrices, st.floats(1e-6, 1e6), st.sampled_from([1, 2]))
def test_clip_keeps_norm_within_bound_and_short_rows_untouched(vectors, bound, order):
    clip = transforms.clip_l1 if order == 1 else transforms.clip_l2
    before = vectors.copy()
    clipped = clip(vectors, bound)
    assert np.array_equal(vectors, before)
    assert (transforms.norms(clipped, order) <= bound).all()
    short = transforms.norms(vectors, order) <= bound
    assert np.array_equal(clipped[short], vectors[short])
    for row, original in zip(clipped[~short], vectors[~short], strict=True):
        unit = original / np.abs(original).max()
        length = np.abs(unit).sum() if order == 1 else np.sqrt(np.square(unit).sum())
        np.testing.assert_allclose(row, unit * (bound / length), rtol=1e-9, atol=1e-300)


def test_norms_against_exact_arithmetic():
    vectors = np.array([[3.0, -4.0], [0.0, 0.0], [1e200, 1e200], [3e-200, 4e-200]])
    np.testing.assert_allclose(transforms.norms(vectors, 1), [7, 0, 2e200, 7e-200], rtol=1e-15)
    np.testing.assert_allclose(transforms.norms(vectors, 2), [5, 0, math.sqrt(2) * 1e200, 5e-200], rtol=1e-15)


@pytest.mark.parametrize(("dimension", "size"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (250, 256), (257, 512)])
def test_padded(dimension, size):
    assert transforms.padded(dimension) == size


@pytest.mark.parametrize("order", [0, 1, 2, 5])
def test_hadamard_is_sylvesters_matrix(order):
    matrix = np.ones((1, 1))
    for _ in range(order):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    size = 2**order
    got = transforms.hadamard(np.eye(size))
    np.testing.assert_allclose(got, matrix / math.sqrt(size), rtol=1e-15)
    np.testing.assert_allclose(got @ got.T, np.eye(size), atol=1e-14)


def test_hadamard_refuses_other_sizes():
    with pytest.raises(ValueError, match="power of two"):
        transforms.hadamard(np.ones((2, 6)))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_rotation_keeps_norms_and_inverts(rows, dimension, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, dimension))
    signs = transforms.random_signs(transforms.padded(dimension), rng)
    assert set(np.unique(signs)) <= {-1.0, 1.0}
    rotated = transforms.rotate(vectors, signs)
    assert rotated.shape == (rows, transforms.padded(dimension))
    np.testing.assert_allclose(transforms.norms(rotated, 2), transforms.norms(vectors, 2), rtol=1e-13)
    np.testing.assert_allclose(transforms.unrotate(rotated, signs, dimension), vectors, atol=1e-13)


def test_rotation_spreads_a_spike_evenly():
    vectors = np.zeros((1, 64))
    vectors[0, 17] = 8.0
    rotated = transforms.rotate(vectors, transforms.random_signs(64, np.random.default_rng(0)))
    np.testing.assert_allclose(np.abs(rotated), 1.0, rtol=1e-15)


@settings(max_examples=100, deadline=None)
@given(arrays(np.int64, st.integers(1, 20), elements=st.integers(-(2**62), 2**62)), st.integers(2, 32))
def test_wrap_is_congruent_and_in_range(x, bits):
    wrapped = transforms.wrap(x, bits)
    assert wrapped.dtype == np.int64
    assert (wrapped >= -(2 ** (bits - 1))).all()
    assert (wrapped < 2 ** (bits - 1)).all()
    assert all((int(a) - int(b)) % 2**bits == 0 for a, b in zip(x, wrapped, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 16), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_modular_sum_of_wrapped_is_wrapped_sum(bits, count, seed):
    x = np.random.default_rng(seed).integers(-(2**20), 2**20, (count, 5))
    assert np.array_equal(
        transforms.wrap(transforms.wrap(x, bits).sum(axis=0), bits), transforms.wrap(x.sum(axis=0), bits)
    )


def test_blocks_cover_all_rows_once():
    vectors = np.arange(700_000.0).reshape(7000, 100)
    parts = list(transforms.blocks(vectors))
    assert len(parts) > 1
    assert np.array_equal(np.concatenate(parts), vectors)
    assert [len(part) for part in transforms.blocks(np.zeros((3, 1 << 20)))] == [1, 1, 1]


def test_rounded_norm_bound_holds_the_formula():
    norm, size, beta = 3.0, 16, math.exp(-0.5)
    assert transforms.rounded_norm_squared(norm, size, beta) == pytest.approx(9 + 4 + (3 + 2))  # sqrt(2 ln 1/beta) = 1
    assert transforms.rounded_norm_squared(0.0, 1, 1e-9) == 1.0  # the certain bound (norm + sqrt D)^2


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.sampled_from([1, 4, 32]), st.floats(1e-3, 1e4), st.integers(0, 2**32 - 1))
def test_conditional_rounding_rounds_to_neighbours_within_the_norm(rows, size, norm, seed):
    rng = np.random.default_rng(seed)
    x = transforms.clip_l2(rng.normal(size=(rows, size)) * norm, norm)
    limit = transforms.rounded_norm_squared(norm, size, math.exp(-0.5))
    rounded = transforms.conditional_round(x, limit, rng)
    assert rounded.dtype == np.int64
    assert (np.abs(rounded - x) < 1).all()
    assert (np.floor(x) <= rounded).all()
    assert all(Fraction(sum(int(v) ** 2 for v in row)) <= Fraction(limit) for row in rounded)


def test_conditional_rounding_repeats_until_the_norm_fits():
    # half of all roundings of (0.5, 0.5, 0.5) have at least two ones; with limit 1 none may remain
    rounded = transforms.conditional_round(np.full((4000, 3), 0.5), 1.5, np.random.default_rng(3))
    counts = np.bincount(rounded.sum(axis=1), minlength=2)
    assert len(counts) == 2
    # given at most one 1, none has probability 1/4. Two-sided z-test at 4.4 sigma: false alarm 1e-5.
    assert abs(counts[0] - 1000) < 4.4 * math.sqrt(4000 * 3 / 16)


def test_rounding_is_unbiased_with_variance_f_one_minus_f():
    """z-tests at 5 sigma: false alarm 6e-7 each, 10 of them."""
    count = 200_000
    for fraction in (0.0, 0.1, 0.25, 0.5, 0.9):
        x = np.full((count, 1), -3 + fraction)
        rounded = transforms.conditional_round(x, np.inf, np.random.default_rng([11, int(fraction * 100)]))[:, 0]
        variance = fraction * (1 - fraction)
        assert abs(rounded.mean() - (-3 + fraction)) <= 5 * math.sqrt(variance / count) + 1e-12
        fourth = variance * (1 - 3 * variance)  # of a Bernoulli variable about its mean
        assert (
            abs(np.square(rounded - x[:, 0]).mean() - variance)
            <= 5 * math.sqrt(max(fourth - variance**2, 0) / count) + 1e-12
        )
