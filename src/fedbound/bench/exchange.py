"""Bytes both ways and accuracy: FedSZ's recipe and ours, on the same federation and paired seeds.

FedSZ (Wilkins et al., ICDCS 2024, arXiv 2312.13461; its abstract and APPFL's code could be read) compresses weights by
SZ2 at REL 1e-2 on the way up. From there to ours one thing changes at a time, so that the table shows what each brings:
the downlink, the coder, the delta, the bound, error feedback.

Accuracy is the mean of the last five evaluations of what silos hold, over all silos' test samples. Drops are paired by
seed; their limits are one-sided 95 % limits of Student's t.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedbound.bench.rows import Row, aligned, find

if TYPE_CHECKING:
    from fedbound.federation.assembly import Assembly
    from fedbound.study import Exchange

BENCH = "exchange"
LAST = 5  # evaluations that a run's accuracy is the mean of
MNIST = "FEDBOUND_MNIST"  # environment: folder with MNIST's IDX files; the bench leaves MNIST out without it

UNCOMPRESSED = "uncompressed"
PUBLISHED = "FedSZ as published (up only)"
BOTH = "FedSZ both ways"
OURS = ("ours, rel 0.2", "ours, rel 0.1", "ours, rel 0.08", "ours, std 1.5", "ours, std 1")


@dataclass(frozen=True)
class Case:
    """One setting of the exchange, and what sets it apart from the case before it."""

    name: str
    exchange: dict[str, Any]
    change: str = ""


_FEDSZ = {"codec": "sz2", "mode": "weights", "error_feedback": False, "bound": 1e-2}
_DELTA = {"codec": "ebq", "mode": "delta", "error_feedback": False}
CASES = [
    Case(UNCOMPRESSED, {"codec": "none"}),
    Case(PUBLISHED, {**_FEDSZ, "downlink": "none"}),
    Case(BOTH, _FEDSZ, "downlink"),
    Case("+ coder ebq", {**_FEDSZ, "codec": "ebq"}, "coder"),
    Case("+ delta", {**_DELTA, "bound": 1e-2}, "delta"),
    Case("+ bound 0.2", {**_DELTA, "bound": 0.2}, "bound"),
    Case("ours, rel 0.2", {**_DELTA, "bound": 0.2, "error_feedback": True}, "error feedback"),
    Case("ours, rel 0.1", {**_DELTA, "bound": 0.1, "error_feedback": True}),
    Case("ours, rel 0.08", {**_DELTA, "bound": 0.08, "error_feedback": True}),
    Case("ours, std 1.5", {**_DELTA, "bound": 1.5, "bound_mode": "std", "error_feedback": True}),
    Case("ours, std 1", {**_DELTA, "bound": 1.0, "bound_mode": "std", "error_feedback": True}),
    Case("qsgd, 7 levels, both ways", {"codec": "qsgd", "error_feedback": False}),
    Case("top-k 1 %, both ways", {"codec": {"name": "topk", "fraction": 0.01}, "error_feedback": True}),
    Case("ours, rel 0.2, by SZ3", {**_DELTA, "codec": "sz3", "bound": 0.2, "error_feedback": True}),
    Case("ours, rel 0.2, exact downlink", {**_DELTA, "bound": 0.2, "error_feedback": True, "downlink": "none"}),
]


@dataclass(frozen=True)
class Setting:
    """One federation on which all cases run."""

    name: str
    data: dict[str, Any]
    model: dict[str, Any]
    training: dict[str, Any]
    seeds: range


@dataclass(frozen=True)
class Outcome:
    """What one run reached."""

    accuracy: float
    spread: float
    worst: float
    bytes_up: int
    bytes_down: int


def run(quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Run every case on every setting and seed; returns the rows.

    Raises:
        InputError: the folder in FEDBOUND_MNIST does not hold MNIST.
    """
    from fedbound.study import Exchange

    rows: list[Row] = []
    for setting in settings(quick, say):
        outcomes: dict[str, list[Outcome]] = {}
        for case in CASES:
            exchange = Exchange.model_validate(case.exchange)
            outcomes[case.name] = [_run(setting, exchange, seed) for seed in setting.seeds]
            total = np.mean([o.bytes_up + o.bytes_down for o in outcomes[case.name]])
            accuracy = np.mean([o.accuracy for o in outcomes[case.name]])
            say(f"{setting.name}: {case.name}: accuracy {100 * accuracy:.2f} %, {total / 1e6:.2f} MB")
        rows += _rows(setting.name, outcomes)
    return rows


