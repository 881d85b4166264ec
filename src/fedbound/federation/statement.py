"""What a private run may claim, and how to read it: a table of the run, and lines for the log."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fedbound import schemas, study
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


def table(assembly: Assembly, tables: dict[str, Table]) -> dict[str, Table]:
    """The table `privacy` (`schemas.RUN_PRIVACY`), one row per round; nothing for a run without privacy."""
    settings = assembly.training.privacy
    if settings is None:
        return {}
    same = {
        "delta": settings.delta,
        "mechanism": settings.mechanism,
        "unit": unit(settings),
        "adjacency": settings.adjacency,
        "trust": trust(settings),
        "sampling": sampling(settings),
        "accountant": accountant(settings),
        "clip": settings.clip,
        "noise_multiplier": _multiplier(assembly, settings),
        "secure": int(not settings.insecure_seed),
    }
    done, releases = tables["silos"]["round"].values, tables["silos"]["releases"].values
    rounds = zip(tables["rounds"]["round"].values, tables["rounds"]["epsilon"].values, strict=True)
    rows = [
        {"round": number, "epsilon": epsilon, "releases": int(releases[done <= number].max(initial=0)), **same}
        for number, epsilon in rounds
    ]
    return {"privacy": schemas.RUN_PRIVACY.table(rows)}


def _multiplier(assembly: Assembly, settings: study.TrainingPrivacy) -> float:
    if assembly.private is not None:
        return assembly.private.sum.noise / settings.clip
    if assembly.steps is not None:
        return min(assembly.steps.multiplier(number) for number in range(assembly.data.silos))
    return assembly.noise_multiplier()


def accountant(settings: study.TrainingPrivacy) -> str:
    """How epsilon is computed."""
    if settings.sums:
        fewest = ", all rounds at the fewest shares" if settings.mechanism == "binomial" else ""
        return f"Rényi divergences{fewest}"
    if settings.unit == "record" or settings.mechanism == "laplace":
        return "privacy loss distribution (dp-accounting)"
    return "analytic Gaussian"


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
