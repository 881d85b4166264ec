"""Tables of privacy: what private training leaves of the accuracy, and which mechanism the study's estimates favour."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fedbound import schemas
from fedbound.artifacts import Table
from fedbound.privacy.ranking import MEETS
from fedbound.report.comparison import groups

_STATED = ("mechanism", "unit", "adjacency", "trust", "sampling", "accountant", "delta", "noise_multiplier", "secure")
_CASE = ("clients", "dimension", "clip", "delta", "target_epsilon", "norm")  # one question; errors compare within it
_OF_MECHANISM = ("setting", "mechanism", "trust", "adjacency", "epsilon", "bits", "gain", "audited", "audit_claim")


def training(settings: Table, runs: Table, stated: Table, audits: Table) -> Table:
    """Accuracy, bits and epsilon of every setting over its seeds, those without privacy beside them.

    Args:
        settings, runs: those tables of study.h5.
        stated: `private_runs`; where it is empty the result is.
        audits: `run_audits`, of as many runs as were audited.
    """
    if not len(stated["stem"].values):
        return schemas.STUDY_PRIVATE.table([])
    last = dict(zip(stated["stem"].values, range(len(stated["stem"].values)), strict=True))  # each run's last round
    stems = {name: runs["stem"].values[rows] for name, rows in groups(runs["setting"].values)}
    return schemas.STUDY_PRIVATE.table(
        _setting(settings, row, [last[stem] for stem in stems[name] if stem in last], stated)
        | _audited(audits, np.isin(audits["stem"].values, stems[name]))
        for row, name in enumerate(settings["setting"].values)
    )


def _audited(audits: Table, own: np.ndarray) -> dict[str, float]:
    """The largest lower bound that a setting's canaries showed, and could have; NaN without any.

    Each seed's is at its own level: that the largest of n exceeds a true claim has up to n times the probability.
    """
    names = {"audited": "audited", "audit_cap": "cap"}
    return {name: float(audits[key].values[own].max()) if own.any() else math.nan for name, key in names.items()}


def _setting(settings: Table, row: int, rows: list[int], stated: Table) -> dict[str, Any]:
    found = {
        **{key: settings[key].values[row] for key in ("problem", "setting", "seeds", "accuracy", "accuracy_sd")},
        "worst_silo": settings["worst_silo"].values[row],
        "bits": 32 / settings["ratio_up"].values[row],
    }
    if not rows:
        nothing = dict.fromkeys(("unit", "adjacency", "trust", "sampling", "accountant"), "")
        figures = {"delta": math.nan, "noise_multiplier": math.nan, "secure": 0, "epsilon": math.inf}
        return {**found, "mechanism": "none", **nothing, **figures}
    epsilon = float(max(stated["epsilon"].values[rows]))
    return {**found, **{key: stated[key].values[rows[0]] for key in _STATED}, "epsilon": epsilon}


def ranking(cells: Table, trust: str, bits: float | None) -> Table:
    """The privacy stage's mechanisms by their error in each case, those within trust and bits first.

    Args:
        cells: the table `privacy` of study.h5.
        trust: who is trusted, as in `report.trust`.
        bits: most bits per coordinate that a client may send; None: any.
    """
    cases = list(zip(*(cells[key].values.tolist() for key in _CASE), strict=True))
    wanted = np.empty(len(cases), object)
    wanted[:] = cases
    return schemas.STUDY_RANKING.table(
        row for case, rows in groups(wanted) for row in _ranked(cells, case, rows, trust, bits)
    )


def _ranked(
    cells: Table, case: tuple[Any, ...], rows: np.ndarray, trust: str, bits: float | None
) -> Iterator[dict[str, Any]]:
    found = []
    for _, own in groups(cells["setting"].values[rows]):
        mine = rows[own]  # one row per seed
        row = {key: cells[key].values[mine[0]] for key in _OF_MECHANISM}
        error, floor = float(np.mean(cells["mse_scaled"].values[mine])), float(cells["floor"].values[mine[0]])
        over = error / floor if _of_l2(case) else math.nan
        found.append({**dict(zip(_CASE, case, strict=True)), **row, "mse_scaled": error, "over_floor": over})
    for row in found:
        row["against"] = _against(row, trust, bits)
    rank = 0
    for row in sorted(found, key=lambda row: (bool(row["against"]), row["mse_scaled"])):
        rank += not row["against"]
        yield {**row, "rank": 0 if row["against"] else rank}


def _of_l2(case: tuple[Any, ...]) -> bool:
    """Whether the central Gaussian, which clips that norm, is the case's floor."""
    return bool(case[_CASE.index("norm")] == "L2")


def _against(row: dict[str, Any], trust: str, bits: float | None) -> str:
    """Why the mechanism is out of the question; '' where it is not."""
    if row["trust"] not in MEETS[trust]:
        return f"needs trust: {row['trust']}"
    if bits is not None and row["bits"] > bits:
        return f"sends {row['bits']:.3g} bits per coordinate"
    return ""
