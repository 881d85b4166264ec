"""The noisy sign: one bit, the sign of a coordinate plus Gaussian noise.

Source of the mechanism: Jin, Huang, He, Dai, Wu, "Stochastic-Sign SGD for Federated Learning with Theoretical
Guarantees", 2020 (arXiv 2002.10940), dp-sign: P(+ | x) = Phi(x / sigma). For |x| <= 1 the bit is pure:
epsilon = ln(Phi(1/sigma) / Phi(-1/sigma)), less than the noise before the sign has ("Noisy SIGNSGD is more
differentially private than you think", ICML 2025). The paper's text could not be read; the formula is elementary.

The bit is decoded as +-sigma sqrt(pi/2), which is unbiased to first order in x/sigma and shrinks large coordinates:
a biased mechanism. In the vector form of `fedbound.privacy.local`; the paper aggregates by majority vote.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from fedbound.privacy import accounting
from fedbound.privacy.kernels import Table
from fedbound.privacy.local import Local, LocalOptions
from fedbound.registry import MECHANISMS

CORNERS = 2049  # Phi is taken as linear between them: an error below 1e-7 of the probability


class NoisySignOptions(LocalOptions):
    """Options of `noisy_sign`."""


@MECHANISMS.register("noisy_sign", NoisySignOptions)
class NoisySign(Local):
    """Sign of a coordinate plus Gaussian noise (local, pure epsilon-DP for clipped coordinates; biased)."""

    name: ClassVar[str] = "noisy_sign"
    unbiased: ClassVar[bool] = False

    def kernel(self, epsilon: float) -> Table:
        return table(noise(epsilon))


def pure_epsilon(sigma: float) -> float:
    """ln(Phi(1/sigma) / Phi(-1/sigma))."""
    from scipy.special import log_ndtr

    return float(log_ndtr(1 / sigma) - log_ndtr(-1 / sigma))


def noise(epsilon: float) -> float:
    """The least sigma whose pure epsilon is at most `epsilon`."""
    return accounting.least_noise(pure_epsilon, epsilon, 1e-2, 2 / epsilon + 1)


def table(sigma: float) -> Table:
    """The kernel of levels 0 (minus) and 1 (plus)."""
    from scipy.special import ndtr

    corners = np.linspace(-1, 1, CORNERS)
    rows = np.stack([ndtr(-corners / sigma), ndtr(corners / sigma)], axis=1)
    value = sigma * math.sqrt(math.pi / 2)
    return Table(corners, rows, np.array([-value, value]))
