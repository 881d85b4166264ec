"""Top-k: exactly the largest magnitudes, exactly as they were."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbound import codecs
from fedbound.codecs.guard import encode_checked
from fedbound.codecs.payload import seal


@given(
    size=st.sampled_from([1, 2, 7, 1009, 30_000]),
    fraction=st.sampled_from([1e-4, 0.01, 0.3, 1.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
    ties=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_largest_are_kept_and_all_else_is_zero(size, fraction, dtype, ties, seed):
    rng = np.random.default_rng(seed)
    x = (rng.integers(-3, 4, size) if ties else rng.standard_t(2, size)).astype(dtype)
    codec = codecs.get("topk", fraction=fraction)
    out = codec.decode(codec.encode(x, 0.0), np.empty_like(x))
    count = max(1, math.ceil(round(fraction * size, 6)))
    order = np.argsort(-np.abs(x), kind="stable")[:count]  # the first ones among equals
    expected = np.zeros_like(x)
    expected[order] = x[order]
    exact = len(codec.encode(x, 0.0)) and np.array_equal(out, x)  # small arrays go the exact way
    assert exact or np.array_equal(out, expected)


def test_the_sparse_way_is_taken_and_small():
    x = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    checked = encode_checked(codecs.get("topk", fraction=0.01), x, 0.0)
    assert (checked.codec_id, checked.bound, np.count_nonzero(checked.decoded)) == (7, 0.0, 2000)
    # 32 bits per value and the entropy of the places, log2(e / 0.01) = 8.1 bits
    assert len(checked.payload) * 8 / 2000 < 41.5


def test_a_receiver_needs_no_options():
    x = np.random.default_rng(5).normal(size=50_000)
    sent = codecs.get("topk", fraction=0.2)
    payload = sent.encode(x, 0.0)
    np.testing.assert_array_equal(
        codecs.get("topk").decode(payload, np.empty_like(x)), sent.decode(payload, np.empty_like(x))
    )


@pytest.mark.parametrize("gaps", [[5.0, -1.0], [5.0, 1e18], [99_999.0, 0.0], [50_000.0, 50_000.0]])
def test_places_outside_of_the_array_are_refused(gaps):
    x = np.ones(100_000, np.float32)
    codec = codecs.get("topk")
    stream = codec._coder._compress(np.array(gaps * 4), 0.5)
    payload = seal(x, (8).to_bytes(8, "little") + x[:8].tobytes() + stream)
    with pytest.raises(ValueError, match="outside of the array"):
        codec.decode(payload, np.empty_like(x))
