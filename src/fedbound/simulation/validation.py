"""The study's own MPI run: predicted from the profile, and measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fedbound import schemas
from fedbound.artifacts import Artifact, Table
from fedbound.federation import schedulers
from fedbound.federation.schedulers import Scheduler
from fedbound.simulation.blame import parts
from fedbound.simulation.driver import Result, simulate
from fedbound.simulation.platform import Star
from fedbound.simulation.workload import Workload, evaluate_every, silo_costs

if TYPE_CHECKING:
    import pandas as pd

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

    def predict(platform: Star) -> Result:
        scheduler = make_scheduler(training["scheduler"], training["rounds"], run.scenario["seed"])
        return simulate(workload, platform, scheduler)

    shared, free = predict(star), predict(dataclasses.replace(star, server_up=np.inf, server_down=np.inf))
    if make_scheduler(training["scheduler"], 1, 0).overlapping:
        # the run's records count from the last dispatch, so a silo's arrival has no counterpart
        predicted, alone = (result.seconds / max(1, len(result.rounds)) for result in (shared, free))
        interval = _compared(_INTERVAL, predicted, alone, _mean_interval(run))
        return {"validation": schemas.SIMULATION_VALIDATION.table([interval])}
    rows = [_compared("round", _median_round(shared), _median_round(free), _measured(run))]
    for index, silo in enumerate(silo_costs(profile)["silo"]):
        predicted, alone = float(shared.arrivals[index]), float(free.arrivals[index])
        rows.append(_compared(f"arrival of silo {silo}", predicted, alone, _measured(run, silo)))
    # A silo that never trained has no arrival, on either side.
    return {
        "validation": schemas.SIMULATION_VALIDATION.table([row for row in rows if np.isfinite(row["error"])]),
        "validation_parts": parts(workload, shared, run),
    }


def deployment(profile: Artifact, run: Artifact) -> tuple[Workload, Star]:
    """The run's workload and network: each silo's profiled costs and link, and the run's own messages.

    One number is fitted, on the profile alone: what a silo's round costs beyond training, evaluating and encoding.
    """
    workload, star = _silos(profile, run["silos"].rename(columns={"bytes_up": "up_bytes", "bytes_down": "down_bytes"}))
    # Medians are compared, and the median round has an evaluation only if every round has.
    evaluate = workload.evaluate_seconds if evaluate_every(run) == 1 else 0.0
    workload = dataclasses.replace(workload, evaluate_seconds=evaluate, other_seconds=silo_overhead(profile))
    return workload, star


def silo_overhead(profile: Artifact) -> float:
    """Seconds by which the profile's own rounds exceed their simulation: loading, packing, sharing the cores."""
    workload, star = _silos(profile, profile["silos"])
    work = workload.train_seconds + workload.evaluate_seconds + workload.encode_seconds
    folding = len(workload) * (workload.decode_seconds + workload.aggregate_seconds)
    measured = work.max() + float(profile["server"].iloc[0]["round_overhead_seconds"]) + folding
    return max(0.0, measured - simulate(workload, star, schedulers.get("sync", rounds=1)).rounds[0].seconds)


def _silos(profile: Artifact, messages: pd.DataFrame) -> tuple[Workload, Star]:
    """Silos as profiled, with the mean sizes of `messages` (columns silo, up_bytes, down_bytes).

    On one machine there is no TCP, and every message is copied by the server's process: the server's link is as fast
    as the fastest silo's, and all share it alike.
    """
    costs, server = silo_costs(profile), profile["server"].iloc[0]
    sizes = messages.groupby("silo")[["up_bytes", "down_bytes"]].mean().reindex(costs["silo"])
    # A silo that a sampling scheduler never picked has no messages; it is as good as any.
    sizes = sizes.fillna(sizes.mean())
    workload = Workload(
        train_seconds=_array(costs, "train_seconds"),
        encode_seconds=_array(costs, "encode_seconds"),
        evaluate_seconds=_array(costs, "evaluate_seconds"),
        up_bytes=_array(sizes, "up_bytes"),
        down_bytes=_array(sizes, "down_bytes"),
        decode_seconds=costs["decode_seconds"].mean(),
        aggregate_seconds=float(server["aggregate_seconds"]),
        message_seconds=float(server["message_seconds"]),
        steps=costs["steps"].mean(),
        load_seconds=_array(costs, "model_seconds"),
        downlink_seconds=float(server["downlink_seconds"]),
    )
    bandwidth = _array(costs, "bandwidth")
    fastest = float(bandwidth.max())
    latency = np.maximum(_array(costs, "latency"), 0)  # a fitted line may cross below zero
    star = Star(
        fastest, fastest, bandwidth, latency, goodput_factor=1, latency_factor=1, weight_s=None, tcp_gamma=np.inf
    )
    return workload, star


def _array(frame: pd.DataFrame, column: str) -> np.ndarray:
    return frame[column].to_numpy(np.float64)


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
