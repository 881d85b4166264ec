"""Audits of all mechanisms at their worst pair, and of broken ones, for `fedbound bench privacy`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from fedbound.bench.rows import Row

EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0)
FALSE_ALARMS = 0.01  # probability that any audit of the table exceeds a claim that holds
_OPTIONS: dict[str, dict[str, Any]] = {"mvu": {"bits": 2}, "pbm": {"bits": 10}}  # of few coins, to be quick
_CASE = "audit: "


def run(bench: str, draws: int, say: Callable[[str], None]) -> list[Row]:
    """Rows of claimed and audited epsilon, one case per mechanism and epsilon; also with a third of the noise."""
    from fedbound.privacy import audit, mechanisms

    rows: list[Row] = []
    names = mechanisms.available()
    broken = [name for name in names if name in BREAKS]
    level = FALSE_ALARMS / (len(EPSILONS) * (len(names) + len(broken)))
    for name in names:
        for epsilon in EPSILONS:
            found = audit.mechanism({"name": name, **_OPTIONS.get(name, {})}, epsilon, 1e-5, draws, level)
            rows += _rows(bench, f"{name}, eps {epsilon:g}", found)
        say(f"audited {name}")
    for name in broken:
        for epsilon in EPSILONS:
            rows += _rows(bench, f"{name} with noise / 3, eps {epsilon:g}", audit_broken(name, epsilon, draws, level))
    return rows


def _rows(bench: str, case: str, found: Any) -> list[Row]:
    figures = {
        "claimed": found.claimed,
        "audited": found.audited,
        "audited_gaussian": found.gaussian,
        "exceeds": float(max(found.audited, np.nan_to_num(found.gaussian)) > found.claimed),
        "draws": float(found.draws),
    }
    return [Row(bench, f"{_CASE}{case}", "", name, float(value), "1") for name, value in figures.items()]


def audit_broken(name: str, epsilon: float, draws: int, level: float) -> Any:
    """The audit of a release that claims its epsilon and has a third of its noise."""
    from fedbound.privacy import audit, mechanisms
    from fedbound.privacy.mechanisms import Setting

    release = mechanisms.get(name, **_OPTIONS.get(name, {})).calibrate(Setting(epsilon, 1e-5, audit.CLIENTS, 1, 1.0))
    return audit.audit(BREAKS[name](release), draws, level, np.random.default_rng(1), gaussian=name != "laplace")


def _third(release: Any) -> Any:
    return dataclasses.replace(release, noise=release.noise / 3)


def _third_of_parameters(release: Any) -> Any:
    return dataclasses.replace(release, parameters=_third(release.parameters))


BREAKS: dict[str, Callable[[Any], Any]] = {
    "gaussian": _third,
    "shifted_layered": _third,
    "laplace": lambda release: dataclasses.replace(release, scale=release.scale / 3),
    "skellam": _third_of_parameters,
    "ddgauss": _third_of_parameters,
    "binomial": _third_of_parameters,
}
