"""Sensitivity by hand and by finite differences; allocations against their closed forms and against search."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedbound.calibration import sensitivity as s
from fedbound.data import Split
from fedbound.exchange.layout import Layout
from fedbound.models.state import TensorSpec

TENSORS = st.lists(st.tuples(st.integers(1, 10_000), st.floats(1e-6, 1e3)), min_size=1, max_size=6)


def test_fisher_by_hand():
    """One linear layer, two classes: the gradient of a sample's loss is (p - y) x^T."""
    module = torch.nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.zero_()
        module.bias.zero_()
    x = np.array([[1.0, 0.0], [0.0, 3.0]], np.float32)
    found = s.fisher(module, [Split(x, np.array([0, 1]))], samples=2)
    # p = 1/2: each sample's gradient is +-1/2 x in both rows
    assert found["weight"] == pytest.approx((2 * 0.25 * 1 + 2 * 0.25 * 9) / 4 / 2)
    assert found["bias"] == pytest.approx(0.25)


def test_fisher_predicts_the_mean_squared_change_of_a_samples_loss():
    """By finite differences along random signs: E (loss(w + h s) - loss(w))^2 = h^2 n g. 400 directions, 5 se."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    x, y = np.random.default_rng(0).normal(size=(1, 4)), np.array([1])
    g = s.fisher(module, [Split(x, y)])["0.weight"]
    weight, h = module[0].weight, 1e-5

    def loss() -> float:
        return torch.nn.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(y)).item()

    base, original, changes = loss(), weight.detach().clone(), []
    for _ in range(400):
        with torch.no_grad():
            weight.copy_(original + h * torch.randint(0, 2, weight.shape).mul(2).sub(1))
        changes.append(((loss() - base) / h) ** 2)
    assert np.mean(changes) == pytest.approx(weight.numel() * g, abs=5 * np.std(changes) / math.sqrt(400))


@given(TENSORS, st.floats(1e-6, 1.0))
def test_minimal_bits_spend_the_increase_and_no_other_bounds_take_fewer_bits(tensors, increase):
    sizes, g = zip(*tensors, strict=True)
    bounds = s.minimal_bits(increase, sizes, g)
    assert s.expected_increase(bounds, sizes, g) == pytest.approx(increase)
    rng = np.random.default_rng(0)
    bits = -np.dot(sizes, np.log2(bounds))
    for _ in range(20):
        other = bounds * np.exp(rng.normal(size=len(sizes)))
        other *= math.sqrt(increase / s.expected_increase(other, sizes, g))
        assert -np.dot(sizes, np.log2(other)) >= bits - 1e-6 * abs(bits) - 1e-6


def test_a_tensor_without_sensitivity_is_refused():
    with pytest.raises(ValueError, match="leave it out"):
        s.minimal_bits(0.1, [1, 2], [1.0, 0.0])


def parts(g: tuple[float, ...] = (1.0, 0.01, 1.0)) -> list[s.Piece]:
    rng = np.random.default_rng(1)
    drawn = [rng.normal(size=20_000), rng.normal(size=20_000), 0.1 * rng.laplace(size=5_000)]
    return [s.Piece(x.astype(np.float32), g_l, x.size, float(np.ptp(x))) for x, g_l in zip(drawn, g, strict=True)]


def harm(found: np.ndarray, scale: float) -> float:
    return sum(p.sensitivity * p.error(scale * f * p.unit) for p, f in zip(parts(), found, strict=True))


def bits(found: np.ndarray, scale: float) -> float:
    return sum(p.bits(scale * f * p.unit) for p, f in zip(parts(), found, strict=True))


@pytest.mark.parametrize("scale", [0.005, 0.05])
@pytest.mark.parametrize("allocation", [s.analytic, s.lagrangian])
def test_at_equal_bits_both_allocations_harm_less_than_the_uniform_bound(allocation, scale):
    found, uniform = allocation(parts(), scale), np.ones(3)
    assert 0.8 * bits(uniform, scale) <= bits(found, scale) <= bits(uniform, scale) * (1 + 1e-9)
    assert harm(found, scale) < 0.75 * harm(uniform, scale)
    assert found[1] > found[0]  # the insensitive one of two equal tensors gets the coarser bound


def test_at_high_rate_the_analytic_allocation_is_the_textbooks():
    """Two equal tensors, sensitivities 4 and 1: bounds in the ratio 1 to 2."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=30_000).astype(np.float32)
    two = [s.Piece(x, g, x.size, float(np.ptp(x))) for g in (4.0, 1.0)]
    found = s.analytic(two, 0.003)
    assert found[1] / found[0] == pytest.approx(2)
    assert found[0] * found[1] == pytest.approx(1, rel=0.05)  # as many bits lost as won


@pytest.mark.parametrize("allocation", [s.analytic, s.lagrangian])
def test_what_has_no_sensitivity_or_range_keeps_the_uniform_bound(allocation):
    some = [*parts((0.0, 1.0, 2.0)), s.Piece(np.zeros(10, np.float32), 1.0, 10, 0.0)]
    found = allocation(some, 0.05)
    assert found[0] == found[3] == 1
    assert list(allocation(parts((0.0, 0.0, 1.0)), 0.05)) == [1, 1, 1]


def test_deviation_gives_every_block_the_same_bound_over_standard_deviation():
    found = s.deviation(parts((0.0, 0.0, 0.0)), 0.05)
    absolute = [f * part.unit / part.values.std() for f, part in zip(found, parts(), strict=True)]
    np.testing.assert_allclose(absolute, absolute[0], rtol=1e-5)
    assert bits(found, 0.05) == pytest.approx(bits(np.ones(3), 0.05), rel=0.02)


def test_pieces_of_a_model_follow_its_blocks():
    specs = [
        TensorSpec("w", (200, 600), "float32"),
        TensorSpec("b", (200,), "float32"),
        TensorSpec("c", (8,), "float32"),
    ]
    layout = Layout(specs)
    update = np.arange(layout.size, dtype=np.float32)
    found = s.pieces(layout, update, {"w": 2.0, "b": 1.0, "c": 27.0})
    assert [part.size for part in found] == [120_000, 208]
    assert found[0].values.size <= s.SAMPLE
    assert found[0].unit == 119_999
    assert s.pieces(layout, update, {}, "std")[0].unit == pytest.approx(update[:120_000].std(), rel=1e-6)
    assert [part.sensitivity for part in found] == pytest.approx([2.0, (200 * 1 + 8 * 27) / 208])
