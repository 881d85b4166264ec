"""Settings over their seeds, and every setting against the uncompressed run of the same seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fedbound import schemas
from fedbound.artifacts import Table
from fedbound.calibration.student import upper_limit

UNCOMPRESSED = ("none", "lossless")
_KEYS = ("setting", "context", "problem", "algorithm", "codec", "mode", "bound")


def settings(runs: Table, rounds: Table) -> Table:
    """One row per setting: means over its seeds, in the order the settings appear, from study.h5's two tables."""
    spent = dict(zip(rounds["stem"].values, rounds["epsilon"].values, strict=True))  # of each run's last round
    return schemas.STUDY_SETTINGS.table(_setting(runs, rows, spent) for _, rows in groups(runs["setting"].values))


def groups(values: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
    """Each different value (1-D array) with the rows that hold it, in order of first appearance."""
    where: dict[Any, list[int]] = {}
    for row, value in enumerate(values.tolist()):
        where.setdefault(value, []).append(row)
    for value, rows in where.items():
        yield value, np.array(rows)


def _setting(runs: Table, rows: np.ndarray, spent: dict[str, float]) -> dict[str, Any]:
    def mean(column: str) -> float:
        return float(np.mean(runs[column].values[rows]))

    return {
        **{key: runs[key].values[rows[0]] for key in (*_KEYS, "bound_value")},
        "seeds": len(rows),
        "accuracy": mean("accuracy"),
        "accuracy_sd": _sd(runs["accuracy"].values[rows]),
        "worst_silo": mean("accuracy_min"),
        "spread": mean("accuracy_sd"),
        "bytes_up": mean("bytes_up"),
        "bytes_down": mean("bytes_down"),
        "bytes": mean("bytes_up") + mean("bytes_down"),
        "ratio_up": mean("ratio_up"),
        "ratio_both": mean("ratio_both"),
        "violations": int(runs["violations"].values[rows].sum()),
        "epsilon": max((spent.get(stem, math.nan) for stem in runs["stem"].values[rows]), key=_nan_low),
        "round_seconds": mean("round_seconds"),
    }


def _nan_low(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _sd(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def comparisons(runs: Table) -> Table:
    """One row per setting that has an uncompressed partner of the same context and at least one common seed."""
    where = dict(groups(runs["setting"].values))
    candidates = _candidates(runs)
    rows = []
    for setting, own in where.items():
        baseline = _baseline(runs, own[0], candidates)
        if baseline is None or baseline == setting:
            continue
        pairs = _pairs(runs["seed"].values, own, where[baseline])
        if len(pairs):
            rows.append(_comparison(runs, pairs[:, 0], pairs[:, 1], baseline))
    return schemas.STUDY_COMPARISONS.table(rows)


def _candidates(runs: Table) -> dict[str, list[int]]:
    """Rows of uncompressed runs by context."""
    uncompressed = np.isin(runs["codec"].values.astype(str), UNCOMPRESSED)
    rows = np.flatnonzero(uncompressed)
    return {context: rows[inside].tolist() for context, inside in groups(runs["context"].values[rows])}


def _baseline(runs: Table, row: int, candidates: dict[str, list[int]]) -> str | None:
    """The setting that `row` is paired with: the same mode first, then the codec 'none' before 'lossless'."""

    def distance(other: int) -> tuple[bool, int]:
        same_mode = runs["mode"].values[other] == runs["mode"].values[row]
        return not same_mode, UNCOMPRESSED.index(runs["codec"].values[other])

    rows = candidates.get(runs["context"].values[row], [])
    return str(runs["setting"].values[min(rows, key=distance)]) if rows else None


def _pairs(seeds: np.ndarray, own: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    partner = {seeds[row]: row for row in baseline}
    return np.array([(row, partner[seeds[row]]) for row in own if seeds[row] in partner], dtype=int).reshape(-1, 2)


def _comparison(runs: Table, own: np.ndarray, base: np.ndarray, baseline: str) -> dict[str, Any]:
    def mean(column: str, rows: np.ndarray = own) -> float:
        return float(np.mean(runs[column].values[rows]))

    drop = 100 * (runs["accuracy"].values[base] - runs["accuracy"].values[own])
    size, baseline_size = (mean("bytes_up", rows) + mean("bytes_down", rows) for rows in (own, base))
    return {
        **{key: runs[key].values[own[0]] for key in _KEYS},
        "baseline": baseline,
        "seeds": len(own),
        "accuracy": mean("accuracy"),
        "baseline_accuracy": mean("accuracy", base),
        "drop": float(drop.mean()),
        "drop_sd": _sd(drop),
        "drop_upper": upper_limit(drop),
        "worst_silo": mean("accuracy_min"),
        "baseline_worst_silo": mean("accuracy_min", base),
        "worst_silo_drop": 100 * (mean("accuracy_min", base) - mean("accuracy_min")),
        "spread": 100 * mean("accuracy_sd"),
        "spread_difference": 100 * (mean("accuracy_sd") - mean("accuracy_sd", base)),
        "bytes_up": mean("bytes_up"),
        "bytes_down": mean("bytes_down"),
        "bytes": size,
        "baseline_bytes": baseline_size,
        "ratio_up": mean("ratio_up"),
        "ratio_both": mean("ratio_both"),
        "saving": baseline_size / size if size else math.nan,
        "round_seconds": mean("round_seconds"),
        "baseline_round_seconds": mean("round_seconds", base),
    }
