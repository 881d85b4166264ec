"""The simulate stage: a population's round time from measured costs, and the study's own run predicted and measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedbound import artifacts, schemas
from fedbound.artifacts import Artifact, Table
from fedbound.errors import InputError
from fedbound.simulation.driver import Result, simulate
from fedbound.simulation.validation import make_scheduler, validation
from fedbound.simulation.workload import check_match, population
from fedbound.study import SimulateScenario


def run(scenario: SimulateScenario, inputs: Mapping[str, Path]) -> Artifact:
    """Simulate one scenario.

    Args:
        scenario: the resolved scenario.
        inputs: "profile", an artifact of the profile stage, and "run", one of the train stage.

    Returns:
        Tables "rounds", "summary" (one row) and, where the scenario has as many clients as silos, "validation".

    Raises:
        InputError: an input is missing, or profile, run and scenario are not of one study.
    """
    profile, measured = _inputs(scenario, inputs)
    workload, star = population(profile, measured, scenario.simulation)
    scheduler = make_scheduler(scenario.simulation.scheduler, scenario.simulation.rounds, scenario.simulation.seed)
    started = time.perf_counter()
    result = simulate(workload, star, scheduler, scenario.simulation.engine)
    seconds = time.perf_counter() - started
    tables = {
        "rounds": _rounds(result),
        "summary": _summary(scenario, result, float(workload.up_bytes[0]), float(workload.down_bytes[0]), seconds),
    }
    if scenario.simulation.clients == scenario.silos:
        tables["validation"] = validation(profile, measured)
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


def _rounds(result: Result) -> Table:
    columns = schemas.SIMULATION_ROUNDS.fields
    return schemas.SIMULATION_ROUNDS.columns({key: [getattr(r, key) for r in result.rounds] for key in columns})


def _summary(
    scenario: SimulateScenario, result: Result, up_bytes: float, down_bytes: float, wall_seconds: float
) -> Table:
    simulation, exchange = scenario.simulation, scenario.exchange
    bound = exchange.bound
    row = {
        "clients": simulation.clients,
        "scheduler": simulation.scheduler["name"],
        "codec": exchange.codec["name"],
        "bound": "" if bound is None else f"{bound:g}" if isinstance(bound, float) else bound,
        "up_bytes": up_bytes,
        "down_bytes": down_bytes,
        "round_seconds": float(np.mean([r.seconds for r in result.rounds])) if result.rounds else float("nan"),
        "uplink_utilisation": result.uplink_utilisation,
        "downlink_utilisation": result.downlink_utilisation,
        "server_bandwidth": simulation.server_bandwidth,
        "client_bandwidth": simulation.client_bandwidth,
        "events": result.events,
        "engine": result.engine,
        "wall_seconds": wall_seconds,
    }
    return schemas.SIMULATION_SUMMARY.table([row])
