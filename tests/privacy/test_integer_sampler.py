"""Exact samplers: tables against pmfs computed otherwise, inversion against whole numbers, draws by chi-square."""

from __future__ import annotations

import math
from bisect import bisect_right
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from privacy_cases import chi_square

from fedbound.privacy import integer_sampler
from fedbound.privacy.integer_sampler import UNIT_BITS, IntegerLaw, Inversion
from fedbound.privacy.mechanisms import binomial, ddgauss, skellam

FULL = 1 << UNIT_BITS
LAWS = {
    "skellam": integer_sampler.skellam,
    "discrete Gaussian": integer_sampler.discrete_gaussian,
    "binomial": integer_sampler.centred_binomial,
}


def units_of(table: Inversion) -> list[int]:
    """Probabilities of a table's only law, in units of 2^-128."""
    cdf = [(int(high) << 64) | int(low) for high, low in zip(table.high, table.low, strict=True)]
    cdf[-1] += 1  # 2^128 is held as the number below
    return [upper - lower for lower, upper in zip([0, *cdf], cdf, strict=False)]


def pmf_of(law: IntegerLaw) -> dict[int, float]:
    """Probabilities of the mixture in units of 2^-128, as the tables have them, by outcome."""
    if law.rest is None:
        return {law.lowest + i: units for i, units in enumerate(units_of(law.blocks))}
    *blocks, left = units_of(law.blocks)
    width = 1 << law.width_bits
    rest = units_of(law.rest)
    found = {}
    for i, units in enumerate(rest):
        block = blocks[i // width] if i // width < len(blocks) else 0
        assert block % width == 0
        found[law.lowest + i] = block // width + units * left // FULL
    return found


def exact(name: str, parameter: float, z: int) -> Decimal:
    """The pmf at z in proportion, by the formula itself in 70 digits."""
    with localcontext() as context:
        context.prec = 70
        if name == "discrete Gaussian":
            return (-Decimal(z * z) / (2 * Decimal(parameter))).exp()
        if name == "binomial":
            return Decimal(math.comb(int(parameter), int(parameter) // 2 + z))
        rate, z = Decimal(parameter) / 2, abs(z)
        term = rate**z / math.factorial(z)
        total = Decimal(0)
        for j in range(1, 20 + 4 * math.ceil(parameter + 10)):
            total += term
            term *= rate * rate / (j * (j + z))
        return total + term


@pytest.mark.parametrize(
    ("name", "parameter"),
    [("skellam", 1e-9), ("skellam", 0.7), ("skellam", 16.0), ("skellam", 80.3),
     ("discrete Gaussian", 0.05), ("discrete Gaussian", 1.3), ("discrete Gaussian", 4000.0),
     ("discrete Gaussian", 40000.0), ("binomial", 2), ("binomial", 36), ("binomial", 1200)],
)  # fmt: skip
def test_the_law_is_the_formulas_to_2_to_the_minus_115(name, parameter):
    held = pmf_of(LAWS[name](parameter))
    assert sum(held.values()) <= FULL
    with localcontext() as context:
        context.prec = 60
        wanted = {z: exact(name, parameter, z) for z in held}
        total = sum(wanted.values())
        off = sum(abs(Decimal(units) - wanted[z] / total * FULL) for z, units in held.items())
    assert off < 1 << 13  # total variation, twice, in units of 2^-128
    assert min(held) == -max(held)


@pytest.mark.parametrize("name", ["skellam", "discrete Gaussian", "binomial"])
def test_what_is_left_out_is_below_2_to_the_minus_138(name):
    """The last outcome held is less likely than 2^-138 (a binomial's may be its very last)."""
    for parameter in (4, 100, 250_000):
        law = LAWS[name](parameter)
        edge = law.lowest
        variance = parameter / 4 if name == "binomial" else parameter
        assert (name == "binomial" and edge == -parameter // 2) or edge**2 / (2 * variance) > 90
    assert integer_sampler.skellam(1e-3).lowest < -10  # wider tails than a Gaussian's


@pytest.mark.parametrize("variance", [9.0, 3000.0**2])
def test_a_wide_law_has_the_pmf_of_a_narrow_one(variance):
    """Blocks and rest together are the discrete Gaussian, here by float64 weights, relative to 1e-12."""
    held = pmf_of(integer_sampler.discrete_gaussian(variance))
    z = np.array(list(held))
    weights = np.exp(-(z**2) / (2 * variance))
    near = np.abs(z) < 6 * math.sqrt(variance)
    ours = np.array([units / FULL for units in held.values()])
    assert np.allclose(ours[near], (weights / weights.sum())[near], rtol=1e-12, atol=0)
    law = integer_sampler.discrete_gaussian(variance)
    assert (law.rest is not None) == (variance > 1e4)


@given(
    weights=st.lists(st.integers(0, 2**40), min_size=1, max_size=40).filter(any),
    numbers=st.lists(st.integers(0, FULL - 1), max_size=20),
    shift=st.sampled_from([0, 1, -1]),
    cell_bits=st.integers(1, 16),
)
@settings(max_examples=60, deadline=None)
def test_inversion_is_a_search_in_whole_numbers(weights, numbers, shift, cell_bits):
    cdf = integer_sampler.cumulative(weights)
    back = integer_sampler.cumulative(weights[::-1])
    table = Inversion([cdf, back], cell_bits)
    edges = [min(FULL - 1, max(0, units + shift)) for units in [*cdf, *back]]
    for row, own in enumerate((cdf, back)):
        asked = [*numbers, *edges, 0, FULL - 1]
        high = np.array([number >> 64 for number in asked], np.uint64)
        low = np.array([number & (2**64 - 1) for number in asked], np.uint64)
        found = table.invert(high, low, row)
        assert found.tolist() == [bisect_right(own, number) for number in asked]
        for cell in {0, 1, (1 << cell_bits) // 3, (1 << cell_bits) - 1}:
            ends = (cell << (UNIT_BITS - cell_bits), ((cell + 1) << (UNIT_BITS - cell_bits)) - 1)
            known = int(table.known[(row << cell_bits) + cell])
            assert known == -1 or [known, known] == [bisect_right(own, end) for end in ends]


def test_cells_within_one_outcome_are_known():
    """Three outcomes of 1/4, 1/2, 1/4: no cell is shared; of 1/3 each: two are."""
    even = Inversion([[FULL // 4, 3 * FULL // 4, FULL]], 8)
    assert np.array_equal(even.known, np.repeat([0, 1, 2], [64, 128, 64]))
    thirds = Inversion([integer_sampler.cumulative([1, 1, 1])], 8)
    assert np.flatnonzero(thirds.known < 0).tolist() == [256 // 3, 2 * 256 // 3]


@pytest.mark.parametrize(
    ("name", "parameter"),
    [("skellam", 0.3), ("skellam", 16.0), ("discrete Gaussian", 1e6), ("skellam", 3e6), ("binomial", 40_000)],
)
def test_draws_follow_the_law(name, parameter):
    """Chi-square over cells of a tenth of a standard deviation or more, at a false-alarm rate of 1e-6."""
    law = LAWS[name](parameter)
    drawn = law.draw((3, 100_000), np.random.default_rng(5))
    assert (drawn.dtype, drawn.shape) == (np.int64, (3, 100_000))
    held = np.array([units / FULL for units in pmf_of(law).values()])
    step = max(1, len(held) // 280)
    starts = np.arange(0, len(held), step)
    observed = np.add.reduceat(np.bincount(drawn.ravel() - law.lowest, minlength=len(held)), starts)
    statistic, limit = chi_square(observed, np.add.reduceat(held, starts), 1e-6)
    assert statistic < limit
    if step > 1:  # within blocks, too
        fine = np.bincount((drawn.ravel() - law.lowest) % 8, minlength=8)
        statistic, limit = chi_square(fine, np.array([held[i::8].sum() for i in range(8)]), 1e-6)
        assert statistic < limit


def test_the_same_seed_gives_the_same_noise_and_every_shape():
    law = integer_sampler.skellam(10.0)
    one, two = (law.draw((70_001,), np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one, two)
    assert law.draw((), np.random.default_rng(0)).shape == ()
    assert law.draw((0, 4), np.random.default_rng(0)).shape == (0, 4)


@pytest.mark.parametrize("kind", [skellam, ddgauss, binomial])
def test_mechanisms_draw_from_the_table_and_without_one_from_numpy(kind, monkeypatch):
    """Both have the variance of the share: 5 standard errors of 40,000 squares, false alarms below 1e-6."""
    p = kind.Parameters(noise=30.0, scale=1.0, limit=4.0, size=4, clients=4, honest=4)
    drawn = p.draw((40_000,), np.random.default_rng(1))
    called = {skellam: "skellam", ddgauss: "discrete_gaussian", binomial: "centred_binomial"}[kind]
    law = getattr(integer_sampler, called)(p.trials if kind is binomial else p.share_variance)
    assert np.array_equal(drawn, law.draw((40_000,), np.random.default_rng(1)))
    monkeypatch.setattr(integer_sampler, called, lambda _: None)
    otherwise = p.draw((40_000,), np.random.default_rng(1))
    assert not np.array_equal(drawn, otherwise)
    for noise in (drawn, otherwise):
        assert np.mean(noise**2) == pytest.approx(p.share_variance, rel=5 * math.sqrt(2 / 40_000))


@pytest.mark.parametrize("law", [integer_sampler.skellam, integer_sampler.discrete_gaussian])
def test_laws_too_wide_have_no_table(law):
    assert law(10_000.0**2) is None
    assert law(1e300) is None
    assert integer_sampler.centred_binomial(4 * 10_000**2) is None


def test_cumulative_ends_with_one():
    cdf = integer_sampler.cumulative([3, 0, 5])
    assert cdf == [3 * FULL // 8, 3 * FULL // 8, FULL]
