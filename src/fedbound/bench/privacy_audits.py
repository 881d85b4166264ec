"""Audits of all mechanisms at their worst pair, and of broken ones, for `fedbound bench privacy`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np

from fedbound.bench.rows import Row, find

EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0)
FALSE_ALARMS = 0.01  # probability that any audit of the table exceeds a claim that holds
_OPTIONS: dict[str, dict[str, Any]] = {"mvu": {"bits": 2}, "pbm": {"bits": 10}}  # of few coins, to be quick
_CASE = "audit: "


def start(threads: Executor, bench: str, draws: int) -> list[Future[tuple[list[Row], str]]]:
    """Audit all mechanisms, each a task."""
    from fedbound.privacy import mechanisms

    names = mechanisms.available()
    # Bonferroni: every audit makes two tests, its own and that under a Gaussian trade-off
    level = FALSE_ALARMS / (2 * len(EPSILONS) * 2 * len(names))
    return [threads.submit(_mechanism, bench, name, draws, level) for name in names]


def finish(audits: Sequence[Future[tuple[list[Row], str]]], say: Callable[[str], None]) -> list[Row]:
    """Rows of claimed and audited epsilon, one case per mechanism and epsilon; also with a third of the noise."""
    rows: list[Row] = []
    for one in audits:
        found, said = one.result()
        rows += found
        say(said)
    return rows


def _mechanism(bench: str, name: str, draws: int, level: float) -> tuple[list[Row], str]:
    """One mechanism's rows, and a line about them."""
    from fedbound.privacy import audit

    rows: list[Row] = []
    exceeding = caught = 0
    for epsilon in EPSILONS:
        choice = {"name": name, **_OPTIONS.get(name, {})}
        found = _rows(bench, f"{name}, eps {epsilon:g}", audit.mechanism(choice, epsilon, 1e-5, draws, level))
        broken = audit_broken(name, epsilon, draws, level)
        worse = _rows(bench, f"{name} with noise / 3, eps {epsilon:g}", broken)
        exceeding += int(find(found, "exceeds", found[0].case))
        caught += int(find(worse, "exceeds", worse[0].case))
        rows += [*found, *worse]
    return rows, f"audited {name}: {exceeding} of {len(EPSILONS)} bounds above the claim; broken, {caught}"


def _rows(bench: str, case: str, found: Any) -> list[Row]:
    figures = {
        "claimed": found.claimed,
        "exact": found.exact,
        "audited": found.audited,
        "audited_gaussian": found.gaussian,
        "exceeds": float(max(found.audited, np.nan_to_num(found.gaussian)) > found.claimed),
        "draws": float(found.draws),
    }
    return [Row(bench, f"{_CASE}{case}", "", name, float(value), "1") for name, value in figures.items()]


def audit_broken(name: str, epsilon: float, draws: int, level: float) -> Any:
    """The audit of a release that claims its epsilon and has a third of its noise.

    Where noise is no number of its own, it is a release for three times the epsilon that claims a third of it.
    """
    from fedbound.privacy import audit, mechanisms
    from fedbound.privacy.mechanisms import Setting

    made = mechanisms.get(name, **_OPTIONS.get(name, {}))
    release: Any = made.calibrate(Setting(epsilon, 1e-5, audit.CLIENTS, 1, 1.0))
    broken = BREAKS.get(name)
    if broken:
        release = broken(release)
    else:
        loud: Any = made.calibrate(Setting(3 * epsilon, 1e-5, audit.CLIENTS, 1, 1.0))
        release = dataclasses.replace(loud, guarantee=release.guarantee)
    gaussian = made.norm == "L2" and made.trust != "local"
    return audit.audit(release, draws, level, np.random.default_rng(1), gaussian=gaussian)


def _third(release: Any) -> Any:
    return dataclasses.replace(release, noise=release.noise / 3)


def _third_of_parameters(release: Any) -> Any:
    return dataclasses.replace(release, parameters=_third(release.parameters))


BREAKS: dict[str, Callable[[Any], Any]] = {
    "gaussian": _third,
    "shifted_layered": _third,
    "laplace": lambda release: dataclasses.replace(release, scale=release.scale / 3),
    "d2pfed": _third_of_parameters,
    "skellam": _third_of_parameters,
    "smm": _third_of_parameters,
    "ddgauss": _third_of_parameters,
    "binomial": _third_of_parameters,
}
