"""Local kernels: exact pmfs, exact unbiasedness, exact epsilon, samplers, closed forms of the error."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from privacy_cases import assert_closed_form, chi_square

from fedbound.errors import InputError
from fedbound.privacy import loss, mechanisms, stage, transforms
from fedbound.privacy.kernels import Table
from fedbound.privacy.local import pick
from fedbound.privacy.mechanisms import Setting, brr, cldp, grr, mvu, noisy_sign, rqm

X = np.linspace(-1, 1, 41)
EPSILONS = (0.5, 1.0, 3.0)
MAKERS = {
    "grr": lambda epsilon: grr.table(epsilon, 3),
    "brr": lambda epsilon: brr.table(epsilon, 3),
    "cldp": cldp.table,
    "mvu": lambda epsilon: mvu.optimal(epsilon, 2),
    "rqm": lambda epsilon: rqm.best(epsilon, 8),
    "noisy_sign": lambda epsilon: noisy_sign.table(noisy_sign.noise(epsilon)),
}
UNBIASED = sorted(set(MAKERS) - {"noisy_sign"})
LOCAL = ["grr", "brr", {"name": "mvu", "bits": 2}, {"name": "rqm", "levels": 8}, "noisy_sign"]


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("name", MAKERS)
def test_pmf_epsilon_and_moments(name, epsilon):
    kernel = MAKERS[name](epsilon)
    pmf = kernel.pmf(X)
    assert (pmf >= 0).all()
    np.testing.assert_allclose(pmf.sum(axis=1), 1, rtol=1e-12)
    assert 0.999 * epsilon <= kernel.pure_epsilon <= epsilon * (1 + 1e-9)
    p, q = kernel.worst_pair()
    assert np.abs(np.log(p / q)).max() == pytest.approx(kernel.pure_epsilon, rel=1e-12)
    np.testing.assert_allclose(kernel.mean(X), pmf @ kernel.values, atol=1e-12 * np.abs(kernel.values).max())
    second = pmf @ np.square(kernel.values)
    np.testing.assert_allclose(kernel.variance(X), second - np.square(kernel.mean(X)), rtol=1e-9)
    # no input in between has a larger ratio than the corners
    between = np.log(kernel.pmf(np.linspace(-1, 1, 301)))
    assert (between.max(axis=0) - between.min(axis=0)).max() <= kernel.pure_epsilon + 1e-9


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("name", UNBIASED)
def test_decoding_is_exactly_unbiased(name, epsilon):
    kernel = MAKERS[name](epsilon)
    np.testing.assert_allclose(kernel.pmf(X) @ kernel.values, X, atol=1e-11 * np.abs(kernel.values).max())


@pytest.mark.parametrize("name", MAKERS)
def test_sampler_has_its_pmf(name):
    """Chi-square at four inputs, at a false-alarm rate of 1e-6 each."""
    kernel = MAKERS[name](1.0)
    for i, x in enumerate((-1.0, -0.37, 0.2, 1.0)):
        drawn = kernel.sample(np.full((300, 100), x), np.random.default_rng(i))
        assert drawn.shape == (300, 100)
        observed = np.bincount(drawn.ravel(), minlength=kernel.levels)
        statistic, limit = chi_square(observed, kernel.pmf(np.array([x]))[0], 1e-6)
        assert statistic < limit


@pytest.mark.parametrize("name", MAKERS)
def test_no_level_set_is_likelier_than_epsilon_allows(name):
    """Every pair of corners (a sample of them for many): hockey-stick divergence at epsilon is 0."""
    kernel = MAKERS[name](1.0)
    pairs = kernel.pairs()
    for p, q in pairs[:: max(1, len(pairs) // 50)]:
        assert loss.hockey_stick(p, q, np.array([1.0]))[0] <= 1e-12
        assert loss.hockey_stick(q, p, np.array([1.0]))[0] <= 1e-12


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 7), st.floats(0.05, 3), st.floats(0.05, 0.95), st.floats(-1, 1))
def test_rqm_closed_form_is_the_enumeration(levels, margin, kept, x):
    """Sum over all sets of kept levels, of the stochastic rounding between the kept neighbours."""
    grid = np.linspace(-1 - margin, 1 + margin, levels)
    expected = np.zeros(levels)
    for inner in itertools.product((False, True), repeat=levels - 2):
        chosen = grid[[True, *inner, True]]
        weight = math.prod(kept if one else 1 - kept for one in inner)
        right = int(np.clip(np.searchsorted(chosen, x, side="right"), 1, len(chosen) - 1))
        a, b = chosen[right - 1], chosen[right]
        up = (x - a) / (b - a)
        expected[np.flatnonzero(grid == b)[0]] += weight * up
        expected[np.flatnonzero(grid == a)[0]] += weight * (1 - up)
    np.testing.assert_allclose(rqm.table(levels, margin, kept).pmf(np.array([x]))[0], expected, atol=1e-13)


@pytest.mark.parametrize(
    ("margin", "kept", "epsilon", "rdp2", "middle", "end"),
    [(1.0, 0.42, 5.470, 5.064, 0.243, 0.215), (2.33, 0.42, 3.585, 3.075, 0.675, 0.644)],
)
def test_rqm_of_the_note(margin, kept, epsilon, rdp2, middle, end):
    kernel = rqm.table(16, margin, kept)
    assert kernel.pure_epsilon == pytest.approx(epsilon, abs=6e-4)
    assert kernel.renyi([2])[0] == pytest.approx(rdp2, abs=6e-4)
    assert kernel.variance(np.array([0.0, 1.0])) == pytest.approx([middle, end], abs=6e-4)


def test_rqm_worst_inputs_are_not_the_ends():
    """Order 8: 5.3442 between a level inside and an end, above 5.3156 between the ends."""
    kernel = rqm.table(16, 1.0, 0.42)
    assert kernel.renyi([8])[0] == pytest.approx(5.3442, abs=1e-4)
    assert loss.renyi(kernel.rows[-1], kernel.rows[0], [8])[0] == pytest.approx(5.3156, abs=1e-4)


# Variance at 0 and at the ends: figure 2 of the MVU paper as the note reproduced it
FIGURE2 = {
    ("brr", 1): (15.307, 15.287),
    ("brr", 3): (1.599, 1.578),
    ("brr", 5): (0.513, 0.492),
    ("grr", 1): (11.401, 15.941),
    ("grr", 3): (0.284, 0.674),
    ("grr", 5): (0.046, 0.079),
    ("cldp", 1): (4.683, 3.683),
    ("cldp", 3): (1.2206, 0.2206),
    ("cldp", 5): (1.027, 0.027),
}


@pytest.mark.parametrize("case", FIGURE2)
def test_variances_of_the_mvu_papers_figure(case):
    name, epsilon = case
    variance = MAKERS[name](epsilon).variance(np.array([0.0, 1.0]))
    np.testing.assert_allclose(variance, FIGURE2[case], atol=6e-4)


@pytest.mark.parametrize(
    ("epsilon", "one_bit", "noted"), [(1.0, 4.683, 4.334), (2.0, 1.724, 1.017), (3.0, 1.221, 0.394)]
)
def test_mvu_is_no_worse_than_the_note_and_than_one_bit(epsilon, one_bit, noted):
    """Worst variance of two bits; the note's came from another solver of the same non-convex problem."""
    assert mvu.optimal(epsilon, 1).variance(X).max() == pytest.approx(one_bit, abs=6e-4)
    assert mvu.optimal(epsilon, 2).variance(X).max() <= noted + 6e-4


