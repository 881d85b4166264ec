"""The study's own MPI run: predicted from the profile, and measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedbound import schemas
from fedbound.artifacts import Artifact, Table
from fedbound.federation import schedulers
from fedbound.federation.schedulers import Scheduler
from fedbound.simulation.blame import parts
from fedbound.simulation.deployment import alone as without_contention
from fedbound.simulation.deployment import deployment
from fedbound.simulation.driver import Result, simulate
from fedbound.simulation.platform import Star
from fedbound.simulation.workload import Workload, silo_costs

_INTERVAL = "time between aggregations"


def validation(profile: Artifact, run: Artifact) -> dict[str, Table]:
    """Predict the measured run from its profile, by its own scheduler, and set the two side by side.

    The fluid engine does it whatever the scenario's engine is: SimGrid's TCP model has no place on one machine.

    Returns:
        "validation", a table SIMULATION_VALIDATION: the round, and each silo's arrival where it has one; where the
        scheduler lets tasks overlap, and so has no rounds, the mean time from one aggregation to the next. With rounds
        also "validation_parts", a table SIMULATION_PARTS that tells where an error comes from.
    """
    workload, star = deployment(profile, run)
    training = run.scenario["training"]

    def predict(work: Workload, platform: Star) -> Result:
        scheduler = make_scheduler(training["scheduler"], training["rounds"], run.scenario["seed"])
        return simulate(work, platform, scheduler)

    shared, free = predict(workload, star), predict(*without_contention(workload, star))
    if make_scheduler(training["scheduler"], 1, 0).overlapping:
        # the run's records count from the last dispatch, so a silo's arrival has no counterpart
        predicted, alone = (result.seconds / max(1, len(result.rounds)) for result in (shared, free))
        interval = _compared(_INTERVAL, predicted, alone, _mean_interval(run))
        return {"validation": schemas.SIMULATION_VALIDATION.table([interval])}
    rows = [_compared("round", _median_round(shared), _median_round(free), _measured(run))]
    for index, silo in enumerate(silo_costs(profile)["silo"]):
        # the server hears of an update when it has unpacked it
        taken = workload.message_seconds + workload.message_byte_seconds * workload.up_bytes[index]
        predicted, alone = (float(result.arrivals[index] + taken) for result in (shared, free))
        rows.append(_compared(f"arrival of silo {silo}", predicted, alone, _measured(run, silo)))
    # A silo that never trained has no arrival, on either side.
    return {
        "validation": schemas.SIMULATION_VALIDATION.table([row for row in rows if np.isfinite(row["error"])]),
        "validation_parts": parts(workload, shared, run),
    }


def make_scheduler(choice: Mapping[str, Any], rounds: int, seed: int) -> Scheduler:
    """The federation's scheduler of a normalised choice `{"name": ..., **options}`."""
    options = dict(choice)
    return schedulers.get(options.pop("name"), rounds=rounds, seed=seed, **options)


def _median_round(result: Result) -> float:
    return float(np.median(result.rounds.column("seconds")))


def _compared(quantity: str, predicted: float, no_contention: float, measured: float) -> dict[str, Any]:
    return {
        "quantity": quantity,
        "predicted": predicted,
        "measured": measured,
        "error": (predicted - measured) / measured,
        "no_contention": no_contention,
    }


def _mean_interval(run: Artifact) -> float:
    """Mean seconds from one aggregation to the next, from the first dispatch on; row 0 is the initial model."""
    rows = run["rounds"]
    return float(rows["seconds"][rows["round"] >= 1].mean())


def _measured(run: Artifact, silo: int | None = None) -> float:
    """Median round time, or median arrival of one silo; the first round pays for warming up and is left out."""
    rows, column = (run["rounds"], "seconds") if silo is None else (run["silos"], "arrival_seconds")
    rows = rows[rows["round"] >= min(2, rows["round"].max())]
    if silo is not None:
        rows = rows[rows["silo"] == silo]
    return float(rows[column].median())
