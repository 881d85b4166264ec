"""What a private run may claim, in words, and what its codec added to the noise: lines for the log."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fedbound import study
from fedbound.artifacts import Table

if TYPE_CHECKING:
    from fedbound.federation.assembly import Assembly


def lines(assembly: Assembly, tables: dict[str, Table]) -> Iterator[str]:
    """Epsilon with all that must be known to read it; nothing for a run without privacy."""
    settings = assembly.training.privacy
    if settings is None:
        return
    epsilon = float(tables["rounds"]["epsilon"].values[-1])
    yield f"epsilon {epsilon:.4g} at delta {settings.delta:g}, {settings.adjacency}; unit: {unit(settings)}"
    yield f"trust: {trust(settings)}; sampling: {sampling(settings)}"
    if settings.insecure_seed:
        yield "noise from the study's seed (insecure_seed): this run protects nobody"
    if settings.unit == "silo" and not settings.sums:
        yield from _codec(assembly.noise_deviation(), tables["tensors"])


def unit(settings: study.TrainingPrivacy) -> str:
    """What is protected."""
    return "one silo's update" if settings.unit == "silo" else "one training record"


def trust(settings: study.TrainingPrivacy) -> str:
    """Who must be trusted for epsilon to hold."""
    if settings.sums:
        return "secure aggregation (simulated: this server could look at single messages)"
    return "nobody outside the silo" if settings.unit == "silo" else "the record's own silo"


def sampling(settings: study.TrainingPrivacy) -> str:
    """What amplification is counted."""
    if settings.unit == "silo" or settings.rate == 1 or settings.mechanism == "binomial":
        return "none counted"
    if settings.rate is None:
        return "Poisson, batch_size over each silo's samples"
    return f"Poisson, rate {settings.rate:g}"


def _codec(deviation: float, rows: Table) -> Iterator[str]:
    """What an error-bounded codec adds after the noise: at most uniform in the bound, variance bound^2 / 3."""
    used = (rows["direction"].values == "up") & (rows["bound"].values > 0)
    if not used.any():
        return
    values = rows["values"].values[used]
    extra = float((values * np.square(rows["bound"].values[used])).sum() / values.sum()) / 3 / deviation**2
    bounds = deviation * math.sqrt(3 * extra)
    yield (
        f"the codec adds about {100 * extra:.2g} % to the noise's variance (bounds of {bounds:.2g} to a noise of "
        f"{deviation:.2g} per value); bounds up to {deviation:.2g} (bound_mode abs) add at most a third"
    )
