"""QSGD: the paper's lemma 3.1, exactly where one draw decides and statistically where it says an expectation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbound import codecs
from fedbound.codecs.guard import encode_checked
from fedbound.codecs.payload import LOSSY


def decoded(x, **options):
    codec = codecs.get("qsgd", **options)
    return codec.decode(codec.encode(x, 0.0), np.empty_like(x))


@given(
    size=st.sampled_from([1, 5, 512, 1009, 4096]),
    levels=st.sampled_from([1, 3, 7, 1000]),
    bucket=st.sampled_from([1, 64, 512, 10**6]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 9),
)
def test_every_value_is_one_of_the_two_levels_around_it(size, levels, bucket, dtype, seed):
    x = np.random.default_rng(seed).normal(size=size).astype(dtype)
    codec = codecs.get("qsgd", levels=levels, bucket=bucket, seed=seed)
    payload = codec.encode(x, 0.0)
    out = codec.decode(payload, np.empty_like(x))
    if payload[0] != LOSSY:  # where norms and levels take more than the values
        np.testing.assert_array_equal(out, x)
        return
    for start in range(0, size, bucket):
        part = slice(start, start + bucket)
        norm = float(np.linalg.norm(x[part].astype(np.float64)))
        steps = np.abs(x[part] - out[part]) * levels / norm
        assert steps.max() <= 1 + 1e-5  # at most one level away
        whole = out[part] * levels / norm
        np.testing.assert_allclose(whole, np.round(whole), atol=1e-5 * levels)
        assert (out[part] * x[part] >= 0).all()  # signs are kept


def test_rounding_is_unbiased_and_its_variance_within_the_lemma():
    rng = np.random.default_rng(1)
    x = rng.laplace(size=2048).astype(np.float32)
    draws = np.stack([decoded(x, levels=4, bucket=256, seed=seed) for seed in range(400)]).astype(np.float64)
    error = draws - x
    norm = np.repeat(np.linalg.norm(x.astype(np.float64).reshape(8, 256), axis=1), 256)
    share = np.modf(4 * np.abs(x) / norm)[0]
    variance = (norm / 4) ** 2 * share * (1 - share)
    # 20 random contrasts of the 2048 means of 400 draws: |z| > 5.5 has a false-alarm rate below 20 * 4e-8
    signs = rng.choice([-1.0, 1.0], (20, 2048))
    assert np.abs(signs @ error.mean(0)).max() <= 5.5 * np.sqrt(variance.sum() / 400)
    # the mean of 400 sums of 2048 squares: within 5 % of its expectation, five standard deviations and more
    assert (error**2).sum(1).mean() == pytest.approx(variance.sum(), rel=0.05)
    for start in range(0, 2048, 256):
        assert variance[start : start + 256].sum() <= min(256 / 16, 16 / 4) * norm[start] ** 2


def test_the_draw_follows_from_values_and_seed():
    x = np.random.default_rng(2).normal(size=3000).astype(np.float32)
    codec = codecs.get("qsgd")
    assert codec.encode(x, 0.0) == codec.encode(x.copy(), 5.0)
    assert codec.encode(x, 0.0) != codecs.get("qsgd", seed=1).encode(x, 0.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zeros_tiny_and_huge_values(dtype):
    limit = np.finfo(dtype)
    zeros = np.zeros(2000, dtype)
    np.testing.assert_array_equal(decoded(zeros), zeros)
    for scale in (limit.tiny * 8, limit.max / 1e4):
        x = (np.random.default_rng(3).normal(size=2000) * scale).astype(dtype)
        assert np.isfinite(decoded(x)).all()


def test_it_is_small_and_promises_no_bound():
    x = np.random.default_rng(4).normal(size=100_000).astype(np.float32)
    checked = encode_checked(codecs.get("qsgd"), x, 0.1)
    assert (checked.codec_id, checked.bound, checked.violations) == (6, 0.0, 0)
    assert x.nbytes / len(checked.payload) > 15


def test_a_receiver_needs_no_options():
    x = np.random.default_rng(5).normal(size=5000).astype(np.float32)
    payload = codecs.get("qsgd", levels=100, bucket=64, seed=8).encode(x, 0.0)
    np.testing.assert_array_equal(
        codecs.get("qsgd").decode(payload, np.empty_like(x)), decoded(x, levels=100, bucket=64, seed=8)
    )
