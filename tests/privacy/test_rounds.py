"""Several releases to the same clients: the noise grows, the claim is of all of them together."""

from __future__ import annotations

import math

import pytest

from fedbound.errors import InputError
from fedbound.privacy import mechanisms
from fedbound.privacy.mechanisms import Setting

COMPOSING = {
    "gaussian": {},
    "shifted_layered": {},
    "skellam": {},
    "smm": {},
    "ddgauss": {},
    "d2pfed": {},
    "binomial": {},
    "pbm": {"bits": 12},
}
COMPOSING_TOO = {"imvu"}  # its noise is no number of its own


@pytest.mark.parametrize("name", COMPOSING)
def test_noise_grows_as_the_root_of_the_rounds(name):
    """Exactly for the Gaussian; nearly where rounding and scale follow from the noise."""
    once, often = (
        mechanisms.get(name, **COMPOSING[name]).calibrate(Setting(2.0, 1e-5, 100, 64, 1.0, rounds))
        for rounds in (1, 16)
    )
    assert 0.99 * 2.0 <= often.guarantee.epsilon <= 2.0
    assert often.noise / once.noise == pytest.approx(4.0, rel=1e-9 if name in ("gaussian", "shifted_layered") else 0.1)
    # both accountants see all rounds
    assert often.accounts().pld == pytest.approx(once.accounts().pld, rel=0.02)
    assert often.accounts().rdp == pytest.approx(once.accounts().rdp, rel=0.02)
    assert often.accounts().pld <= often.accounts().rdp


@pytest.mark.parametrize("name", sorted(set(mechanisms.available()) - set(COMPOSING) - COMPOSING_TOO))
def test_mechanisms_without_composition_refuse(name):
    with pytest.raises(
        InputError, match=rf"privacy.mechanism: {name} is accounted for one release and not for 2; take"
    ):
        mechanisms.get(name).calibrate(Setting(1.0, 1e-5, 10, 8, 1.0, 2))


def test_softmax_levels_are_flatter_with_more_rounds():
    once, often = (mechanisms.get("imvu").calibrate(Setting(2.0, 1e-5, 100, 64, 1.0, rounds)) for rounds in (1, 16))
    assert often.guarantee.epsilon <= 2.0
    assert often.mse > 4 * once.mse


def test_more_rounds_need_more_noise_to_the_hair():
    noises = [mechanisms.get("skellam").calibrate(Setting(1.0, 1e-5, 50, 32, 1.0, r)).noise for r in (1, 2, 3, 4)]
    assert noises == sorted(noises)
    assert noises[3] / noises[0] == pytest.approx(2, rel=0.02)
    assert math.isfinite(noises[-1])
