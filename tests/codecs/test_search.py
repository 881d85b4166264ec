"""The search finds the grid's edge, whatever it starts from."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbound import codecs
from fedbound.codecs import search


def laplace(size=40_000, seed=0):
    return np.random.default_rng(seed).laplace(size=size).astype(np.float32)


def grid(x):
    top = float(np.abs(x).max())
    return [top * 2 ** (k / search.PER_OCTAVE) for k in range(-14 * search.PER_OCTAVE, 1)]


@pytest.mark.parametrize("name", ["ebq", "sz3", "zfp"])
@pytest.mark.parametrize("share", [0.5, 0.1, 0.02])
def test_the_budget_is_met_and_the_next_finer_bound_would_not(name, share):
    x, codec = laplace(), codecs.get(name)
    budget = int(share * x.nbytes)
    if len(codec.encode(x, float(np.abs(x).max()))) > budget:
        with pytest.raises(ValueError, match=rf"{budget} bytes cannot hold 40000 values with '{name}'"):
            search.for_budget(codec, x, budget)
        return
    found = search.for_budget(codec, x, budget)
    assert found.size == len(codec.encode(x, found.bound)) <= budget
    assert len(codec.encode(x, found.bound * 2 ** (-1 / search.PER_OCTAVE))) > budget
    assert found.tried <= (20 if name == "zfp" else 12)  # zfp is far from the entropy, where the search starts


@pytest.mark.parametrize("ratio", [2, 10, 40])
def test_the_ratio_is_not_exceeded_and_the_next_larger_bound_would(ratio):
    x, codec = laplace(), codecs.get("ebq")
    found = search.for_ratio(codec, x, ratio)
    assert x.nbytes / found.size <= ratio < x.nbytes / len(codec.encode(x, found.bound * 2 ** (1 / search.PER_OCTAVE)))
    assert x.nbytes / found.size > 0.9 * ratio


@settings(max_examples=25)
@given(guess=st.floats(-45, 20).map(lambda k: 2.0**k), share=st.sampled_from([0.3, 0.05]))
def test_what_is_found_does_not_depend_on_the_guess(guess, share):
    x, codec = laplace(5000), codecs.get("ebq")
    budget = int(share * x.nbytes)
    assert search.for_budget(codec, x, budget, guess).bound == search.for_budget(codec, x, budget).bound


def test_the_entropy_and_the_last_round_save_encodings():
    x, codec = laplace(200_000), codecs.get("ebq")
    first = search.for_budget(codec, x, x.nbytes // 20)
    again = search.for_budget(codec, laplace(200_000, seed=1), x.nbytes // 20, guess=first.bound)
    far = search.for_budget(codec, x, x.nbytes // 20, guess=first.bound * 1e-6)
    assert first.tried <= 4
    assert again.tried <= 8
    assert far.tried > first.tried


def test_parts_share_one_scale_and_constant_parts_stay_exact():
    codec = codecs.get("ebq")
    parts = [laplace(30_000), 100 * laplace(20_000, 1), np.full(2000, 3.0, np.float32)]
    units = [float(np.ptp(part)) for part in parts]
    found = search.smallest_scale(codec, parts, units, 12_000)
    sizes = [len(codec.encode(part, found.bound * unit)) for part, unit in zip(parts, units, strict=True)]
    assert sum(sizes) == found.size <= 12_000
    assert math.log2(found.bound) * search.PER_OCTAVE == pytest.approx(
        round(math.log2(found.bound) * search.PER_OCTAVE)
    )


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), 0.5])
def test_impossible_ratios_are_refused(ratio):
    with pytest.raises(ValueError, match="ratio"):
        search.for_ratio(codecs.get("ebq"), laplace(5000), ratio)