def settings(quick: bool, say: Callable[[str], None]) -> list[Setting]:
    """The federations: 6 silos, Dirichlet 0.3, 20 rounds of two epochs."""
    partition = {"name": "dirichlet", "alpha": 0.3}
    model = {"name": "mlp", "hidden": [256, 256]}
    digits = {"dataset": "digits", "silos": 6, "partition": partition}
    found = [Setting("digits", digits, model, {"rounds": 8 if quick else 20}, range(3 if quick else 10))]
    folder = os.environ.get(MNIST, "")
    if not folder:
        say(f"mnist: left out; name the folder of its IDX files in {MNIST}")
    elif not quick:
        dataset = {"name": "mnist", "folder": str(Path(folder))}
        found.append(Setting("mnist", {**digits, "dataset": dataset}, model, {"rounds": 20}, range(3)))
    return found


def _run(setting: Setting, exchange: Exchange, seed: int) -> Outcome:
    from fedbound import study
    from fedbound.federation.assembly import Assembly
    from fedbound.registry import MODELS

    data, training = study.Data.model_validate(setting.data), study.Training.model_validate(setting.training)
    return reached(Assembly(data, MODELS.normalise(setting.model), training, exchange, seed))


def reached(assembly: Assembly) -> Outcome:
    """Run a federation in this process: what its last evaluations say, and its bytes."""
    from fedbound.federation.records import fairness

    server = assembly.server(assembly.local())
    server.run()
    rows = server.records.rows
    by_round: list[dict[str, float]] = []
    for number in sorted({row["round"] for row in rows["evaluations"]})[-LAST:]:
        own = [row for row in rows["evaluations"] if row["round"] == number]
        own.sort(key=lambda row: row["silo"])
        by_round.append(fairness(*([row[f"test_{k}"] for row in own] for k in ("accuracy", "samples", "loss"))))
    mean = {key: float(np.mean([figures[key] for figures in by_round])) for key in by_round[0]}
    up, down = (sum(row[key] for row in rows["rounds"]) for key in ("bytes_up", "bytes_down"))
    return Outcome(mean["accuracy"], mean["accuracy_sd"], mean["accuracy_min"], up, down)


def _rows(setting: str, outcomes: dict[str, list[Outcome]]) -> list[Row]:
    rows: list[Row] = []
    previous = ""
    changes = {case.name: case.change for case in CASES}
    for name, found in outcomes.items():

        def add(metric: str, value: Any, unit: str, peer: str = "", name: str = name) -> None:
            rows.append(Row(BENCH, f"{setting}: {name}", peer, metric, float(value), unit))

        accuracies = [100 * one.accuracy for one in found]
        add("accuracy", np.mean(accuracies), "%")
        add("accuracy_half_width", _half_width(accuracies), "percentage point")
        add("spread", np.mean([100 * one.spread for one in found]), "percentage point")
        add("worst_silo", np.mean([100 * one.worst for one in found]), "%")
        add("seeds", len(found), "1")
        for key in ("bytes_up", "bytes_down"):
            add(key, np.mean([getattr(one, key) for one in found]), "byte")
        add("bytes", np.mean([_total(one) for one in found]), "byte")
        for peer in (UNCOMPRESSED, PUBLISHED, BOTH):
            if peer not in outcomes or peer == name:
                continue
            base = outcomes[peer]
            add("ratio", np.mean([_total(b) for b in base]) / np.mean([_total(one) for one in found]), "1", peer)
            drops = [100 * (b.accuracy - one.accuracy) for b, one in zip(base, found, strict=True)]
            add("drop", np.mean(drops), "percentage point", peer)
            add("drop_upper", _upper(drops), "percentage point", peer)
            spreads = [100 * (one.spread - b.spread) for b, one in zip(base, found, strict=True)]
            add("spread_change", np.mean(spreads), "percentage point", peer)
            add("spread_change_half_width", _half_width(spreads), "percentage point", peer)
        if changes.get(name) and previous:
            factor = np.mean([_total(one) for one in outcomes[previous]]) / np.mean([_total(one) for one in found])
            add(f"factor of {changes[name]}", factor, "1", previous)
        previous = name
    return rows


def _total(one: Outcome) -> int:
    return one.bytes_up + one.bytes_down


