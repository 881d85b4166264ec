"""The federation that was measured, as a workload and a network: its silos, its machine's cores, its links."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from fedbound.artifacts import Artifact
from fedbound.errors import InputError
from fedbound.federation import schedulers
from fedbound.simulation.cores import Cores
from fedbound.simulation.driver import simulate
from fedbound.simulation.platform import Star
from fedbound.simulation.workload import Workload, evaluate_every, silo_costs

if TYPE_CHECKING:
    import pandas as pd


def deployment(profile: Artifact, run: Artifact) -> tuple[Workload, Star]:
    """The run's workload and network: each silo's costs alone, the cores that ranks share, links, the run's messages.

    One number is fitted, on the profile alone: what a round costs beyond all that was measured of it.
    """
    messages = run["silos"].rename(columns={"bytes_up": "up_bytes", "bytes_down": "down_bytes"})
    workload, star = silos(profile, messages)
    # Medians are compared, and the median round has an evaluation only if every round has.
    evaluate = workload.evaluate_seconds if evaluate_every(run) == 1 else 0.0
    other = workload.other_seconds + unexplained(profile)
    return dataclasses.replace(workload, evaluate_seconds=evaluate, other_seconds=other), star


def alone(workload: Workload, star: Star) -> tuple[Workload, Star]:
    """The same without contention: nobody shares cores or the server's link."""
    return (
        dataclasses.replace(workload, cores=None),
        dataclasses.replace(star, server_up=np.inf, server_down=np.inf),
    )


def unexplained(profile: Artifact) -> float:
    """Seconds by which the profile's own rounds exceed their simulation."""
    workload, star = silos(profile, profile["silos"])
    measured = float(profile["server"].iloc[0]["round_seconds"])
    return max(0.0, measured - simulate(workload, star, schedulers.get("sync", rounds=1)).rounds[0].seconds)


def silos(profile: Artifact, messages: pd.DataFrame) -> tuple[Workload, Star]:
    """Silos as profiled, with the mean sizes of `messages` (columns silo, up_bytes, down_bytes).

    What a silo computes is taken from where it worked alone, and its node's slowdown makes it longer where others work
    beside it. Decoding the model was measured in rounds only, where all silos of a node do it at once. There is no TCP
    model here: all share the server's link alike, and it carries what it did when all silos were sent to at once.
    """
    costs, server = silo_costs(profile), profile["server"].iloc[0]
    sizes = messages.groupby("silo")[["up_bytes", "down_bytes"]].mean().reindex(costs["silo"])
    # A silo that a sampling scheduler never picked has no messages; it is as good as any.
    sizes = sizes.fillna(sizes.mean())
    cores = shared_cores(profile)
    beside = np.bincount(cores.node)[cores.node]
    crowded = np.array([cores.factor(node, working) for node, working in zip(cores.node, beside, strict=True)])
    workload = Workload(
        train_seconds=_array(costs, "alone_seconds"),
        encode_seconds=_array(costs, "alone_encode_seconds"),
        evaluate_seconds=_array(costs, "alone_evaluate_seconds"),
        up_bytes=_array(sizes, "up_bytes"),
        down_bytes=_array(sizes, "down_bytes"),
        decode_seconds=costs["decode_seconds"].mean(),
        aggregate_seconds=float(server["aggregate_seconds"]),
        message_seconds=float(server["message_seconds"]),
        message_byte_seconds=float(server["message_byte_seconds"]),
        steps=costs["steps"].mean(),
        other_seconds=_array(costs, "other_seconds"),
        load_seconds=_array(costs, "model_seconds") / crowded,
        downlink_seconds=float(server["downlink_seconds"]),
        cores=cores,
    )
    capacity = float(server["bandwidth"])
    star = Star(
        capacity,
        capacity,
        _array(costs, "bandwidth"),
        _array(costs, "latency"),
        goodput_factor=1,
        latency_factor=1,
        weight_s=None,
        tcp_gamma=np.inf,
    )
    return workload, star


def shared_cores(profile: Artifact) -> Cores:
    """How much longer the silos' work took in the profile when more ranks of their node were at it.

    The slowdown is the mean time of local training, evaluating and encoding over that of a rank alone; between the
    numbers of ranks that were tried it is interpolated, and it never falls. A node that was not measured is like the
    one that was: nodes of one type are measured once.

    Raises:
        InputError: the profile has no such measurement.
    """
    nodes = silo_costs(profile)["node"].to_numpy(np.int64)
    shared = profile["sharing"]
    shared = shared[shared["kind"] == "shared"]
    if shared.empty:
        raise InputError("the profile has no times of ranks beside each other; profile again")
    curves = {node: _curve(rows) for node, rows in shared.groupby("node")}
    types = profile["nodes"].groupby("node")["type"].first().to_dict()
    like = {types.get(node): curve for node, curve in curves.items()}
    other = next(iter(curves.values()))
    return Cores(nodes, tuple(like.get(types.get(node), other) for node in range(int(nodes.max()) + 1)))


def _curve(rows: pd.DataFrame) -> np.ndarray:
    work = rows[["train_seconds", "evaluate_seconds", "encode_seconds"]].sum(axis=1)
    means = work.groupby(rows["working"]).mean()
    tried = means.index.to_numpy(np.float64)
    factors = np.interp(np.arange(1, tried.max() + 1), tried, means.to_numpy() / means.iloc[0])
    curve: np.ndarray = np.maximum(np.maximum.accumulate(factors), 1.0)
    return curve


def _array(frame: pd.DataFrame, column: str) -> np.ndarray:
    return frame[column].to_numpy(np.float64)
