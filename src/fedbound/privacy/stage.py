"""The privacy stage: the error of one mechanism's private mean at one epsilon, measured and in closed form.

Vectors and noise come from the study's seed, so that a cell repeats to the bit: a study of mechanisms, not a
production release (design law 8).
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedbound import artifacts, schemas, study
from fedbound.errors import InputError
from fedbound.privacy import accounting, audit, transforms
from fedbound.privacy.mechanisms import Mechanism, Norm, Release, Setting
from fedbound.registry import MECHANISMS

AUDIT_LEVEL = 1e-4  # probability that one cell's audit exceeds a claim that holds: 1 % over a hundred cells
MOST_VALUES = 100_000_000  # simulated clients' values: 0.8 GB


def run(scenario: study.PrivacyScenario, inputs: Mapping[str, Path]) -> artifacts.Artifact:
    """Calibrate the scenario's mechanism, estimate the mean `trials` times, and state error and epsilon.

    Args:
        scenario: the resolved scenario.
        inputs: must be empty; this stage reads no artifact.

    Returns:
        An artifact with the table `results` (`schemas.PRIVACY_RESULTS`), one row.

    Raises:
        InputError: an input was given, the cell does not fit in memory, or the mechanism cannot reach the target.
    """
    if inputs:
        raise InputError(f"--input {next(iter(inputs))}: the privacy stage reads no artifact; leave it out")
    import importlib.metadata

    return artifacts.Artifact(
        stage="privacy",
        study=scenario.study,
        scenario=scenario.model_dump(mode="json"),
        seed=scenario.privacy.seed,
        tables={"results": schemas.PRIVACY_RESULTS.table([cell(scenario.privacy)])},
        provenance=artifacts.stamp(dp_accounting=importlib.metadata.version("dp-accounting")),
    )


def cell(privacy: study.Privacy) -> dict[str, Any]:
    """The row of results of one setting."""
    started = time.perf_counter()
    if privacy.clients * privacy.dimension > MOST_VALUES:
        raise InputError(
            f"privacy.clients: {privacy.clients} clients of dimension {privacy.dimension} exceed the "
            f"{MOST_VALUES} values that are simulated at once; lower clients or dimension"
        )
    mechanism: Mechanism = MECHANISMS.make(privacy.mechanism)
    release = mechanism.calibrate(_setting(privacy))
    errors = _errors(release, mechanism, privacy)
    row = _row(mechanism, release, privacy, errors)
    return {**row, "seconds": time.perf_counter() - started}


def _setting(privacy: study.Privacy) -> Setting:
    return Setting(privacy.epsilon, privacy.delta, privacy.clients, privacy.dimension, privacy.clip)


@dataclass(frozen=True)
class Errors:
    """Over the trials.

    Attributes:
        mse: mean squared error per coordinate.
        standard_error: of `mse`.
        scaled: mean squared error of the estimates over their gain.
        bias: mean error per coordinate.
    """

    mse: float
    standard_error: float
    scaled: float
    bias: float


def _errors(release: Release, mechanism: Mechanism, privacy: study.Privacy) -> Errors:
    # the vectors depend on norm and seed only: mechanisms of one norm meet the same clients
    vectors = clients(privacy.clients, privacy.dimension, privacy.clip, mechanism.norm, privacy.seed)
    mean = vectors.mean(axis=0)
    stream = zlib.crc32(mechanism.name.encode())
    squared, scaled, signed = [], [], []
    for trial in range(privacy.trials):
        estimate = release.estimate(vectors, np.random.default_rng([privacy.seed, stream, trial]))
        error = estimate - mean
        squared.append(float(np.mean(error**2)))
        scaled.append(float(np.mean((estimate / release.gain - mean) ** 2)))
        signed.append(float(np.mean(error)))
    standard_error = float(np.std(squared, ddof=1)) / len(squared) ** 0.5
    return Errors(float(np.mean(squared)), standard_error, float(np.mean(scaled)), float(np.mean(signed)))


def clients(count: int, dimension: int, radius: float, norm: Norm, seed: int) -> np.ndarray:
    """Simulated clients' vectors, float64 [count, dimension], within `radius`: on the L2 sphere uniformly, on the L1
    sphere by normalised Laplace variables, in the Linf cube uniformly."""
    rng = np.random.default_rng([seed, ("L2", "L1", "Linf").index(norm)])
    shape = (count, dimension)
    if norm == "Linf":
        return rng.uniform(-radius, radius, shape)
    vectors = rng.standard_normal(shape) if norm == "L2" else rng.laplace(size=shape)
    vectors *= (radius / transforms.norms(vectors, 2 if norm == "L2" else 1))[:, None]
    return vectors


def _audited(privacy: study.Privacy) -> audit.Audit | None:
    """The audit in one coordinate, by as many clients as an audit has; None where none is asked for."""
    if not privacy.audit_draws:
        return None
    draws = privacy.audit_draws
    return audit.mechanism(privacy.mechanism, privacy.epsilon, privacy.delta, draws, AUDIT_LEVEL, privacy.seed)


def _missing(release: Release, share: int) -> float:
    """Epsilon where `share` per cent of the clients' messages do not arrive."""
    clients = release.setting.clients
    return release.epsilon_of(max(1, clients - math.ceil(clients * share / 100)))


def _row(mechanism: Mechanism, release: Release, privacy: study.Privacy, errors: Errors) -> dict[str, Any]:
    guarantee = release.guarantee
    accounts = release.accounts()
    audited = _audited(privacy)
    floor = accounting.gaussian_multiplier(privacy.epsilon, privacy.delta) * privacy.clip / privacy.clients
    return {
        "mechanism": mechanism.name,
        "clients": privacy.clients,
        "dimension": privacy.dimension,
        "clip": privacy.clip,
        "norm": mechanism.norm,
        "target_epsilon": privacy.epsilon,
        "epsilon": guarantee.epsilon,
        "delta": guarantee.delta,
        "accountant": guarantee.accountant,
        "epsilon_pld": accounts.pld,
        "epsilon_rdp": accounts.rdp,
        "epsilon_alone": release.epsilon_alone,
        **{f"epsilon_missing_{share}": _missing(release, share) for share in (10, 30, 50)},
        "audited": audited.audited if audited else math.nan,
        "audited_gaussian": audited.gaussian if audited else math.nan,
        "audit_claim": audited.claimed if audited else math.nan,
        "audit_exact": audited.exact if audited else math.nan,
        "audit_draws": privacy.audit_draws,
        "unit": guarantee.unit,
        "adjacency": guarantee.adjacency,
        "trust": guarantee.trust,
        "sampling": guarantee.sampling,
        "noise": release.noise,
        "bits": release.bits,
        "mse": errors.mse,
        "mse_se": errors.standard_error,
        "mse_closed": release.mse,
        "gain": release.gain,
        "mse_scaled": errors.scaled,
        "bias": errors.bias,
        "floor": floor**2,
        "trials": privacy.trials,
    }