def _upper(values: Sequence[float]) -> float:
    """One-sided 95 % upper limit of the mean."""
    from fedbound.calibration.accuracy import upper_limit

    return upper_limit(list(values)) if len(values) > 2 else math.nan


def _half_width(values: Sequence[float]) -> float:
    """Half the width of the two-sided 90 % interval of the mean: one-sided 95 % on either side."""
    return _upper(values) - float(np.mean(values))


def table(rows: Sequence[Row]) -> str:
    """One table per federation, and the factors between its cases."""
    parts = []
    for setting in dict.fromkeys(row.case.split(": ")[0] for row in rows if row.metric == "bytes"):
        names = [row.case for row in rows if row.metric == "bytes" and row.case.startswith(f"{setting}: ")]
        seeds = find(rows, "seeds", names[0])
        head = ("case", "accuracy %", "drop, 95 % limit", "silo sd", "up MB", "down MB", "x raw", "x FedSZ", "x both")
        lines = []
        for case in names:
            drop = f"{find(rows, 'drop', case, UNCOMPRESSED):.2f}, {find(rows, 'drop_upper', case, UNCOMPRESSED):.2f}"
            ratios = (find(rows, "ratio", case, peer) for peer in (UNCOMPRESSED, PUBLISHED, BOTH))
            lines.append(
                (
                    case.removeprefix(f"{setting}: "),
                    f"{find(rows, 'accuracy', case):.2f} ± {find(rows, 'accuracy_half_width', case):.2f}",
                    "" if case.endswith(UNCOMPRESSED) else drop,
                    f"{find(rows, 'spread', case):.2f}",
                    *(f"{find(rows, key, case) / 1e6:.3f}" for key in ("bytes_up", "bytes_down")),
                    *("" if math.isnan(ratio) else f"{ratio:.2f}" for ratio in ratios),
                )
            )
        factors = [row for row in rows if row.metric.startswith("factor of") and row.case.startswith(f"{setting}: ")]
        said = "; ".join(f"{row.metric.removeprefix('factor of ')} x{row.value:.2f}" for row in factors)
        parts.append(f"{setting}, {seeds:.0f} paired seeds\n{aligned(head, lines)}\nfrom FedSZ to ours: {said}\n")
    return "\n".join(parts)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Accuracy drop against total bytes, one panel per federation."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from fedbound.report.plots import COLOURS, GREY, MARKERS

    settings_ = list(dict.fromkeys(row.case.split(": ")[0] for row in rows if row.metric == "bytes"))
    figure, axes = plt.subplots(
        1, len(settings_), figsize=(7 * len(settings_), 4.6), squeeze=False, layout="constrained"
    )
    for axis, setting in zip(axes[0], settings_, strict=True):
        names = [case.name for case in CASES if not math.isnan(find(rows, "bytes", f"{setting}: {case.name}"))]
        for index, name in enumerate(name for name in names if name != UNCOMPRESSED):
            case = f"{setting}: {name}"
            drop, upper = (find(rows, key, case, UNCOMPRESSED) for key in ("drop", "drop_upper"))
            axis.errorbar(
                find(rows, "bytes", case) / 1e6,
                drop,
                yerr=[[upper - drop], [upper - drop]],
                marker=MARKERS[index % len(MARKERS)],
                color=COLOURS[index % len(COLOURS)],
                markerfacecolor=None if index < len(COLOURS) else "white",
                linestyle="none",
                capsize=3,
                label=name,
            )
        axis.axvline(find(rows, "bytes", f"{setting}: {UNCOMPRESSED}") / 1e6, color=GREY, linestyle=":")
        axis.axhline(0, color=GREY, linewidth=0.8)
        axis.axhline(0.5, color=GREY, linewidth=0.8, linestyle="--")
        axis.set_xscale("log")
        axis.set_yscale("symlog", linthresh=1)
        axis.set_ylim(-0.5, 100)
        axis.set_yticks([0, 0.5, 1, 2, 5, 10, 20, 50], labels=["0", "0.5", "1", "2", "5", "10", "20", "50"])
        axis.set_xlabel("MB both ways, whole run (dotted: uncompressed)")
        axis.set_ylabel("accuracy drop, points, with 95 % limits (linear below 1)")
        axis.set_title(f"{setting}: what does the exchange cost, and what does it lose?")
    axes[0][-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.savefig(path, dpi=130)
    plt.close(figure)
