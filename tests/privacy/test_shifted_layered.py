from __future__ import annotations

import math

import numpy as np
import pytest
from privacy_cases import assert_closed_form

from fedbound.privacy import mechanisms, stage
from fedbound.privacy.mechanisms import Setting, shifted_layered


@pytest.mark.parametrize("scale", [0.01, 1.0, 40.0])
def test_error_is_exactly_gaussian_and_independent_of_the_data(scale):
    """Kolmogorov-Smirnov at a false-alarm rate of 1e-6, kurtosis and correlation at 5 sigma."""
    from scipy.stats import kstest

    rng = np.random.default_rng(4)
    x = rng.uniform(-scale, scale, 200_000)
    shared = shifted_layered.dither(x.shape, 2.0, rng)
    errors = (shifted_layered.decode(shifted_layered.quantize(x, shared), shared) - x) / 2
    assert kstest(errors, "norm").pvalue > 1e-6
    assert abs((errors**4).mean() - 3) < 5 * math.sqrt(96 / len(x))
    assert abs(np.corrcoef(errors, x)[0, 1]) < 5 / math.sqrt(len(x))
    assert abs(np.corrcoef(np.abs(errors), np.abs(x))[0, 1]) < 5 / math.sqrt(len(x))


def test_step_is_never_below_its_bound():
    shared = shifted_layered.dither((200_000,), 1.0, np.random.default_rng(5))
    assert 2 * math.sqrt(math.log(4)) <= shared.step.min() * (1 + 1e-9)
    assert shared.step.min() == pytest.approx(2.35482, abs=1e-4)


def test_error_and_guarantee_are_the_central_gaussians():
    setting = Setting(3.0, 1e-5, 50, 40, 2.0)
    release = mechanisms.get("shifted_layered").calibrate(setting)
    central = mechanisms.get("gaussian").calibrate(setting)
    assert release.mse == central.mse
    assert release.guarantee == central.guarantee
    assert release.guarantee.trust == "central server"
    assert 2 < release.bits < 8
    assert_closed_form(release, stage.clients(50, 40, 2.0, "L2", seed=2), 200, slack=0.0)


def test_code_lengths():
    assert shifted_layered.code_bits(np.array([0, 1, -1, 2, 3, -6])).tolist() == [2, 4, 4, 4, 6, 6]
