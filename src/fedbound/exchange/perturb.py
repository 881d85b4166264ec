"""Output perturbation: a silo's update is clipped and noised before anything else is done to it.

Order (design law 4): update -> clip -> noise -> + residual -> encode. What follows the noise is post-processing:
neither error feedback nor lossy encoding changes the guarantee, and neither is credited with any. The residual holds
what the encoding lost of *noised* updates.

The guarantee is of one silo's update as a whole, against whoever sees what it sends: local privacy at silo level. Noise
is drawn in float64 and added in float32; the proof is of real numbers, and floating-point noise has known gaps
(Mironov, CCS 2012).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedbound.errors import FederationError

Draw = Callable[[int], np.random.Generator]
_SHRINK = 1 - 1e-6  # float32 rounding must not lift a norm above the clip


@dataclass(frozen=True)
class Perturbation:
    """Clip and noise.

    Attributes:
        mechanism: "gaussian" clips in L2 and adds normal noise, "laplace" in L1 and adds Laplace noise.
        clip: largest norm of an update.
        scale: standard deviation (gaussian) or scale (laplace) of the noise per coordinate, in the update's unit.
        draw: gives the generator of a round's noise.
    """

    mechanism: Literal["gaussian", "laplace"]
    clip: float
    scale: float
    draw: Draw

    def apply(self, update: np.ndarray, round_: int) -> None:
        """Clip `update` (flat float32) and add noise, in place."""
        wide = update.astype(np.float64)
        norm = float(np.linalg.norm(wide) if self.mechanism == "gaussian" else np.abs(wide).sum())
        if not np.isfinite(norm):  # a NaN norm is above no clip: nothing would be clipped
            raise FederationError("the update holds NaN or infinite values, which cannot be clipped")
        if norm > self.clip:
            wide *= self.clip / norm * _SHRINK
        rng = self.draw(round_)
        wide += (
            rng.normal(0.0, self.scale, wide.size)
            if self.mechanism == "gaussian"
            else rng.laplace(0.0, self.scale, wide.size)
        )
        update[:] = wide


def entropy(round_: int) -> np.random.Generator:
    """A generator seeded by the operating system's entropy, fresh at each call: NumPy's Philox, 4x64."""
    return np.random.Generator(np.random.Philox(secrets.randbits(128)))


def insecure(seed: int, silo: int) -> Draw:
    """Reproducible noise, for tests and comparisons only: whoever knows the seed can subtract it."""

    def draw(round_: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, silo, round_, 0xD9])))

    return draw
