"""What a run records: rows committed once per aggregation, kept in an append-only log beside the checkpoints.

A row is committed with the label of the aggregation that it belongs to, so a restart from label r keeps exactly the
rows up to r and an interrupted run ends with the rows of an uninterrupted one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import numpy as np

from fedbound import schemas
from fedbound.artifacts import Table
from fedbound.federation.lost import UNKNOWN
from fedbound.federation.spending import Spent

Rows = dict[str, list[dict[str, Any]]]
TABLES = ("rounds", "silos", "evaluations", "tensors", "failures", "guard")


class Records:
    """Rows by table. `log` is the file that makes them survive; None keeps them in memory only."""

    def __init__(self, log: Path | None = None):
        self.log = log
        self.rows: Rows = {table: [] for table in TABLES}
        self.pending: Rows = {table: [] for table in TABLES}

    def add(self, table: str, **row: Any) -> None:
        self.pending[table].append(row)

    def commit(self, label: int) -> None:
        """Make the pending rows part of the run, on disk first."""
        if self.log is not None:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(json.dumps({"label": label, **self.pending}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        self._take(self.pending)
        self.pending = {table: [] for table in TABLES}

    def restore(self, label: int) -> None:
        """Keep the log's rows up to `label` and forget the rest (a half-written last line among them)."""
        if self.log is None or not self.log.exists():
            return
        kept = []
        for line in self.log.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if entry["label"] <= label:
                kept.append(line)
                self._take(entry)
        temporary = self.log.with_suffix(".part")
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, self.log)

    def forget_evaluations(self, versions: Set[int]) -> None:
        """Drop the rows of evaluations that not all silos finished."""
        for rows in (self.rows, self.pending):
            rows["evaluations"] = [row for row in rows["evaluations"] if row["round"] not in versions]

    def _take(self, rows: Rows) -> None:
        for table in TABLES:
            self.rows[table] += rows[table]


def fairness(accuracies: list[float], samples: list[int], losses: list[float]) -> dict[str, float]:
    """Accuracy over all samples and its spread over silos; see schemas for each figure's definition.

    Args:
        accuracies: each silo's own accuracy.
        samples: each silo's test samples.
        losses: each silo's mean loss.
    """
    a = np.array(accuracies)
    n = np.array(samples)
    worst = np.sort(a)[: max(1, len(a) // 10)]
    return {
        "accuracy": float((a * n).sum() / n.sum()),
        "loss": float((np.array(losses) * n).sum() / n.sum()),
        "accuracy_mean": float(a.mean()),
        "accuracy_sd": float(a.std()),
        "accuracy_variance": float(a.var()),
        "accuracy_min": float(a.min()),
        "accuracy_worst10": float(worst.mean()),
        "jain": float(a.sum() ** 2 / (len(a) * (a**2).sum())) if a.any() else 1.0,
    }


_NO_EVALUATION = dict.fromkeys(fairness([1.0], [1], [0.0]), float("nan"))


_INITIAL = {
    **dict.fromkeys(("round", "bytes_up", "bytes_down", "raw_up", "raw_down", "violations"), 0),
    **dict.fromkeys(("payload_up", "payload_down", "checkpoint_bytes", "resync_bytes", "downlink_seconds"), 0),
    **dict.fromkeys(("seconds", "aggregate_seconds", "decode_seconds", "wait_seconds", "checkpoint_seconds"), 0.0),
    "save_seconds": 0.0,
    "ratio_up": float("nan"),
    **UNKNOWN,
}  # round 0: the model that nobody has trained yet


def tables(
    rows: Rows, extra: dict[str, Any], epsilon: Callable[[Spent], float] = lambda spent: float("nan")
) -> dict[str, Table]:
    """The artifact's tables from the committed rows.

    Args:
        rows: committed rows.
        extra: what rows do not hold: server_memory_bytes, resumed_from, and charged: each silo's releases in all.
        epsilon: epsilon of what the silos have released.
    """
    spent = _spent(rows, extra.get("charged", {}), epsilon)
    by_round: dict[int, list[dict[str, Any]]] = {}
    for row in sorted(rows["evaluations"], key=lambda row: row["silo"]):  # arrival order must not reach a sum
        by_round.setdefault(row["round"], []).append(row)
    figures = {
        number: fairness(
            [e["test_accuracy"] for e in found], [e["test_samples"] for e in found], [e["test_loss"] for e in found]
        )
        for number, found in by_round.items()
    }
    rounds = [
        {**row, "epsilon": spent[row["round"]], **figures.get(row["round"], _NO_EVALUATION)}
        for row in [_INITIAL, *rows["rounds"]]
    ]
    ordered = {
        table: sorted(rows[table], key=lambda row: (row["round"], row["silo"]))
        for table in ("silos", "evaluations", "tensors", "failures")
    }
    return {
        "rounds": schemas.RUN_ROUNDS.table(rounds),
        "silos": schemas.RUN_SILOS.table(ordered["silos"]),
        "evaluations": schemas.RUN_EVALUATIONS.table(ordered["evaluations"]),
        "tensors": schemas.RUN_TENSORS.table(ordered["tensors"]),
        "failures": schemas.RUN_FAILURES.table(ordered["failures"]),
        "guard": schemas.RUN_GUARD.table(rows["guard"]),
        "summary": schemas.RUN_SUMMARY.table([_summary(rounds, figures, extra)]),
    }


def _spent(rows: Rows, charged: dict[int, int], epsilon: Callable[[Spent], float]) -> dict[int, float]:
    """Epsilon after each round."""
    folded: dict[int, list[dict[str, Any]]] = {}
    for row in rows["silos"]:
        folded.setdefault(row["round"], []).append(row)
    last = len(rows["rounds"])
    so_far, found = Spent(), {}
    for number in sorted({0, last, *folded, *(row["round"] for row in rows["rounds"])}):
        here = folded.get(number, [])
        so_far.charge({row["silo"]: row["releases"] for row in here})
        if here:
            so_far.sums.append(tuple(sorted(row["silo"] for row in here)))
        if number >= last:
            so_far.asked = max(charged.values(), default=0)
        found[number] = epsilon(so_far)
    return found


def _summary(
    rounds: list[dict[str, Any]], figures: dict[int, dict[str, float]], extra: dict[str, Any]
) -> dict[str, Any]:
    keys = ("bytes_up", "bytes_down", "raw_up", "raw_down")
    up, down, raw, raw_down = (sum(row[key] for row in rounds) for key in keys)
    seconds = [row["seconds"] for row in rounds if row["round"] > 0]
    return {
        **figures[max(figures)],
        "rounds": len(seconds),
        "bytes_up": up,
        "bytes_down": down,
        "raw_up": raw,
        "ratio_up": raw / up if up else float("nan"),
        "ratio_both": (raw + raw_down) / (up + down) if up + down else float("nan"),
        "violations": sum(row["violations"] for row in rounds),
        "round_seconds": float(np.median(seconds[1:] or seconds)) if seconds else float("nan"),
        "seconds": float(sum(seconds)),
        "server_memory_bytes": extra["server_memory_bytes"],
        "resumed_from": extra["resumed_from"],
    }
