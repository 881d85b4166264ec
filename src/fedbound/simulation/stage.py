"""The simulate stage: a population's round time from measured costs, and the study's own run predicted and measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedbound import artifacts, schemas
from fedbound.artifacts import Artifact, Table
from fedbound.errors import InputError
from fedbound.simulation.driver import LOGGED, Result, simulate
from fedbound.simulation.population import availability, population
from fedbound.simulation.target import break_even, epochs_to, raw_both_ways, raw_bytes
from fedbound.simulation.validation import make_scheduler, validation
from fedbound.simulation.workload import Workload, check_match
from fedbound.study import SimulateScenario, Simulation


def run(scenario: SimulateScenario, inputs: Mapping[str, Path]) -> Artifact:
    """Simulate one scenario.

    Args:
        scenario: the resolved scenario.
        inputs: "profile", an artifact of the profile stage, and "run", one of the train stage.

    Returns:
        Tables "rounds", "summary" (one row), "timeline", "events" where they are wanted and, where the scenario has as
        many clients as silos, "validation" and, where its run has rounds, "validation_parts".

    Raises:
        InputError: an input is missing, or profile, run and scenario are not of one study.
    """
    profile, measured = _inputs(scenario, inputs)
    workload, star = population(profile, measured, scenario.simulation)
    started = time.perf_counter()
    result = simulate(workload, star, **_course(scenario.simulation))
    seconds = time.perf_counter() - started
    tables = {
        "rounds": _rounds(result),
        "summary": _summary(scenario, measured, workload, result, seconds),
        "timeline": _timeline(result),
    }
    if scenario.simulation.events:
        tables["events"] = _events(result)
    if scenario.simulation.clients == scenario.silos:
        tables |= validation(profile, measured)
    return Artifact(
        "simulate",
        scenario.study,
        scenario.model_dump(mode="json"),
        scenario.simulation.seed,
        tables,
        {"profile": profile.content_digest(), "run": measured.content_digest()},
        artifacts.stamp(),
    )


def _inputs(scenario: SimulateScenario, inputs: Mapping[str, Path]) -> tuple[Artifact, Artifact]:
    for name in ("profile", "run"):
        if name not in inputs:
            raise InputError(f"simulate needs the input {name!r}; give it with --input {name}=FILE")
    profile, measured = artifacts.read(inputs["profile"], "profile"), artifacts.read(inputs["run"], "train")
    if "sharing" not in profile.tables:
        raise InputError(
            f"{inputs['profile']} was measured by an earlier fedbound, which did not time silos alone and beside each "
            "other; delete it, and profile again"
        )
    check_match(profile, measured)
    silos = measured.scenario["data"]["silos"]
    if silos != scenario.silos:
        raise InputError(f"the run {inputs['run']} has {silos} silos where the scenario has {scenario.silos}")
    theirs, ours = measured.scenario["exchange"], scenario.exchange.model_dump(mode="json")
    different = [key for key in ours if theirs.get(key) != ours[key]]
    if different:
        key = different[0]
        raise InputError(
            f"the run {inputs['run']} was made with exchange.{key} {theirs.get(key)!r} where the scenario has "
            f"{ours[key]!r}; give the scenario's own run"
        )
    return profile, measured


def _course(simulation: Simulation) -> dict[str, Any]:
    """Scheduler, engine, absences, and when to stop: sync has rounds, the others are given as much work."""
    work = None if simulation.scheduler["name"] == "sync" else simulation.rounds * simulation.clients
    most = _MOST_AGGREGATIONS * work if work else simulation.rounds
    return {
        "scheduler": make_scheduler(simulation.scheduler, most, simulation.seed),
        "engine": simulation.engine,
        "log": simulation.events,
        "availability": availability(simulation),
        "work": work,
    }


_MOST_AGGREGATIONS = 1000  # for each task of work: compass may give tasks of few steps


def _rounds(result: Result) -> Table:
    columns = schemas.SIMULATION_ROUNDS.fields
    return schemas.SIMULATION_ROUNDS.columns({key: result.rounds.column(key) for key in columns})


def _events(result: Result) -> Table:
    names = np.array(LOGGED)[result.log[:, 1].astype(int)].tolist()
    clients = result.log[:, 2].astype(np.int64)
    return schemas.SIMULATION_EVENTS.columns({"time": result.log[:, 0], "event": names, "client": clients})


def _timeline(result: Result) -> Table:
    """The last tasks of some clients, in the order of their arrival."""
    arrived = np.flatnonzero(~np.isnan(result.arrivals))
    order = arrived[np.argsort(result.tasks[arrived, 3], kind="stable")]
    shown = order[np.linspace(0, len(order) - 1, min(_SHOWN, len(order))).round().astype(int)] if len(order) else order
    keys = ("dispatched", "downloaded", "computed", "arrived")
    times = {key: result.tasks[shown, index] for index, key in enumerate(keys)}
    return schemas.SIMULATION_TIMELINE.columns({"client": shown.tolist(), **{k: v.tolist() for k, v in times.items()}})


_SHOWN = 60  # clients of the timeline


def _summary(
    scenario: SimulateScenario, run: Artifact, workload: Workload, result: Result, wall_seconds: float
) -> Table:
    simulation, exchange = scenario.simulation, scenario.exchange
    bound = exchange.bound
    folded = result.rounds.column("clients")
    updates = int(folded.sum())
    work = float(result.rounds.column("work").sum())
    epoch = result.seconds * simulation.clients / work if work else float("nan")
    target = simulation.target or 0.99 * float(run["rounds"]["accuracy"].max())
    epochs = epochs_to(run, target)
    row = {
        "clients": simulation.clients,
        "scheduler": simulation.scheduler["name"],
        "codec": exchange.codec["name"],
        "bound": "" if bound is None else f"{bound:g}" if isinstance(bound, float) else bound,
        "up_bytes": float(workload.up_bytes[0]),
        "down_bytes": float(workload.down_bytes[0]),
        "raw_bytes": raw_bytes(run),
        "round_seconds": float(result.rounds.column("seconds").mean()) if result.rounds else float("nan"),
        "epoch_seconds": epoch,
        "updates": updates,
        "update_rate": updates / result.seconds if result.seconds else float("nan"),
        "staleness": float(np.average(result.rounds.column("staleness"), weights=folded)) if updates else 0.0,
        "target": target,
        "target_epochs": epochs,
        "target_seconds": epochs * epoch,
        "curve": run.scenario["training"]["scheduler"]["name"],
        "break_even": break_even(workload, raw_both_ways(run)),
        "uplink_utilisation": result.uplink_utilisation,
        "downlink_utilisation": result.downlink_utilisation,
        "server_utilisation": result.server_utilisation,
        "client_utilisation": result.client_utilisation,
        "departures": result.departures,
        "server_bandwidth": simulation.server_bandwidth,
        "client_bandwidth": simulation.client_bandwidth,
        "events": result.events,
        "engine": result.engine,
        "wall_seconds": wall_seconds,
    }
    return schemas.SIMULATION_SUMMARY.table([row])
