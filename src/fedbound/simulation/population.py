"""The population and network that are simulated: drawn around what was measured, as the study wants them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedbound.artifacts import Artifact, files_digest
from fedbound.errors import InputError
from fedbound.simulation import traces
from fedbound.simulation.availability import Availability, Churn
from fedbound.simulation.platform import Star
from fedbound.simulation.traces import MEGABIT
from fedbound.simulation.workload import Workload, evaluate_every, silo_costs, variation

if TYPE_CHECKING:
    from fedbound.study import Simulation


def population(profile: Artifact, run: Artifact, simulation: Simulation) -> tuple[Workload, Star]:
    """Draw `simulation.clients` clients around the profiled silos.

    Training time is the median over silos of their profiled time alone on their node, times `compute_scale`, times
    lognormal(0, compute_spread); bandwidth is `client_bandwidth` times lognormal(0, bandwidth_spread). All training
    times are drawn first, then all bandwidths, then the stragglers, if any, their factors and the latencies; a table
    of devices replaces what it says. From task to task the time varies as that of the profiled silos did from round to
    round. Payloads are the run's mean messages, in whole bytes (SimGrid moves no fractions). `override` replaces any of
    it.

    Raises:
        InputError: a file has changed since the study was planned, or cannot be read.
    """
    check_files(simulation)
    count = simulation.clients
    workload = measured(profile, run, count, simulation)
    draw = np.random.default_rng(simulation.seed)
    train = draw.lognormal(0, simulation.compute_spread, count)
    train *= workload.train_seconds * simulation.compute_scale
    bandwidth = draw.lognormal(0, simulation.bandwidth_spread, count)
    bandwidth *= simulation.client_bandwidth * MEGABIT
    factors = _straggling(simulation, draw)
    latency = np.full(count, simulation.latency)
    if simulation.latency_spread:
        latency *= draw.lognormal(0, simulation.latency_spread, count)
    if simulation.devices is not None:
        devices = traces.devices(simulation.devices)
        rows = devices.rows(count, np.random.default_rng([simulation.seed, 1]))
        bandwidth = bandwidth if devices.bandwidth is None else devices.bandwidth[rows]
        latency = latency if devices.latency is None else devices.latency[rows]
        if devices.speed is not None:
            train = workload.train_seconds * simulation.compute_scale / devices.speed[rows]
        if devices.train_seconds is not None:
            train = devices.train_seconds[rows]
    return dataclasses.replace(workload, train_seconds=train * factors), _star(simulation, bandwidth, latency)


def measured(profile: Artifact, run: Artifact, count: int, simulation: Simulation) -> Workload:
    """`count` equal clients with the costs of the profile and the messages of the run, or what `override` says.

    Clients have machines of their own, so what silos did alone on their node counts.
    """
    costs, server = silo_costs(profile), profile["server"].iloc[0]
    silos = run["silos"]
    found = {
        "train_seconds": costs["alone_seconds"].median(),
        "encode_seconds": costs["alone_encode_seconds"].median(),
        "evaluate_seconds": costs["alone_evaluate_seconds"].median() / evaluate_every(run),
        "other_seconds": 0.0,
        "model_seconds": costs["model_seconds"].median(),
        "up_bytes": round(silos["bytes_up"].mean()),
        "down_bytes": round(silos["bytes_down"].mean()),
        "decode_seconds": costs["decode_seconds"].median(),
        "aggregate_seconds": float(server["aggregate_seconds"]),
        "message_seconds": float(server["message_seconds"]),
        "message_byte_seconds": float(server["message_byte_seconds"]),
        "steps": costs["steps"].mean(),
        "downlink_seconds": float(server["downlink_seconds"]),
    }
    override = simulation.override.model_dump(exclude_none=True)
    found |= {key: value for key, value in override.items() if key in found}
    found["load_seconds"] = found.pop("model_seconds")
    found["train_seconds"] = np.full(count, found["train_seconds"])
    return Workload(**found, variation=variation(profile), seed=simulation.seed)


def _straggling(simulation: Simulation, draw: np.random.Generator) -> np.ndarray:
    """(n,) float64: what each client's training time is multiplied by."""
    count = simulation.clients
    slow = np.zeros(count, bool)
    if simulation.stragglers:
        slow[draw.permutation(count)[: round(simulation.stragglers * count)]] = True
    if simulation.straggler_clients is not None:
        slow[traces.clients_of(simulation.straggler_clients, count)] = True
    factors = np.where(slow, simulation.straggler_factor, 1.0)
    if simulation.straggler_spread and slow.any():
        factors[slow] *= draw.lognormal(0, simulation.straggler_spread, int(slow.sum()))
    return factors


def _star(simulation: Simulation, bandwidth: np.ndarray, latency: np.ndarray) -> Star:
    # A platform file has links of its own.
    capacity = np.inf if simulation.engine.get("platform") else simulation.server_bandwidth * MEGABIT
    constants = ("goodput_factor", "latency_factor", "weight_s", "tcp_gamma")
    star = Star(
        capacity,
        capacity,
        bandwidth,
        latency,
        slots=simulation.slots,
        **simulation.override.model_dump(include=set(constants), exclude_none=True),
    )
    if simulation.bandwidth_trace is not None:
        star = dataclasses.replace(star, changes=traces.bandwidths(simulation.bandwidth_trace, len(star)))
    if simulation.sites:  # clients are dealt out to the sites in turn
        links = np.full(simulation.sites, simulation.site_bandwidth * MEGABIT)
        star = dataclasses.replace(star, sites=np.arange(len(star)) % simulation.sites, site_bandwidth=links)
    return star


def availability(simulation: Simulation) -> Availability | None:
    """When clients are away: as in the trace, drawn, or never."""
    if simulation.absence_trace is not None:
        return traces.absences(simulation.absence_trace, simulation.clients)
    if simulation.present is None:
        return None
    return Churn(simulation.present, simulation.absent, simulation.seed)


def check_files(simulation: Simulation) -> None:
    """Refuse files that are not those of the plan.

    Raises:
        InputError: one has changed since.
    """
    names = files(simulation)
    if names and files_digest(names) != simulation.files_digest:
        raise InputError(f"simulation: {' or '.join(names)} has changed since the study was planned; plan it again")


def files(simulation: Simulation) -> Sequence[str]:
    """Paths of the files that a simulation reads."""
    return [path for path in (simulation.devices, simulation.bandwidth_trace, simulation.absence_trace) if path]