@pytest.mark.parametrize(("sigma", "epsilon"), [(0.5, 3.76), (1, 1.668), (2, 0.807), (4, 0.400)])
def test_noisy_sign_of_the_note(sigma, epsilon):
    assert noisy_sign.pure_epsilon(sigma) == pytest.approx(epsilon, abs=6e-3)
    kernel = noisy_sign.table(sigma)
    assert kernel.pure_epsilon == pytest.approx(noisy_sign.pure_epsilon(sigma), rel=1e-12)


def test_a_kernel_that_excludes_an_input_has_no_epsilon():
    assert Table(np.array([-1.0, 1.0]), np.eye(2), np.array([-1.0, 1.0])).pure_epsilon == math.inf


@pytest.mark.parametrize("choice", LOCAL)
@pytest.mark.parametrize("epsilon", [1.0, 6.0])
def test_error_of_vectors_is_the_closed_form(choice, epsilon):
    """z-test at 4.5 sigma (7e-6), plus 3 % for taking rotated coordinates as those of a random direction."""
    name, options = (choice, {}) if isinstance(choice, str) else (choice["name"], {"bits": choice.get("bits")})
    if "levels" in choice:
        options = {"levels": choice["levels"]}
    elif isinstance(choice, str):
        options = {}
    release = mechanisms.get(name, **options).calibrate(Setting(epsilon, 1e-5, 200, 50, 2.0))
    assert (release.guarantee.trust, release.guarantee.adjacency) == ("local", "replace")
    assert 0.99 * epsilon <= release.guarantee.epsilon <= epsilon
    assert_closed_form(release, stage.clients(200, 50, 2.0, "L2", seed=2), 150, slack=0.03)


