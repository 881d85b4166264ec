from __future__ import annotations

import numpy as np
import pytest

from fedbound import codecs
from fedbound.auditing import compression

LOSSY = ["ebq", "sz2", "sz3", "zfp"]
X = (0.02 * np.random.default_rng(0).laplace(size=16_384)).astype(np.float32)
RANGE = float(X.max() - X.min())


@pytest.mark.parametrize("name", ["ebq", "sz2", "sz3"])
@pytest.mark.parametrize("relative", [1e-3, 1e-2])
def test_the_error_of_linear_quantizers_is_uniform_and_not_laplace(name, relative):
    """Kolmogorov-Smirnov distances: the 1e-6 quantile for 16,384 values is 0.021."""
    law = compression.error_law(codecs.get(name), X, relative * RANGE)
    assert law.uniform < 0.021 < 0.06 < law.laplace
    assert abs(law.with_data) < 0.05


@pytest.mark.parametrize("name", ["ebq", "sz2", "sz3"])
def test_where_the_error_looks_like_laplace_it_is_the_data(name):
    law = compression.error_law(codecs.get(name), X, 0.1 * RANGE)
    assert law.laplace < 0.08 < law.uniform
    assert law.with_data > 0.15
    assert law.kept < 0.2


@pytest.mark.parametrize("name", LOSSY)
def test_recompressing_tells_neighbours_apart(name):
    codec, rng = codecs.get(name), np.random.default_rng(1)
    bound = 1e-2 * RANGE
    advantages = [compression.recompress(codec, X[:2048], bound, m * bound, 60, rng).advantage for m in (0.3, 4)]
    assert 0 < advantages[0] <= 1
    assert advantages[1] == 1.0


@pytest.mark.parametrize("name", LOSSY)
def test_one_floating_point_step_can_change_the_output_for_certain(name):
    codec, bound = codecs.get(name), 1e-2 * RANGE
    pair = compression.edge_pair(codec, X[:2048], 5, bound)
    assert pair is not None
    assert np.nextafter(np.float32(pair.low), np.float32(pair.high)) == np.float32(pair.high)
    assert pair.outputs[0] != pair.outputs[1]
    for value, output in zip((pair.low, pair.high), pair.outputs, strict=True):
        moved = X[:2048].copy()
        moved[5] = value
        assert codec.decode(codec.encode(moved, bound), np.empty_like(moved))[5] == np.float32(output)


def test_a_constant_output_has_no_edge():
    assert compression.edge_pair(codecs.get("ebq"), np.zeros(64, np.float32), 0, 0.0) is None


@pytest.mark.parametrize("name", ["ebq", "sz3"])
def test_noise_first_costs_what_is_expected_and_saves_most_bits(name):
    sigma = 0.02
    bound = compression.suggested_bound(sigma)
    found = compression.noised_first(codecs.get(name), X, sigma, bound, np.random.default_rng(2))
    assert found.expected == pytest.approx(0.05)
    assert found.extra == pytest.approx(found.expected, abs=0.02)
    assert found.bits < found.exact_bits / 5