def test_cldp_error_is_the_closed_form_of_the_paper():
    release = mechanisms.get("cldp").calibrate(Setting(1.0, 1e-5, 500, 64, 1.0))
    vectors = stage.clients(500, 64, 1.0, "L1", seed=2)
    scale = 1 / math.tanh(0.5)
    assert release.mse == pytest.approx(scale**2 / 500)
    assert_closed_form(release, vectors, 150, slack=np.square(vectors).mean() / scale**2)


def test_more_coordinates_at_higher_epsilon():
    """With one bit a coordinate, about one more is worth its share of epsilon every two units."""
    few, many = (mechanisms.get("mvu", bits=1).calibrate(Setting(e, 1e-5, 100, 64, 1.0)).coordinates for e in (1, 10))
    assert few == 1
    assert many >= 4
    fixed = mechanisms.get("mvu", bits=1, coordinates=2).calibrate(Setting(10, 1e-5, 100, 64, 1.0))
    assert fixed.coordinates == 2
    assert fixed.bits == 2 / 64


def test_rqm_says_when_its_levels_do_not_reach():
    with pytest.raises(InputError, match=r"privacy.mechanism.levels: 3 levels cannot reach epsilon 1e-12"):
        mechanisms.get("rqm", levels=3).calibrate(Setting(1e-12, 1e-5, 10, 8, 1.0))


@pytest.mark.parametrize(("size", "count"), [(8, 1), (8, 3), (8, 8)])
def test_picked_coordinates_differ_and_are_uniform(size, count):
    """Chi-square at a false-alarm rate of 1e-6; counts of distinct picks vary less than independent ones."""
    chosen = pick(20_000, size, count, np.random.default_rng(0))
    assert all(len(set(row)) == count for row in chosen[:50].tolist())
    if count < size:
        statistic, limit = chi_square(np.bincount(chosen.ravel(), minlength=size), np.full(size, 1 / size), 1e-6)
        assert statistic < limit


@pytest.mark.parametrize("size", [1, 2, 16, 1024])
def test_coordinates_of_a_random_direction(size):
    x = transforms.sphere_coordinates(size)
    assert np.mean(x**2) == pytest.approx(1 / size, rel=1e-12)
    if size > 1:
        assert np.mean(x**4) == pytest.approx(3 / (size * (size + 2)), rel=0.01)


def test_a_box_is_not_rotated():
    with pytest.raises(InputError, match="rotation 'hadamard' is refused with norm Linf"):
        mechanisms.get("grr", norm="Linf")
    box = mechanisms.get("grr", norm="Linf", rotation="none").calibrate(Setting(2.0, 1e-5, 10, 4, 0.5))
    far = np.array([[9.0, -9.0, 0.2, 0.0]])  # every coordinate is cut by itself: the third stays
    chosen = np.arange(4)[None, :]
    rng = np.random.default_rng(0)
    sent = np.array([box.encode(far, box.spread.trivial, chosen, rng)[0] for _ in range(4000)])
    means = box.kernel.values[sent].mean(axis=0)
    spread = box.kernel.values[sent].std(axis=0) / np.sqrt(4000)
    np.testing.assert_array_less(np.abs(means - [1, -1, 0.4, 0]), 5 * spread)  # 6e-7 each
